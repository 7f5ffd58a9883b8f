"""Settles what was left unsettled: by gateways that ended with calls under way, and while the state store was away."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from audit.model import TamperedError
from audit.reader import Ledger
from audit.store import StoreError
from gateway.model import Clock, Refused
from gateway.state.histories import Histories, Kept
from gateway.workflows.rebuild import Telling
from policies.workflows.story import State, Step

log = logging.getLogger("gateway.workflows")

EVERY_SECONDS: Final = 300
SOON: Final = 60
"""Seconds after which a step that is not settled is looked for in the ledger."""


class Reconciling:
    """Looks for unsettled steps in the ledger, now and then; the ledger's word settles them."""

    def __init__(self, histories: Histories, ledger_url: str, seal_key: bytes, clock: Clock, longest: int) -> None:
        """`longest`: seconds for which a call may wait before it is sent; what is older and on no record was never sent."""
        self._histories = histories
        self._url = ledger_url
        self._key = seal_key
        self._clock = clock
        self._longest = max(longest, SOON)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, at once and again and again."""
        self._task = asyncio.create_task(self._run(), name="workflow-reconciling")

    async def aclose(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self.once()
            except (Refused, StoreError, TamperedError, OSError, ValueError) as error:
                log.warning("unsettled steps could not be looked for: %s", type(error).__name__)
            await asyncio.sleep(EVERY_SECONDS)

    async def once(self) -> int:
        """Settle what can be; how many steps that were."""
        now = self._clock()
        found = await self._histories.unsettled(now - SOON * 1_000_000)
        if not found:
            return 0
        told = await asyncio.to_thread(self._told, found)
        count = 0
        for place in found:
            step = told.get(place.step.id)
            if step is None and place.step.at < now - self._longest * 1_000_000:
                count += await self._histories.settle(place, State.UNSENT, {})
            elif step is not None and step.state is not State.RUNNING:
                count += await self._histories.settle(place, step.state, step.results)
        if count:
            log.info("%d steps of workflows were settled from the ledger", count)
        return count

    def _told(self, places: tuple[Kept, ...]) -> dict[str, Step]:
        """What the ledger says of them, from the first of their records on."""
        with Ledger.open(self._url, self._key) as ledger:
            starts = [record.index for place in places if (record := ledger.get(place.step.id)) is not None]
            if not starts:
                return {}
            telling = Telling.of(ledger, start=min(starts))
        return {call: step for steps in telling.steps.values() for call, step in steps.items()}
