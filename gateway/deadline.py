"""Time limits for whatever runs in a task, kept by one timer a loop instead of one a call.

A call ends long before its limit, so a timer of its own would be made and thrown away for nothing: here entering and leaving
touch a set, and the timer, set for whichever limit ends first, looks again when it rings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self


class _Limit(Protocol):
    ends: float

    def expire(self) -> None:
        """Its time is over."""


class _Book:
    """The limits that run in one loop."""

    __slots__ = ("_due", "_timer", "loop", "running")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.running: set[_Limit] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def add(self, limit: _Limit) -> None:
        self.running.add(limit)
        if self._timer is None or limit.ends < self._due:
            self._set(limit.ends)

    def _set(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self.loop.call_at(due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self.loop.time()
        for limit in [each for each in self.running if each.ends <= now]:
            self.running.discard(limit)
            limit.expire()
        if self.running:
            self._set(min(limit.ends for limit in self.running))


def _book_of(loop: asyncio.AbstractEventLoop) -> _Book:
    global _book  # noqa: PLW0603  see there
    if _book is None or _book.loop is not loop:
        _book = _Book(loop)
    return _book


_book: _Book | None = None  # of the loop that was seen last: a process runs one, and whoever entered an earlier one holds it


class Within:
    """`with Within(seconds):` raises TimeoutError where its body takes longer; as `asyncio.timeout`, at a third of its price.

    Where it takes longer than `soon`, which is less, `call` is called first, once.
    """

    __slots__ = ("_book", "_call", "_cancelling", "_expired", "_last", "_seconds", "_soon", "_task", "ends")

    def __init__(self, seconds: float, soon: float = 0.0, call: Callable[[], None] | None = None) -> None:
        self._seconds = seconds
        self._soon = soon
        self._call = call if soon < seconds else None
        self._expired = False
        self.ends = 0.0

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            msg = "a time limit needs a running task"
            raise RuntimeError(msg)
        self._book = book = _book if _book is not None and _book.loop is loop else _book_of(loop)
        self._task = task
        self._cancelling = task.cancelling()
        now = loop.time()
        self._last = self.ends = now + self._seconds
        if self._call is not None:
            self.ends = now + self._soon
        book.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._book.running.discard(self)
        # The cancellation was ours unless somebody else's came as well; that one goes on.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """Its time is over: what runs inside is cancelled."""
        if self._call is not None:
            call, self._call, self.ends = self._call, None, self._last
            self._book.add(self)
            call()
            return
        self._expired = True
        self._task.cancel()


class After:
    """`with After(seconds, call):` calls `call`, once, where its body takes longer."""

    __slots__ = ("_book", "_call", "_seconds", "ends")

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self._seconds = seconds
        self._call = call
        self.ends = 0.0

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._book = _book_of(loop)
        self.ends = loop.time() + self._seconds
        self._book.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._book.running.discard(self)

    def expire(self) -> None:
        """Its time is over."""
        self._call()
