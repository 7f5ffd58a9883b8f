"""Cages that have attested and wait for a run: each used once, and looked at again before it is.

Of what was run last, so that what is run often starts quickly.  None where memory is scarce.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.cage import CageError
from sandbox.plan import Plan
from sandbox.ready import Cages, Proven, Ready
from sandbox.scratch import ScratchError
from sandbox.toolsets import Kit

_SPARE_BYTES = 512 << 20
_KITS = 4


@dataclass(frozen=True, slots=True)
class Ground:
    """What cages of one probe have in common; `id` is its report's."""

    id: str
    plan: Plan = field(compare=False)
    proven: Proven = field(compare=False)


class Stock:
    """At most `most` waiting cages of each kit, `most` in all for all but the kit that was used last."""

    def __init__(self, cages: Cages, most: int) -> None:
        self._cages, self._most = cages, most
        self._waiting: OrderedDict[Kit, deque[Ready]] = OrderedDict()
        self._ground: Ground | None = None
        self._filling: asyncio.Task[None] | None = None
        self._closed = False

    async def take(self, kit: Kit, ground: Ground) -> Ready | None:
        """A cage that still holds, None where none waits."""
        if ground != self._ground:
            await self._clear()
            self._ground = ground
        waiting = self._waiting.get(kit)
        while waiting:
            ready = waiting.popleft()
            if await self._holds(ready):
                return ready
        return None

    def refill(self, kit: Kit) -> None:
        """Begin to make good what this kit lacks.  Does not wait for it."""
        if self._most and not self._closed:
            self._waiting.setdefault(kit, deque())
            self._waiting.move_to_end(kit)
            if self._filling is None or self._filling.done():
                self._filling = asyncio.create_task(self._fill())

    async def full(self) -> None:
        """Until what was begun is done."""
        if self._filling is not None:
            await asyncio.shield(self._filling)

    async def close(self) -> None:
        """Put all away, and make no more."""
        self._closed = True
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait({self._filling})
        await self._clear()

    async def _holds(self, ready: Ready) -> bool:
        holds = False
        try:
            holds = await self._cages.holds(ready)
        finally:
            if not holds:
                await self._cages.put_away(ready)
        return holds

    async def _fill(self) -> None:
        while self._ground is not None:
            kit = next((kit for kit in reversed(self._waiting) if len(self._waiting[kit]) < self._most), None)
            if kit is None or scarce():
                return
            while len(self._waiting) > _KITS:
                _, old = self._waiting.popitem(last=False)
                await self._put_away(old)
            ground = self._ground
            try:
                ready = await self._cages.raised(ground.plan, kit, ground.proven)
            except (OSError, ScratchError, CageError):
                return  # a run will meet it, and say so
            if ground is self._ground and kit in self._waiting:
                self._waiting[kit].append(ready)
            else:
                await self._cages.put_away(ready)

    async def _clear(self) -> None:
        waiting, self._waiting = self._waiting, OrderedDict()
        for each in waiting.values():
            await self._put_away(each)

    async def _put_away(self, waiting: deque[Ready]) -> None:
        while waiting:
            await self._cages.put_away(waiting.popleft())


def scarce() -> bool:
    """Whether the machine has little memory to spare."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10 < _SPARE_BYTES
    return True
