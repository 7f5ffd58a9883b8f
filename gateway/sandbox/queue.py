"""Whose run is next: subjects take turns, whoever waits with however many; and how many may wait is bounded."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.model import Refused
from gateway.reasons import Code


class FairQueue:
    """At most `concurrency` runs at once; at most `waiting` wait, `of_one` of them for one subject.

    Round robin over subjects: one that waits with a hundred runs delays another's single run by one of them, not by a hundred.
    """

    def __init__(self, concurrency: int, waiting: int, of_one: int) -> None:
        self._free = concurrency
        self._most = waiting
        self._most_of_one = of_one
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._length = 0

    @property
    def waiting(self) -> int:
        """How many wait, for metrics."""
        return self._length

    @asynccontextmanager
    async def turn(self, subject: str, *, wait: bool = True) -> AsyncIterator[None]:
        """The body runs when it is this subject's turn; `Refused(OVERLOADED)` where too many wait, or where one must not wait."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(subject, wait=wait)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, subject: str, *, wait: bool) -> None:
        line = self._lines.get(subject)
        if not wait or self._length >= self._most or (line is not None and len(line) >= self._most_of_one):
            raise Refused(Code.OVERLOADED, "sandbox")
        if line is None:
            line = self._lines[subject] = deque()
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(mine)
        self._length += 1
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # the turn had come in the same moment: it is the next one's
                self._pass_on()
            else:
                self._leave(subject, mine)
            raise

    def _leave(self, subject: str, mine: asyncio.Future[None]) -> None:
        line = self._lines.get(subject, deque())
        if mine not in line:  # passed over already
            return
        line.remove(mine)
        self._length -= 1
        if not line:
            del self._lines[subject]

    def _pass_on(self) -> None:
        """The slot goes to the subject that has waited for its turn the longest, or is free."""
        while self._lines:
            subject, line = self._lines.popitem(last=False)
            first = line.popleft()
            self._length -= 1
            if line:
                self._lines[subject] = line  # behind the others
            if not first.done():  # else it is being cancelled, and does not know yet
                first.set_result(None)
                return
        self._free += 1
