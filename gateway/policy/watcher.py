"""The one task that looks at the folders of policy: every few seconds, and at once where somebody says that there is news."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from gateway.policy.records import Asked

if TYPE_CHECKING:
    from gateway.policy.activation import Activation

log = logging.getLogger("gateway.policy")


class Watcher:
    """Looks when something may have changed, or when woken.  It ends with `aclose` alone."""

    def __init__(self, activation: Activation, seconds: float, pause: float = 5.0) -> None:
        """`seconds` between two looks, 0: only when woken; `pause` before it begins again after a failure."""
        self._pause = pause
        self._again: asyncio.TimerHandle | None = None
        self._activation = activation
        self._seconds = seconds
        self._woken = asyncio.Event()
        self._cause = "watch"
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; on a running event loop."""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    def wake(self, cause: str) -> None:
        """Look at once: `signal` (somebody waits: what was refused is tried again) or `replica`."""
        self._cause = cause
        self._woken.set()

    async def aclose(self) -> None:
        """End it."""
        if self._again is not None:
            self._again.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A defect of ours must not mean that policy is never looked at again."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the watch of policy failed, and begins again", exc_info=error)
            self._again = asyncio.get_running_loop().call_later(self._pause, self.start)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds or None):
                    await self._woken.wait()
            cause = self._cause if self._woken.is_set() else "watch"
            self._woken.clear()
            for place in self._activation.places:
                if cause != "watch" or await self._activation.changed(place):
                    await self._activation.look(place, Asked(cause))
