"""A secret that may change while the gateway serves: a changed file is read again, a refused command is run again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gateway.identity.keyfiles import resolve

if TYPE_CHECKING:
    from gateway.settings import Secret

AGAIN_SECONDS = 30.0
"""A command is not run again sooner, however often what it printed is refused."""

Stamp = tuple[int, ...]


class Followed:
    """One reference.  Blocks when it is made, never afterwards; ProblemError, also later, where there is nothing to read."""

    def __init__(
        self, secret: Secret, environ: Mapping[str, str], location: str = "", monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._secret = secret
        self._environ = environ
        self._location = location
        self._monotonic = monotonic
        self._stamp = self._look()  # before the reading: a change between the two shows at the next call
        self._value = resolve(secret, environ, location)
        self._read_at = monotonic()
        self._lock = asyncio.Lock()

    async def value(self) -> str:
        """The secret of now, its prefix before it."""
        if self._secret.file is not None and self._look() != self._stamp:
            async with self._lock:
                stamp = self._look()
                if stamp != self._stamp:
                    self._value = await asyncio.to_thread(resolve, self._secret, self._environ, self._location)
                    self._stamp = stamp
        return self._value

    async def refused(self, value: str) -> bool:
        """Told that nobody takes `value` any more; True where there is another one now."""
        async with self._lock:
            now = self._monotonic()
            if self._secret.command is not None and self._value == value and now - self._read_at >= AGAIN_SECONDS:
                self._read_at = now
                self._value = await asyncio.to_thread(resolve, self._secret, self._environ, self._location)
        return await self.value() != value

    def _look(self) -> Stamp:
        """What tells one file from another in its place: mounted secrets change by a symbolic link, others in place."""
        if self._secret.file is None:
            return ()
        try:
            found = self._secret.file.stat()
        except OSError:
            return (0,)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
