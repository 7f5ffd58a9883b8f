"""Bodies that are still coming: nobody is authenticated yet, so whoever is slow makes room for whoever is not.

A call's slot is taken only once its body is here.  Of too many unfinished bodies the one that has taken longest is given up.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.asgi import BODY_SECONDS, Receive, read_body
from gateway.model import Refused
from gateway.reasons import Code

MOST_BYTES: Final = 256 * 1024 * 1024
"""Of all unfinished bodies together; at least four of the largest fit."""


class _Coming:
    """One unfinished body."""

    __slots__ = ("_bodies", "ends", "given_up", "late", "size", "task")

    def __init__(self, bodies: Bodies, task: asyncio.Task[object], ends: float) -> None:
        self._bodies = bodies
        self.task = task
        self.ends = ends
        self.size = 0
        self.given_up = False
        self.late = False

    def taken(self, size: int) -> None:
        """A piece was kept."""
        self.size += size
        self._bodies.grown(self, size)
        if self.given_up:
            raise Refused(Code.OVERLOADED, "body")


class Bodies:
    """At most `most` unfinished bodies of at most `limit` bytes each, none of which may take longer than `seconds`."""

    __slots__ = ("_bytes", "_coming", "_limit", "_most", "_most_bytes", "_seconds", "_timer")

    def __init__(self, limit: int, most: int, most_bytes: int = MOST_BYTES, seconds: float = BODY_SECONDS) -> None:
        self._limit = limit
        self._most = most
        self._most_bytes = max(most_bytes, 4 * limit)
        self._seconds = seconds
        self._bytes = 0
        self._coming: dict[_Coming, None] = {}  # in order of arrival, which is that of their ends
        self._timer: asyncio.TimerHandle | None = None  # one for all: it looks at the oldest

    async def read(self, receive: Receive, whole: bytes | None = None) -> bytes:
        """The whole body, as `read_body`; `Refused(OVERLOADED)` where it was given up for others, `Refused(MALFORMED)` where it
        took too long.  One that is here, `whole`, is no unfinished body: nobody waits for it.
        """
        if whole is not None:
            if len(whole) > self._limit:
                raise Refused(Code.TOO_LARGE, "body")
            return whole
        task = asyncio.current_task()
        if task is None:  # pragma: no cover  an ASGI application always runs in a task
            msg = "a body is read in a running task"
            raise RuntimeError(msg)
        loop = task.get_loop()
        coming, before = _Coming(self, task, loop.time() + self._seconds), task.cancelling()
        if len(self._coming) >= self._most:
            self._give_up_oldest(coming)
        self._coming[coming] = None
        if self._timer is None:
            self._timer = loop.call_at(coming.ends, self._ring, loop)
        try:
            return await read_body(receive, self._limit, coming.taken)
        except asyncio.CancelledError:
            if not (coming.given_up or coming.late) or task.uncancel() > before:
                raise
            if coming.late:
                raise Refused(Code.MALFORMED, "the body did not come in time") from None
            raise Refused(Code.OVERLOADED, "body") from None
        finally:
            if not coming.given_up and not coming.late:
                self._remove(coming)

    def grown(self, coming: _Coming, size: int) -> None:
        """So many bytes more are held: too many, and the oldest bodies make room."""
        self._bytes += size
        while self._bytes > self._most_bytes and not coming.given_up:
            self._give_up_oldest(coming)

    def _give_up_oldest(self, asking: _Coming) -> None:
        oldest = next(iter(self._coming))
        oldest.given_up = True
        self._remove(oldest)
        if oldest is not asking:
            oldest.task.cancel()  # it waits for more: it cannot be at its end without having been removed

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self._coming:
            oldest = next(iter(self._coming))
            if oldest.ends > now:
                self._timer = loop.call_at(oldest.ends, self._ring, loop)
                return
            oldest.late = True
            self._remove(oldest)
            oldest.task.cancel()

    def _remove(self, coming: _Coming) -> None:
        del self._coming[coming]
        self._bytes -= coming.size
