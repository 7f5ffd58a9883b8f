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
    __slots__ = ("given_up", "size", "task")

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.task = task
        self.size = 0
        self.given_up = False


class Bodies:
    """At most `most` unfinished bodies of at most `limit` bytes each."""

    __slots__ = ("_bytes", "_coming", "_limit", "_most", "_most_bytes")

    def __init__(self, limit: int, most: int, most_bytes: int = MOST_BYTES) -> None:
        self._limit = limit
        self._most = most
        self._most_bytes = max(most_bytes, 4 * limit)
        self._bytes = 0
        self._coming: dict[_Coming, None] = {}  # in order of arrival

    async def read(self, receive: Receive, seconds: float = BODY_SECONDS) -> bytes:
        """The whole body, as `read_body`; `Refused(OVERLOADED)` where it was given up for others."""
        task = asyncio.current_task()
        if task is None:  # pragma: no cover  an ASGI application always runs in a task
            msg = "a body is read in a running task"
            raise RuntimeError(msg)
        coming, before = _Coming(task), task.cancelling()
        if len(self._coming) >= self._most:
            self._give_up_oldest(coming)
        self._coming[coming] = None

        def taken(size: int) -> None:
            coming.size += size
            self._bytes += size
            while self._bytes > self._most_bytes and not coming.given_up:
                self._give_up_oldest(coming)
            if coming.given_up:
                raise Refused(Code.OVERLOADED, "body")

        try:
            return await read_body(receive, self._limit, seconds, taken)
        except asyncio.CancelledError:
            if not coming.given_up or task.uncancel() > before:
                raise
            raise Refused(Code.OVERLOADED, "body") from None
        finally:
            if not coming.given_up:
                self._remove(coming)

    def _give_up_oldest(self, asking: _Coming) -> None:
        oldest = next(iter(self._coming))
        oldest.given_up = True
        self._remove(oldest)
        if oldest is not asking:
            oldest.task.cancel()  # it waits for more: it cannot be at its end without having been removed

    def _remove(self, coming: _Coming) -> None:
        del self._coming[coming]
        self._bytes -= coming.size
