"""Steps that went on as tasks, settled by the answer that says what became of them: once, on all replicas together.

A step is claimed for one record before that is written, and settled when it is.  Where a gateway ends in between, the ledger
tells whether it was (`gateway/workflows/reconciling.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import replace as again
from typing import Final

from gateway.followed import Followed
from gateway.model import Clock, Permit, Refused, new_id
from gateway.state.histories import Histories, Kept
from gateway.workflows.marks import Marker
from policies.workflows.story import State, Step
from policies.workflows.values import fields

log = logging.getLogger("gateway.workflows")

_LOOKS: Final = 40
_PAUSE: Final = 0.025
"""How often, and how long apart, it is looked whether somebody else has settled what they have claimed."""


@dataclass(frozen=True, slots=True)
class News:
    """What an answer said of a task so far: how it ended (None: it goes on), and whether its result was shown."""

    state: State | None = None
    objects: tuple[Mapping[str, object], ...] = ()
    whole: bool = False

    def then(self, state: State | None, objects: list[Mapping[str, object]], whole: bool) -> News:
        """And then this: what is whole holds all that came before."""
        before = () if whole else self.objects
        return News(state, (*before, *objects) if len(before) < _MOST_OBJECTS else before, whole or self.whole)


_MOST_OBJECTS: Final = 1000


class Following:
    """Claims and settles such steps."""

    def __init__(self, histories: Histories, marker: Marker, clock: Clock) -> None:
        self._histories = histories
        self._marker = marker
        self._clock = clock

    def mark(self, permit: Permit, task: str) -> str:
        """Under which the steps of a task are found."""
        return self._marker.task(permit.principal, permit.call.arrival.protocol, permit.call.target, task)

    async def claim(
        self, permit: Permit, news: Mapping[str, News], fields_of: Callable[[str, Step], frozenset[str]]
    ) -> Followed | None:
        """The open steps of these tasks as they end, for one record.

        What somebody else has claimed is waited for a moment, so that it is settled before this answer is released, too.  A step
        whose result rules bound is left to a look that shows it.  A store that fails leaves all as it is.
        """
        tenant, known = permit.principal.tenant, {self.mark(permit, task): each for task, each in news.items()}

        def settles(place: Kept) -> bool:
            each = known[place.step.task]
            return each.whole or each.state is not State.OK or not fields_of(place.workflow, place.step)

        record = new_id(self._clock())
        try:
            for _ in range(_LOOKS):
                claimed = await self._histories.claim(tenant, list(known), record, settles)
                if claimed.steps or not claimed.taken:
                    break
                await asyncio.sleep(_PAUSE)
        except Refused as failure:
            log.error("steps of tasks could not be looked for: %s", failure.code.value, extra={"call": permit.call.arrival.id})
            return None
        steps = []
        for place in claimed.steps:
            step, each = place.step, known[place.step.task]
            state = each.state or State.OPEN
            found = fields(each.objects, fields_of(place.workflow, step)) if state is State.OK else {}
            steps.append((place.workflow, again(step, state=state, results=found)))
        return Followed(record, tuple(steps)) if steps else None

    async def settle(self, tenant: str, followed: Followed, *, recorded: bool) -> None:
        """As is on record; otherwise somebody else may settle them."""
        try:
            if not recorded:
                await self._histories.unclaim([step.id for _, step in followed.steps], followed.record)
                return
            for workflow, step in followed.steps:
                await self._histories.settle(Kept(tenant, workflow, step), step.state, step.results, by=followed.record)
        except Refused as failure:  # they satisfy nothing, and are settled from the ledger later
            log.error("steps of tasks could not be settled: %s", failure.code.value, extra={"call": followed.record})
