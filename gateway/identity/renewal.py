"""A value that lives elsewhere: read again in good time, by one attempt at a time, and believed for a bounded time.

Whatever fails, the last good value stays until it is too old; then there is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from gateway.model import UpstreamError

FRESH_SECONDS = 300.0
STALE_SECONDS = 24 * 3600.0
COOLDOWN_SECONDS = 30.0
READ_SECONDS = 10.0

T = TypeVar("T")


class SourceError(Exception):
    """What was read cannot be used; the text repeats nothing of it."""


class Renewed(Generic[T]):
    """One such value.  `read` gets it afresh; it raises OSError, UpstreamError or SourceError where it cannot."""

    def __init__(self, read: Callable[[], Awaitable[T]], name: str, monotonic: Callable[[], float]) -> None:
        """Does no I/O."""
        self._read = read
        self._name = name
        self._monotonic = monotonic
        self._value: T | None = None
        self._good_at = self._tried_at = float("-inf")
        self._flight: asyncio.Task[None] | None = None
        self.failure = ""
        """Why the last attempt failed; "" when it did not."""

    def usable(self, tried: float | None = None) -> T | None:
        """The last good value, unless it is older than a day; `tried`: and only where an attempt began so few seconds ago."""
        now = self._monotonic()
        if tried is not None and not 0 <= now - self._tried_at < tried:
            return None
        return self._value if now - self._good_at <= STALE_SECONDS else None

    def tried_within(self, seconds: float) -> bool:
        """Whether the last attempt began less than so many seconds ago."""
        return 0 <= self._monotonic() - self._tried_at < seconds

    def refresh(self) -> None:
        """Have it read again by nobody's waiting, where it is five minutes old and nobody tried a moment ago."""
        old = self._monotonic() - self._good_at > FRESH_SECONDS
        if old and self._flight is None and not self.tried_within(COOLDOWN_SECONDS):
            self._start()

    async def renew(self, cooldown: float = COOLDOWN_SECONDS) -> None:
        """Wait for an attempt: the one under way, or a new one unless the last began less than `cooldown` seconds ago."""
        flight = self._flight
        if flight is None:
            if self.tried_within(cooldown):
                return
            flight = self._start()
        await asyncio.shield(flight)

    async def close(self) -> None:
        """End an attempt that is under way."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.gather(self._flight, return_exceptions=True)

    def _start(self) -> asyncio.Task[None]:
        self._tried_at = self._monotonic()
        self._flight = asyncio.create_task(self._attempt(), name=self._name)
        return self._flight

    async def _attempt(self) -> None:
        try:
            async with asyncio.timeout(READ_SECONDS):
                value = await self._read()
        except (SourceError, UpstreamError) as error:
            self.failure = str(error)
        except OSError as error:  # a timeout is one
            self.failure = type(error).__name__
        else:
            self._value, self._good_at, self.failure = value, self._monotonic(), ""
        finally:
            self._flight = None
