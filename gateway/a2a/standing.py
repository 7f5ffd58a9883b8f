"""Streams under way, held against every new policy and against the end of the authority under which they began.

A kill ends any call (`Stages.watch`); a call that waits for one answer keeps the decision that it was given, a stream does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Final

from gateway.a2a.operations import OPERATIONS
from gateway.deadline import After
from gateway.model import Clock, Intent, Principal, Refused
from gateway.reasons import Code
from gateway.running import Running, Watched
from policies.model import AccessRequest, Decision

Judge = Callable[[Principal], Callable[[AccessRequest], Decision]]
"""Who decides for a principal now."""
Watch = Callable[[Intent], AbstractContextManager[None]]
_SLICE: Final = 16


class Standing:
    """Every stream that this process carries from an agent.  It belongs to one event loop."""

    def __init__(self, judge: Judge, clock: Clock) -> None:
        self._judge = judge
        self._clock = clock
        self._running = Running()
        self._open: dict[Watched, Intent] = {}
        self._holding: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def over(self, watch: Watch) -> Watch:
        """The same watch, within which streams stand: each ends with a `Refused` where it may stand no more."""

        def both(intent: Intent) -> AbstractContextManager[None]:
            operation = OPERATIONS.get(intent.permit.call.method)
            within = watch(intent)
            return within if operation is None or not operation.streams else self._standing(intent, within)

        return both

    def enforce(self) -> None:
        """Hold every stream against the policy in force now.  Other work goes on in between, where there are many."""
        if self._open:
            self._holding = asyncio.create_task(self._hold(self._holding))

    async def close(self) -> None:
        """Hold nothing against anything any more."""
        if self._holding is not None:
            self._holding.cancel()
            await asyncio.gather(self._holding, return_exceptions=True)

    @contextmanager
    def _standing(self, intent: Intent, within: AbstractContextManager[None]) -> Iterator[None]:
        principal = intent.permit.principal
        stream = self._running.watch(principal)
        left = max(principal.ends - self._clock() / 1e6, 0.0)
        over = Refused(Code.INVALID_CREDENTIAL, "the authority under which the stream began has ended")
        with within, stream, After(left, partial(stream.end, over)):
            self._open[stream] = intent
            try:
                yield
            finally:
                del self._open[stream]

    async def _hold(self, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None:
            await asyncio.wait([earlier])
        for held, (stream, intent) in enumerate(list(self._open.items())):
            permit = intent.permit
            decision = self._judge(permit.principal)(permit.request)
            if not decision.allowed:
                stream.end(Refused(Code(decision.reason.value), "policy no longer lets the stream stand", decision=decision))
            if held % _SLICE == 0:
                await asyncio.sleep(0)
