"""Waiting for a task that must be gone through to its end, however impatiently whoever waits is cancelled."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def to_its_end(task: asyncio.Task[T]) -> T:
    """What the task comes to.  Where the caller is cancelled the task is, once, and has ended when this raises CancelledError."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen: the caller has gone
        raise
