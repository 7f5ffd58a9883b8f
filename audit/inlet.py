"""The way from the event loop into one thread: who hands over does not wait, and the thread sleeps until there is something.

The thread sleeps in a read of a pipe, for to write there lets the interpreter go while the thread wakes up.  The queues of the
standard library wake it while they hold the interpreter: it wakes, finds that it cannot run, and sleeps once more.
"""

from __future__ import annotations

import os
import select
from collections import deque
from contextlib import suppress
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")
_WAKES: Final = 4096  # read at once; more than are ever written


class Inlet(Generic[Item]):
    """A queue with one reader.  What is put is taken in order, exactly once."""

    __slots__ = ("_asleep", "_items", "_read", "_write")

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._asleep = False  # the reader said that it will look at the pipe, and has not looked since
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    def put(self, item: Item) -> None:
        """Hand over, from any thread."""
        self._items.append(item)  # before the look at the reader, which does it the other way round: one of them notices
        if self._asleep:
            self._asleep = False  # one wake-up is enough
            with suppress(BlockingIOError):  # full of wake-ups: it will wake
                os.write(self._write, b"\0")

    def take(self) -> Item | None:
        """What came first, or None where there is nothing."""
        return self._items.popleft() if self._items else None

    def wait(self, seconds: float | None = None) -> bool:
        """Sleep until there is something, at most so long.  Whether there is."""
        while not self._items:
            self._asleep = True
            if self._items:
                break
            if seconds is not None and not self._arrives(seconds):
                break
            os.read(self._read, _WAKES)
        self._asleep = False
        return bool(self._items)

    def close(self) -> None:
        """Let the pipe go, when the reader has ended.  What is put from now on stays."""
        self._asleep = False
        os.close(self._read)
        os.close(self._write)

    def _arrives(self, seconds: float) -> bool:
        poll = select.poll()  # unlike `select`, it takes a descriptor of any number
        poll.register(self._read, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
