"""Settles what was left unsettled: by gateways that ended with calls under way, and while the state store was away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from audit.model import TamperedError
from audit.reader import Ledger
from audit.store import StoreError
from gateway.model import Clock, Refused
from gateway.state.histories import Histories, Kept
from gateway.workflows.rebuild import SETTLED, Telling, settled_by
from policies.workflows.story import State, Step, Value

log = logging.getLogger("gateway.workflows")

EVERY_SECONDS: Final = 300
SOON: Final = 60
"""Seconds after which a step that is not settled is looked for in the ledger."""


class Reconciling:
    """Looks for unsettled steps in the ledger, now and then; the ledger's word settles them."""

    def __init__(
        self, histories: Histories, ledgers: Callable[[str], Sequence[str]], seal_key: bytes, clock: Clock, longest: int
    ) -> None:
        """`longest`: seconds for which a call may wait before it is sent; what is older and on no record was never sent.

        ledgers  the URLs of the logs that a tenant's calls may be in.
        """
        self._histories = histories
        self._ledgers = ledgers
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
                await self._histories.sweep(self._clock() // 1_000_000)
            except (Refused, StoreError, TamperedError, OSError, ValueError) as error:
                log.warning("histories of workflows could not be looked after: %s", type(error).__name__)
            await asyncio.sleep(EVERY_SECONDS)

    async def once(self) -> int:
        """Settle what can be; how many steps that were."""
        now = self._clock()
        found = await self._histories.unsettled(now - SOON * 1_000_000)
        told = await asyncio.to_thread(self._told, found) if found else {}
        count = 0
        for place in found:
            step = told.get(place.step.id)
            if step is None and place.step.at < now - self._longest * 1_000_000:
                count += await self._histories.settle(place, State.UNSENT, {})
            elif step is not None and step.state is not State.RUNNING:
                count += await self._histories.settle(place, step.state, step.results, step.task)
        count += await self._tasks(now)
        if count:
            log.info("%d steps of workflows were settled from the ledger", count)
        return count

    async def _tasks(self, now: int) -> int:
        """Settle what was claimed for records that are written, and free what was claimed for none: how many were settled."""
        claimed = await self._histories.claimed()
        found = [(place, by) for place, by in claimed if _made_at(by) < now - SOON * 1_000_000]
        if not found:
            return 0
        said = await asyncio.to_thread(self._settled, {(place.tenant, by) for place, by in found})
        count = 0
        for place, by in found:
            if place.step.id in said.get(by, {}):
                state, results = said[by][place.step.id]
                count += await self._histories.settle(place, state, results, by=by)
            elif _made_at(by) < now - self._longest * 1_000_000:
                await self._histories.unclaim([place.step.id], by)
        return count

    def _settled(self, records: Iterable[tuple[str, str]]) -> dict[str, dict[str, tuple[State, Mapping[str, Value]]]]:
        """What these records (of a tenant, by id), so far as they are written, say of steps beside their own."""
        said: dict[str, dict[str, tuple[State, Mapping[str, Value]]]] = {}
        wanted: dict[str, list[str]] = {}
        for tenant, name in records:
            for url in self._ledgers(tenant):
                wanted.setdefault(url, []).append(name)
        for url, names in wanted.items():
            with Ledger.open(url, self._key) as ledger:
                for name in names:
                    record = ledger.get(name)
                    if record is not None:
                        (opened,) = ledger.opened((record.kind,), (SETTLED,), start=record.index, stop=record.index + 1)
                        said[name] = {call: (state, results) for call, state, results in settled_by(opened)}
        return said

    def _told(self, places: tuple[Kept, ...]) -> dict[str, Step]:
        """What the ledger says of them, in each log from the first of their records on."""
        telling = Telling()
        wanted: dict[str, list[Kept]] = {}
        for tenant in {place.tenant for place in places}:
            for url in self._ledgers(tenant):
                wanted.setdefault(url, []).extend(place for place in places if place.tenant == tenant)
        for url, some in wanted.items():
            with Ledger.open(url, self._key) as ledger:
                starts = [record.index for place in some if (record := ledger.get(place.step.id)) is not None]
                if starts:
                    telling.read(ledger, start=min(starts))
        return {call: step for steps in telling.steps.values() for call, step in steps.items()}


def _made_at(record: str) -> int:
    """The moment of which a record's id was made, in UTC microseconds (`gateway.model.new_id`)."""
    return int(record.replace("-", "")[:12], 16) * 1000
