"""What replicas must know of a session of the era of handshakes at `/mcp`: that it is over, and what it subscribed to.

A thief of the store learns nothing of it but how many there are; a writer of it can take a subscription away, or let an ended
session go on, for which its owner's credential is needed all the same.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from gateway.mcp.errors import INVALID_PARAMS, RpcRefused
from gateway.mcp.sealed import LIFETIME, Purpose, Sealed, UnknownValueError
from gateway.model import Clock, Principal, Refused
from gateway.reasons import Code
from policies import uri as uris

SUBSCRIPTIONS: Final = 256
"""Of one session."""
FRESH_SECONDS = 5.0
"""How long what was read counts, where nobody says that it has changed."""
_REMEMBERED: Final = 4096
_TRIES: Final = 16


class Note(msgspec.Struct, frozen=True, gc=False):
    """Of one session: whether it is over, and (server, address) of what it subscribed to."""

    over: bool = False
    uris: tuple[tuple[str, str], ...] = ()

    def of(self, server: str) -> tuple[str, ...]:
        """What it subscribed to at one server."""
        return tuple(uri for each, uri in self.uris if each == server)


class Shared(Protocol):
    """What replicas share: places that hold something until a moment (epoch seconds), by a digest that says nothing."""

    async def read(self, digest: str, now: int) -> tuple[bytes, int] | None:
        """What a place holds; None where it is empty."""

    async def put(self, digest: str, before: bytes | None, sealed: bytes, until: int, now: int) -> bool:
        """Put something in it; False where it does not hold `before` any more (None: nothing)."""


def _nobody() -> None:
    """Where no other replica could be told."""


class Known:
    """Reads and changes notes.  `tell` has other replicas look at once."""

    def __init__(self, shared: Shared, sealed: Sealed, clock: Clock) -> None:
        self._shared = shared
        self._sealed = sealed
        self._clock = clock
        self._read: OrderedDict[str, tuple[Note, float]] = OrderedDict()
        self.tell: Callable[[], None] = _nobody

    def forget(self) -> None:
        """Something may have changed at another replica."""
        self._read.clear()

    async def of(self, session: str, principal: Principal) -> Note:
        """What is known of this session of this principal."""
        digest, now = _digest(session), asyncio.get_running_loop().time()
        note, until = self._read.get(digest, (None, 0.0))
        if note is None or until < now:
            note = (await self._stored(digest, principal))[0]
            self._remember(digest, note)
        return note

    async def change(self, session: str, principal: Principal, how: Callable[[Note], Note]) -> Note:
        """What is known from now on, on every replica; durable on return."""
        digest = _digest(session)
        for _ in range(_TRIES):
            before, raw = await self._stored(digest, principal)
            note = how(before)
            if note == before:
                return note
            inner = [note.over, note.uris]
            text = self._sealed.seal(Purpose.NOTE, inner, server="", principal=principal, bound=digest)
            now = self._clock() // 1_000_000
            if await self._shared.put(digest, raw, text.encode(), now + LIFETIME[Purpose.NOTE], now):
                self._remember(digest, note)
                self.tell()
                return note
        raise Refused(Code.OVERLOADED, "the session changes too fast")

    async def _stored(self, digest: str, principal: Principal) -> tuple[Note, bytes | None]:
        held = await self._shared.read(digest, self._clock() // 1_000_000)
        if held is None:
            return Note(), None
        try:
            over, uris = self._sealed.open(
                Purpose.NOTE, held[0].decode("ascii", "replace"), server="", principal=principal, bound=digest
            )
        except UnknownValueError:  # somebody wrote there who could not: nothing of the session counts any more
            return Note(over=True), held[0]
        return Note(over, tuple((server, uri) for server, uri in uris)), held[0]

    def _remember(self, digest: str, note: Note) -> None:
        self._read[digest] = note, asyncio.get_running_loop().time() + FRESH_SECONDS
        self._read.move_to_end(digest)
        while len(self._read) > _REMEMBERED:
            self._read.popitem(last=False)


def subscribing(server: str, uri: str) -> Callable[[Note], Note]:
    """A session that subscribed to this as well; `RpcRefused` where that is too much."""

    def how(note: Note) -> Note:
        if (server, uri) in note.uris:
            return note
        if len(note.uris) >= SUBSCRIPTIONS:
            raise RpcRefused(Code.INVALID_PARAMS, "too many subscriptions", rpc_code=INVALID_PARAMS)
        return Note(note.over, (*note.uris, (server, uri)))

    return how


def unsubscribing(server: str, uri: str) -> Callable[[Note], Note]:
    """One that did so no more, in whatever spelling."""
    form = uris.form_of(uri)
    return lambda note: Note(note.over, tuple((s, u) for s, u in note.uris if s != server or uris.form_of(u) != form))


def ending(_note: Note) -> Note:
    """One that is over."""
    return Note(over=True)


def _digest(session: str) -> str:
    return hashlib.sha256(b"session at /mcp " + session.encode()).hexdigest()
