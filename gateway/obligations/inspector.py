"""Who carries `inspect` out: beside the event loop where it takes time, by as many workers and for as long as settings say.

What a duty blanks in an answer is blanked here, too, where that takes time; a road's `filter` does it where this did not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

import orjson
from msgspec.structs import replace

from gateway.model import Permit, Refused, Reply
from gateway.obligations import blank, guards, personal
from gateway.obligations.blank import FLAG, FLAG_GUARD, GUARD, REFUSED, is_beside, is_slow
from gateway.obligations.duty import fulfilled, impossible, terms
from gateway.obligations.guards import Guards, Verdict
from gateway.obligations.inspect import looked_at, read
from gateway.reasons import Code
from policies.model import Obligation

_SMALL: Final = 16 * 1024
"""What is larger is searched beside the event loop."""
_MOST_WAITING: Final = 64
T = TypeVar("T")


class Face(Protocol):
    """One protocol's reading of answers."""

    def searched(self, reply: Reply, permit: Permit, entries: frozenset[str]) -> Reply:
        """The reply without these; of a failure no words.  Runs in a thread."""

    def shown(self, reply: Reply) -> Any:
        """The answer as JSON; None where a reply has none."""

    def kept(self, reply: Reply) -> Reply:
        """The reply with what it says now as its original, unless it has one."""

    def told(self, reply: Reply, shown: Any, flags: Sequence[str]) -> Reply:
        """The reply with that in the answer's place, and what it is flagged for.  ValueError where that cannot be one."""


class Inspector:
    """Searches what is sent and what is answered, and asks guards."""

    def __init__(self, guards: Guards | None = None, *, workers: int = 2, seconds: float = 5.0) -> None:
        """`seconds` for each search; so many `workers` search at once, and others wait for them, but not without bounds."""
        self._guards = guards or Guards()
        self._seconds = seconds
        self._workers = workers
        self._pool: ThreadPoolExecutor | None = None
        self._waiting = 0

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    # --- what is sent

    async def fulfil(self, permit: Permit, obligation: Obligation) -> Permit:
        """`Refused(CONTENT_REFUSED)` where something is found in what was sent; the answer is searched as it comes."""
        found = terms(permit, obligation, read)
        if missing := self._guards.missing(found.guards):
            raise impossible(permit, obligation, f"the settings have no inspect.guards.{missing[:63]}")
        if found.arguments:
            if found.do == "redact":
                blanked = frozenset(each for each in found.entries if not is_beside(each))
                permit = replace(permit, redact_sent=permit.redact_sent | blanked)
            try:
                permit = await self._looked_for(permit, found.entries)
            except orjson.JSONDecodeError:
                raise impossible(permit, obligation, "what was sent cannot be searched") from None
            except Refused as refusal:
                refusal.decision = permit.decision
                raise
        return looked_at(permit, obligation) if found.results else fulfilled(permit, obligation)

    async def _looked_for(self, permit: Permit, entries: frozenset[str]) -> Permit:
        body = permit.call.arrival.body
        if not body:
            return permit
        sent, flags = orjson.loads(body), set(permit.flags)
        refused = frozenset(each for each in entries if each.startswith(REFUSED))
        slow = len(body) > _SMALL or any(map(is_slow, entries))
        if refused:
            await self._run(slow, blank.part, sent, refused)
        flags |= await self._run(slow, _flagged, sent, _names(entries, FLAG))
        for name, verdict in await self._asked(permit, "arguments", sent, _names(entries, GUARD, FLAG_GUARD)):
            if verdict.action == "allow":
                continue
            if FLAG_GUARD + name not in entries or GUARD + name in entries:
                raise Refused(Code.CONTENT_REFUSED, f"guard {name}", decision=permit.decision)  # it blanks answers alone
            flags.add(name)
        return replace(permit, flags=tuple(sorted(flags))) if flags else permit

    async def sent(self, permit: Permit, blanked: Callable[[Permit], Permit]) -> Permit:
        """The permit without what must not be sent, where to find that takes time; else as it is."""
        if permit.said is not None or not any(map(is_slow, permit.redact_sent)):
            return permit
        return await self._run(True, blanked, permit)

    # --- what is answered

    async def looked(self, reply: Reply, permit: Permit, face: Face) -> Reply:
        """The reply as it may be released, with what it is flagged for; untouched where `filter` does all there is at once."""
        entries = permit.redact
        beside = frozenset(each for each in entries if is_beside(each))
        if reply.payload is None or not (beside or permit.flags or any(map(is_slow, entries))):
            return reply
        searched = entries - beside
        if entries:
            reply = await self._run(any(map(is_slow, searched)), face.searched, reply, permit, searched)
        shown, flags = face.shown(reply), set(permit.flags)
        before = shown
        if shown is not None:
            shown, more = await self._judged(shown, permit, beside)
            flags |= more
            try:
                reply = face.told(face.kept(reply) if shown is not before else reply, shown, sorted(flags))
            except ValueError:
                raise Refused(Code.DUTY_FAILED, "what a guard left is no answer", decision=permit.decision) from None
        return replace(reply, looked=tuple(sorted(flags)))

    async def _judged(self, shown: Any, permit: Permit, beside: frozenset[str]) -> tuple[Any, set[str]]:
        names = _names(beside, FLAG)
        flags = await self._run(any(map(is_slow, beside)), _flagged, shown, names)
        for name, verdict in await self._asked(permit, "results", shown, _names(beside, GUARD, FLAG_GUARD)):
            if verdict.action == "redact":
                try:
                    shown = guards.without(shown, verdict.at)
                except ValueError as error:
                    raise Refused(Code.DUTY_FAILED, f"guard {name}: {error}", decision=permit.decision) from None
            elif verdict.action == "deny" and GUARD + name in beside:
                raise Refused(Code.CONTENT_REFUSED, f"guard {name}", decision=permit.decision)
            if verdict.action != "allow" and FLAG_GUARD + name in beside:
                flags.add(name)
        return shown, flags

    # --- how

    async def _asked(self, permit: Permit, direction: str, content: Any, names: Iterable[str]) -> list[tuple[str, Verdict]]:
        wanted = sorted(set(names))
        said = await asyncio.gather(*[self._guards.ask(name, permit, direction, content) for name in wanted])
        return list(zip(wanted, said, strict=True))

    async def _run(self, slow: bool, search: Callable[..., T], *said: Any) -> T:
        if not slow:
            return search(*said)
        if self._waiting >= _MOST_WAITING:
            raise Refused(Code.OVERLOADED, "too much waits to be searched")
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="inspect")
        loop = asyncio.get_running_loop()
        self._waiting += 1
        future = self._pool.submit(self._timed, search, *said)
        future.add_done_callback(lambda done: self._over(loop, done))
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(future, loop=loop)
        except TimeoutError:
            raise Refused(Code.DUTY_FAILED, "the search took too long") from None

    def _timed(self, search: Callable[..., T], *said: Any) -> T:
        personal.within(self._seconds)
        return search(*said)

    def _over(self, loop: asyncio.AbstractEventLoop, _done: Future[Any]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        self._waiting -= 1


def _names(entries: Iterable[str], *kinds: str) -> list[str]:
    return sorted({each.removeprefix(kind) for each in entries for kind in kinds if each.startswith(kind)})


def _flagged(content: Any, names: Iterable[str]) -> set[str]:
    """Those of the detectors that find something."""
    found = set()
    for name in names:
        try:
            blank.part(content, frozenset([REFUSED + name]))
        except Refused as refusal:
            if refusal.code is not Code.CONTENT_REFUSED:
                raise
            found.add(name)
    return found
