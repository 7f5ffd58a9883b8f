"""The events of one answer, with a look ahead: whether an event was the last one is known only by what follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from enum import Enum, auto
from typing import Generic, TypeVar

from gateway.upstream.events import EventParser

ItemT = TypeVar("ItemT")


class Ahead(Enum):
    """What stands after the event just read."""

    END = auto()
    EVENT = auto()
    SILENCE = auto()


class Lookahead(Generic[ItemT]):
    """Items in order, with a look ahead; `close` leaves nothing running."""

    __slots__ = ("_events", "_next")

    def __init__(self, events: AsyncGenerator[ItemT, None]) -> None:
        self._events = events
        self._next: asyncio.Task[ItemT | None] | None = None

    async def next(self) -> ItemT | None:
        """The next event; None at the end."""
        task, self._next = self._next, None
        if task is None:
            return await anext(self._events, None)
        try:
            return await task
        finally:
            task.cancel()

    async def ahead(self, seconds: float) -> Ahead:
        """What comes within so many seconds; nothing of it is lost.  Raises what reading it raises."""
        if self._next is None:
            self._next = asyncio.ensure_future(_of(self._events))
        done, _ = await asyncio.wait({self._next}, timeout=seconds)
        if not done:
            return Ahead.SILENCE
        return Ahead.END if self._next.result() is None else Ahead.EVENT

    async def close(self) -> None:
        """Stop reading."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait({self._next})
            if not self._next.cancelled():
                self._next.exception()  # seen, and of no interest any more
        await self._events.aclose()


async def _of(events: AsyncGenerator[ItemT, None]) -> ItemT | None:
    return await anext(events, None)


async def events_in(chunks: AsyncGenerator[bytes, None], limit: int) -> AsyncGenerator[bytes, None]:
    """The data of each server-sent event, none of them longer than `limit` bytes."""
    parser = EventParser(limit)
    try:
        async for chunk in chunks:
            for event in parser.feed(chunk):
                yield event
    finally:
        await chunks.aclose()
