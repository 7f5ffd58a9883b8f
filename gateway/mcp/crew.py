"""The children of one configured command: started when they are needed, shared by whom they may be, ended when nobody uses them.

One that ends by itself fails what it was asked, and the next is started no sooner than its record of failures allows.
"""

from __future__ import annotations

import asyncio
import logging
import random
import weakref
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

from gateway.mcp.child import Child
from gateway.mcp.process import Started
from gateway.model import Intent, Principal, UpstreamError

log = logging.getLogger("gateway.mcp")

Era = Literal["auto", "modern", "legacy"]
Key = tuple[str, ...]
"""Whose a child is: those whose calls have the same key share it."""
Owner = tuple[str, str, tuple[str, ...]]
Start = Callable[[Intent], Awaitable[Started]]
"""Starts the server for this call; raises `UpstreamError` or `Refused`."""
SWEEP_SECONDS: Final = 30.0
UNHEALTHY: Final = 3
"""Failures in a row after which a server is told to be unhealthy."""


class Sharing(StrEnum):
    """Who shares a child."""

    SESSION = "session"
    PRINCIPAL = "principal"  # a person and the chain of agents
    PERSON = "person"  # whichever agent acts
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class Terms:
    """How one server's children are kept.

    era            that the server speaks; `auto` finds out.
    legacy, modern who shares a child of either era.
    silence        longest time in seconds without a word while a request waits; start_seconds: for the first answer.
    line_bytes     longest message that is read.
    keep_seconds   how long a child that nobody uses is kept.
    children       at most so many at once, of one principal at most `per_principal`; the longest unused one makes room.
    steady_seconds how long a child goes on before its failures are forgotten; first_wait, most_wait: before the next is started.
    """

    era: Era = "auto"
    legacy: Sharing = Sharing.PRINCIPAL
    modern: Sharing = Sharing.TENANT
    silence: float = 300.0
    start_seconds: float = 30.0
    line_bytes: int = 32 * 1024 * 1024
    keep_seconds: float = 600.0
    children: int = 64
    per_principal: int = 8
    steady_seconds: float = 60.0
    first_wait: float = 0.5
    most_wait: float = 30.0


class Backoff:
    """How often children of a key failed in a row, and when the next may be started: the first at once, later ones later."""

    _MOST: Final = 4096

    def __init__(self, terms: Terms, jitter: Callable[[], float] = random.random) -> None:
        self._terms = terms
        self._jitter = jitter
        self._failed: dict[Key, tuple[int, float, float]] = {}  # how often, when another may be tried, until when it counts

    def failed(self, key: Key, lived: float, now: float) -> int:
        """A child that lived so long ended by itself, or did not come up: how often in a row that was."""
        often, _, until = self._failed.pop(key, (0, 0.0, 0.0))
        often = 1 if lived >= self._terms.steady_seconds or now >= until else often + 1
        wait = 0.0 if often == 1 else min(self._terms.most_wait, self._terms.first_wait * 2 ** min(often - 2, 30))
        tried = now + wait * (0.5 + self._jitter() / 2)  # not everybody's at the same moment
        self._failed[key] = (often, tried, tried + max(self._terms.steady_seconds, 2 * self._terms.most_wait))
        if len(self._failed) > self._MOST:
            del self._failed[next(iter(self._failed))]
        return often

    def wait(self, key: Key, now: float) -> float:
        """Seconds until the next may be started."""
        return max(0.0, self._failed.get(key, (0, 0.0, 0.0))[1] - now)

    def has_failed(self, key: Key) -> bool:
        """Whether a failure of this key is remembered."""
        return key in self._failed

    def worst(self, now: float) -> int:
        """The most failures in a row of any key that still count."""
        for key in [key for key, (_, _, until) in self._failed.items() if now >= until]:
            del self._failed[key]
        return max((often for often, _, _ in self._failed.values()), default=0)


class Member:
    """One child and who uses it.

    streams   how many stand open for notices; somebody is there then.
    sessions  of the era of handshakes, by id; hello: what the server answered to the one handshake that it had, in `version`.
    """

    __slots__ = ("announced", "born", "child", "hello", "key", "opening", "owner", "sessions", "streams", "version")

    def __init__(self, child: Child, key: Key, owner: Owner | None, born: float) -> None:
        self.child = child
        self.key = key
        self.owner = owner
        self.born = born
        self.sessions: set[str] = set()
        self.streams = 0
        self.hello: dict[str, Any] | None = None
        self.version = ""
        self.announced = False
        self.opening = asyncio.Lock()


Greet = Callable[[Child], Awaitable[None]]


class Crew:
    """Starts, finds and ends them.  `left` is told of each that is no longer there, whatever the reason."""

    def __init__(self, name: str, start: Start, terms: Terms, left: Callable[[Member], None]) -> None:
        self._name = name
        self._start = start
        self._terms = terms
        self._left = left
        self._backoff = Backoff(terms)
        self._members: dict[Key, Member] = {}
        self._locks: weakref.WeakValueDictionary[Key, asyncio.Lock] = weakref.WeakValueDictionary()
        self._starting = 0
        self._stopping: dict[asyncio.Task[None], Key] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._closed = False
        self.starts = self.restarts = self.failures = 0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members.values()))

    @property
    def open(self) -> bool:
        """Whether children may still be started."""
        return not self._closed

    @property
    def healthy(self) -> bool:
        """Whether no key's children have failed again and again."""
        return self._backoff.worst(_now()) < UNHEALTHY

    def wait(self, key: Key) -> float:
        """Seconds until the next child of this key may be started."""
        return self._backoff.wait(key, _now())

    def get(self, key: Key) -> Member | None:
        """The child of this key that requests can be sent to."""
        member = self._members.get(key)
        return member if member is not None and member.child.alive else None

    async def member(self, key: Key, owner: Owner | None, intent: Intent, greet: Greet | None = None) -> Member:
        """The child of this key, started where there is none; `greet` must have succeeded before anybody uses a new one.

        What `greet` raises is raised, and is no failure of its own.  `UpstreamError` where there is none, or none so soon.
        `owner` None: of nobody's number.
        """
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            found = self.get(key)
            if found is not None:
                return found
            await self.gone(key)  # what it had to itself, as a folder, is free only then
            wait = self.wait(key)
            if wait or self._closed:
                raise UpstreamError("connect", f"the server ended again and again; it is started again in {wait:.1f} s")
            return await self._begun(key, owner, intent, greet)

    async def _begun(self, key: Key, owner: Owner | None, intent: Intent, greet: Greet | None) -> Member:
        self._make_room(owner)
        self._starting += 1
        try:
            started = await self._start(intent)
        except UpstreamError:
            self._failed(key, 0.0)
            raise
        finally:
            self._starting -= 1
        self.starts += 1
        self.restarts += self._backoff.has_failed(key)
        child = Child(started, self._name, silence=self._terms.silence, line_bytes=self._terms.line_bytes)
        member = self._members[key] = Member(child, key, owner, _now())
        self._sweep_on()
        try:
            if greet is not None:
                await greet(child)
        except BaseException:
            self.end(member)
            raise
        child.ended_by_itself = lambda: self._crashed(member)
        return member

    def did_not_come_up(self, key: Key) -> None:
        """A child of this key did not answer as it should: the next one waits the longer."""
        self._failed(key, 0.0)

    def end(self, member: Member) -> None:
        """Begin to end it: from now on it is not found."""
        if self._members.get(member.key) is member:
            del self._members[member.key]
        task = member.child.stop()
        if task not in self._stopping and not task.done():
            self._stopping[task] = member.key
            task.add_done_callback(self._stopped)
        self._left(member)

    def _stopped(self, task: asyncio.Task[None]) -> None:
        self._stopping.pop(task, None)

    def did_not_open(self, member: Member) -> None:
        """Its handshake failed: it ends, and that counts as a failure."""
        if self._members.get(member.key) is member:
            self._failed(member.key, 0.0)
        self.end(member)

    async def aclose(self) -> None:
        """End every child; returns when all are gone."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for member in self:
            self.end(member)
        while self._stopping:
            await asyncio.wait(set(self._stopping))

    async def make_way(self, key: Key) -> None:
        """End the child of this key, for another that cannot be there at the same time; `UpstreamError` while it has work."""
        member = self.get(key)
        if member is not None:
            self._evict([member])
        await self.gone(key)

    async def ended(self, which: Callable[[Key], bool]) -> None:
        """End those of these keys; returns when they are gone."""
        for member in self:
            if which(member.key):
                self.end(member)
        going = {task for task, key in self._stopping.items() if which(key)}
        if going:
            await asyncio.wait(going)

    async def gone(self, key: Key) -> None:
        """Until those of this key that end have ended."""
        going = {task for task, of in self._stopping.items() if of == key}
        if going:
            await asyncio.wait(going)

    def _crashed(self, member: Member) -> None:
        if self._members.get(member.key) is member:
            self._failed(member.key, _now() - member.born)
            self.end(member)

    def _failed(self, key: Key, lived: float) -> None:
        self.failures += 1
        often = self._backoff.failed(key, lived, _now())
        if often == UNHEALTHY:
            log.error("the server %s is unhealthy: it ended %d times in a row, and is tried ever more rarely", self._name, often)

    def _make_room(self, owner: Owner | None) -> None:
        self._reap()
        mine = [member for member in self if owner is not None and member.owner == owner]
        if len(mine) >= self._terms.per_principal:
            self._evict(mine)
        if len(self) + self._starting >= self._terms.children:
            self._evict(list(self))

    def _evict(self, among: list[Member]) -> None:
        idle = [member for member in among if not member.child.busy]
        if not idle:
            raise UpstreamError("connect", "as many children run as may")
        self.end(min(idle, key=lambda member: member.child.last_used))

    def _reap(self) -> None:
        """Forget children that ended by themselves, end those that nobody uses any more."""
        now = _now()
        for member in self:
            child = member.child
            if not child.alive or (not child.busy and not member.streams and now - child.last_used > self._terms.keep_seconds):
                self.end(member)

    def _sweep_on(self) -> None:
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        while self._members:
            await asyncio.sleep(min(self._terms.keep_seconds, SWEEP_SECONDS))
            self._reap()


def owner_of(principal: Principal) -> Owner:
    """Whose number of children counts."""
    return principal.tenant, principal.subject, principal.actors


def key_of(sharing: Sharing, principal: Principal, session: str = "") -> Key:
    """Of a child that is shared so; no two different owners have the same, whatever their names are."""
    person = ("person", principal.tenant, principal.subject)
    match sharing:
        case Sharing.TENANT:
            return ("tenant", principal.tenant)
        case Sharing.PERSON:
            return person
        case Sharing.PRINCIPAL:
            return ("principal", *person, *principal.actors)
        case Sharing.SESSION:
            return ("session", *person, *principal.actors, session)


def personal(key: Key) -> Key:
    """The person whose alone a child of this key is; nobody where it is a tenant's."""
    at = key.index("person") if "person" in key[:3] else -1  # behind the era, and what kind it is of
    return key[at + 2 : at + 3] if at >= 0 else ()


def _now() -> float:
    return asyncio.get_running_loop().time()
