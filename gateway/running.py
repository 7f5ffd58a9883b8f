"""The calls that are under way, so that one whose authority ends is ended with it.

Whoever runs a call is its task: it is cancelled, lets go of its upstream, and the cancellation is turned into a refusal where the
call was entered; as in `gateway/deadline.py`, entering and leaving touch a set and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from gateway.model import Principal, Refused


class Watched:
    """`with watched:` raises the `Refused` by which the call inside was ended."""

    __slots__ = ("_cancelling", "_ended", "_running", "_task", "principal")

    def __init__(self, running: set[Watched], principal: Principal) -> None:
        self._running = running
        self._ended: Refused | None = None
        self.principal = principal

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            msg = "a call runs in a task"
            raise RuntimeError(msg)
        self._task = task
        self._cancelling = task.cancelling()
        self._running.add(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._running.discard(self)
        if self._ended is None or self._task.uncancel() > self._cancelling:
            return  # nobody ended it; or somebody else's cancellation came as well, and that one goes on
        raise self._ended from error

    def end(self, refusal: Refused) -> None:
        """End the call, once."""
        if self._ended is None:
            self._ended = refusal
            self._task.cancel()


class Running:
    """Every call that was sent and has not ended."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: set[Watched] = set()

    def __len__(self) -> int:
        return len(self._calls)

    def watch(self, principal: Principal) -> Watched:
        """What the call is to run within, in one task."""
        return Watched(self._calls, principal)

    def end(self, refusal_of: Callable[[Principal], Refused | None]) -> int:
        """End every call for whose principal there is a refusal; how many there were."""
        ended = 0
        for call in list(self._calls):
            refusal = refusal_of(call.principal)
            if refusal is not None:
                call.end(refusal)
                ended += 1
        return ended
