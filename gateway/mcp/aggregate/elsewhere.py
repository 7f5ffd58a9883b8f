"""What reaches another replica than the one whose call waits: left, sealed, in the store that replicas share, taken there.

A thief of what is left learns nothing of it, and a writer can take an answer away, not make one: it opens for the one question.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

from gateway.mcp.aggregate.caller import Caller
from gateway.mcp.sealed import LIFETIME, Purpose, Sealed, UnknownValueError
from gateway.model import Clock, Refused

POLL_SECONDS = 5.0
"""How long an answer waits where nobody is told of it."""
LONGEST: Final = 256 * 1024
"""Characters of an answer, sealed, that can be left."""


class Shared(Protocol):
    """What replicas share: things that are good once until a moment (epoch seconds), by a digest that says nothing."""

    async def leave(self, digest: str, sealed: bytes, until: int, now: int) -> bool:
        """Leave one; False where one is there already."""

    async def take_all(self, digests: Iterable[str], now: int) -> Mapping[str, bytes]:
        """Those of these that are there, each for the only one who ever gets it."""


class Elsewhere:
    """Leaves answers for other replicas, and takes those that were left for this one.  `tell` has the others look at once."""

    def __init__(self, shared: Shared, sealed: Sealed, clock: Clock) -> None:
        self._shared = shared
        self._sealed = sealed
        self._clock = clock
        self._looking: set[asyncio.Event] = set()
        self.tell: Callable[[], None] = _nobody

    def wake(self) -> None:
        """Something may have been left."""
        for woken in self._looking:
            woken.set()

    async def leave(self, caller: Caller, server: str, known: str, said: Any) -> bool:
        """Whether this answer (any JSON) could be left for the question's own replica."""
        text = self._sealed.seal(Purpose.ANSWER, said, server=server, principal=caller.principal, bound=known)
        now = self._clock() // 1_000_000
        if len(text) > LONGEST or not await self._shared.leave(
            _digest(known), text.encode(), now + LIFETIME[Purpose.ANSWER], now
        ):
            return False
        self.tell()
        return True

    async def found(self, waiting: Mapping[str, tuple[Caller, str]]) -> dict[str, Any]:
        """What was left for these questions, of this caller at this server each, once something is there or some time is over."""
        woken = asyncio.Event()
        self._looking.add(woken)
        try:
            found = await self._now(waiting)
            if not found:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await woken.wait()
        finally:
            self._looking.discard(woken)
        return found

    async def _now(self, waiting: Mapping[str, tuple[Caller, str]]) -> dict[str, Any]:
        digests = {_digest(known): known for known in waiting}
        left: Mapping[str, bytes] = {}
        with suppress(Refused):  # the store is away: the next time
            left = await self._shared.take_all(digests, self._clock() // 1_000_000)
        found: dict[str, Any] = {}
        for digest, sealed in left.items():
            known = digests[digest]
            caller, server = waiting[known]
            with suppress(UnknownValueError):
                found[known] = self._sealed.open(
                    Purpose.ANSWER, sealed.decode("ascii", "replace"), server=server, principal=caller.principal, bound=known
                )
        return found


def _digest(known: str) -> str:
    return hashlib.sha256(known.encode()).hexdigest()


def _nobody() -> None:
    """Without notices the others find it at their next look."""
