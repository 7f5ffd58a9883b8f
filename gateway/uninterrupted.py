"""Work that goes on to its end although its task is being cancelled; the cancellation is kept for afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class Uninterrupted(Generic[_T]):
    """`await Uninterrupted(work)` is `await work` that no cancellation reaches: it is raised when the work is done.

    The work runs in the awaiting task itself, where `asyncio.shield` would make it another task and a turn of the loop later.
    So it must wait for futures alone, and set no time limit of its own: those end by cancelling the task.
    """

    __slots__ = ("_work",)

    def __init__(self, work: Awaitable[_T]) -> None:
        self._work = work

    def __await__(self) -> Generator[Any, None, _T]:
        """The work's result, unless a cancellation came meanwhile; an error of the work goes before it."""
        steps = self._work.__await__()
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                awaited = next(steps)
            except StopIteration as end:
                if cancelled is not None:
                    raise cancelled from None
                return end.value  # type: ignore[no-any-return]  # what a generator returns has no type
            cancelled = (yield from _settled(awaited)) or cancelled


def _settled(awaited: Any) -> Generator[Any, None, asyncio.CancelledError | None]:
    """Until what the work waits for is done; the last cancellation that came meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    if awaited is None:  # a bare turn of the loop
        try:
            yield
        except asyncio.CancelledError as error:
            cancelled = error
        return cancelled
    awaited._asyncio_future_blocking = False
    while not awaited.done():
        waiter = awaited.get_loop().create_future()  # ours may be cancelled, the work's may not
        awaited.add_done_callback(lambda _, waiter=waiter: waiter.done() or waiter.set_result(None))
        try:
            yield from waiter
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled
