"""Histories of workflows: a step is reserved before its call is sent and settled by its recorded outcome.

All decisions about one workflow, on all replicas, are made one after the other, each seeing the steps before it.  A writer of
these rows could satisfy or exhaust any rule; a reader learns who called what, and the numbers that rules name, no other argument.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.sql.elements import ColumnElement

from gateway.model import Refused, random16
from gateway.reasons import Code
from gateway.state import history_rows as rows
from gateway.state import labelled
from gateway.state.history_rows import HISTORIES, MARKS, PURSES, STEPS, Kept
from gateway.state.worker import Worker
from policies.workflows.judge import Past, freed, judge, purses, share, shared
from policies.workflows.model import Workflow, Workflows, taints
from policies.workflows.ruling import Judged
from policies.workflows.story import State, Step, Value

__all__ = ["Asked", "Claimed", "Histories", "Kept"]

MOST_STEPS: Final = 10_000
"""Of one workflow: with more the next is refused."""
NOTHING_KEPT: Final[Mapping[str, Value]] = MappingProxyType({})
_SWEPT_EVERY: Final = 60
_SWEPT_AT_ONCE: Final = 20


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that is about to be sent.

    workflow, ends   id of its workflow, and the epoch second at which that ends.
    held             the definitions whose rules it is held to.
    exempt           ids of rules about labels whose exemption the call is.
    """

    tenant: str
    workflow: str
    ends: int
    step: Step
    held: tuple[Workflow, ...]
    exempt: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Claimed:
    """Steps that are claimed, and whether there are others that somebody else has claimed."""

    steps: tuple[Kept, ...]
    taken: bool


class _RefusedError(Exception):
    """Rolls back: a refused call leaves nothing behind."""

    def __init__(self, judged: tuple[Judged, ...]) -> None:
        super().__init__("refused")
        self.judged = judged


class Histories:
    """Every method is durable on return; `Refused` where the store fails or is overloaded."""

    def __init__(self, worker: Worker, keep_seconds: int = 30 * 86_400) -> None:
        """A history is kept for `keep_seconds` after its workflow has ended."""
        self._worker = worker
        self._keep = keep_seconds
        self._stories = rows.Stories()
        self._swept = 0

    async def reserve(self, asked: Asked) -> tuple[tuple[Judged, ...], Awaitable[None]]:
        """What the rules say of a call; its step is reserved, unless one of them refuses it: durably, once the second is done.

        From now on whoever decides in this workflow waits for it.
        """
        now = asked.step.at // 1_000_000
        due = now - self._swept >= _SWEPT_EVERY
        if due:
            self._swept = now

        def work(connection: Connection) -> tuple[Judged, ...]:
            judged = self._judged(connection, asked)
            if due:
                sweep(connection, now)
            return judged

        try:
            return await self._worker.begun(work)
        except _RefusedError as refused:
            nothing = asyncio.get_running_loop().create_future()
            nothing.set_result(None)
            return refused.judged, nothing

    async def looked(self, asked: Asked) -> tuple[Judged, ...]:
        """What the rules would say of a call now; nothing is reserved, and nothing is left behind."""

        def work(connection: Connection) -> None:
            raise _RefusedError(self._judged(connection, asked))

        try:
            await self._worker.run(work)
        except _RefusedError as said:
            return said.judged
        raise Refused(Code.INTERNAL_ERROR, "a question about a workflow was not answered")

    async def whose(self, tenant: str, workflow: str) -> str | None:
        """The person whose workflow it is; None where it has no history."""
        c = HISTORIES.c
        wanted = select(c.subject).where(c.tenant == tenant, c.workflow == workflow)
        return await self._worker.run(lambda connection: connection.execute(wanted).scalar_one_or_none())

    def _judged(self, connection: Connection, asked: Asked) -> tuple[Judged, ...]:
        step, until = asked.step, asked.ends + self._keep
        head = rows.lock(connection, asked.tenant, asked.workflow, step.subject, until)
        if head.size > MOST_STEPS:
            raise Refused(Code.BUDGET_SPENT, f"a workflow has at most {MOST_STEPS} steps")
        story = self._stories.told(connection, head)
        drawn = [purse for each in asked.held for purse in purses(each, step, asked.workflow)]
        about = [one for each in asked.held for one in shared(each, step)]
        spent = rows.spent_of(connection, asked.tenant, drawn, until)
        others = rows.others(connection, asked.tenant, about, until)
        flows = [each for each in taints(asked.held) if each.deny.covers(step.resource)]
        came = labelled.came(connection, asked.tenant, asked.workflow, step, story, flows) if flows else {}
        past = Past(story, spent, others, came, asked.exempt)
        judged = tuple(Judged(each, *judge(each, step, past, asked.workflow), freed(each, step, past)) for each in asked.held)
        if any(each.refuses for each in judged):
            raise _RefusedError(judged)
        taken = rows.draw(connection, asked.tenant, spent, {purse: share(purse.budget, step) for purse in drawn})
        rows.add(connection, rows.row_of(asked.tenant, asked.workflow, head.version, step, taken))
        labelled.mark(connection, step, [rows.mark_of(asked.tenant, one) for one in about], asked.tenant)
        return judged

    async def settle(
        self, kept: Kept, state: State, results: Mapping[str, Value] = NOTHING_KEPT, task: str = "", by: str = ""
    ) -> bool:
        """What became of a step that runs or is open; whether it was one.  What came to nothing gives back what it drew.

        by  the record for which it was claimed; a step that is claimed is settled by nothing else.
        """
        step = replace(kept.step, state=state, results=results, task=task or kept.step.task)
        return await self._worker.run(lambda connection: rows.settle(connection, (kept.tenant, kept.workflow), step, by))

    async def claim(self, tenant: str, tasks: Collection[str], record: str, wanted: Callable[[Kept], bool]) -> Claimed:
        """Open steps of these tasks, so far as they are wanted, for one record alone: nobody else settles them from now on.

        It changes nothing that rules see.
        """

        def work(connection: Connection) -> Claimed:
            found = [(place, by) for place, by in rows.open_of(connection, tenant, tasks) if wanted(place)]
            free = tuple(place for place, by in found if not by)
            rows.claim(connection, [place.step.id for place in free], "", record)
            return Claimed(free, taken=len(found) > len(free))

        return await self._worker.run(work)

    async def unclaim(self, calls: Sequence[str], record: str) -> None:
        """Give back what was claimed for a record that was not written."""
        await self._worker.run(lambda connection: rows.claim(connection, calls, record, ""))

    async def claimed(self, most: int = 1000) -> tuple[tuple[Kept, str], ...]:
        """Open steps that are claimed, each with the record for which it is."""
        return await self._worker.run(lambda connection: rows.claimed(connection, most))

    async def steps(self, tenant: str, workflow: str) -> tuple[Step, ...]:
        """The steps of a workflow, by arrival."""
        c = STEPS.c
        wanted = select(STEPS).where(c.tenant == tenant, c.workflow == workflow).order_by(c.at, c.call).limit(MOST_STEPS)
        return await self._worker.run(lambda connection: tuple(rows.step_of(row) for row in connection.execute(wanted)))

    async def unsettled(self, before: int, most: int = 1000) -> tuple[Kept, ...]:
        """Steps that were reserved before this moment (UTC microseconds) and not heard of since, the oldest first."""
        c = STEPS.c
        wanted = select(STEPS).where(c.state == State.RUNNING.value, c.at < before).order_by(c.at).limit(most)

        def work(connection: Connection) -> tuple[Kept, ...]:
            return tuple(Kept(row.tenant, row.workflow, rows.step_of(row)) for row in connection.execute(wanted))

        return await self._worker.run(work)

    async def workflows(self, most: int = 1000) -> tuple[tuple[str, str, str, int], ...]:
        """Tenant, id, person and number of steps of workflows, those that end last first."""
        c = HISTORIES.c
        wanted = select(c.tenant, c.workflow, c.subject, c.size).order_by(c.until.desc(), c.workflow).limit(most)
        return await self._worker.run(lambda connection: tuple(tuple(row) for row in connection.execute(wanted)))

    async def replace(self, tenant: str, workflow: str, steps: Sequence[Step], of: Workflows, ends: int) -> None:
        """Put these steps in place of those that stand; `of` are the definitions by which purses and marks are made anew."""
        until = ends + self._keep

        def work(connection: Connection) -> None:
            rows.lock(connection, tenant, workflow, steps[0].subject if steps else "", until)
            _forget_steps(connection, STEPS.c.workflow == workflow, STEPS.c.tenant == tenant)
            for number, step in enumerate(steps, 1):
                held = [of[name] for name in sorted(step.held) if name in of]
                drawn = {purse: share(purse.budget, step) for each in held for purse in purses(each, step, workflow)}
                taken = rows.taken(tenant, drawn if step.state.counts else {})
                connection.execute(STEPS.insert().values(rows.row_of(tenant, workflow, number, step, taken)))
                about = [rows.mark_of(tenant, one) for each in held for one in shared(each, step)]
                labelled.mark(connection, step, about, tenant)
            changed = {"epoch": random16().hex(), "version": len(steps), "size": len(steps)}
            mine = HISTORIES.c.tenant == tenant, HISTORIES.c.workflow == workflow
            connection.execute(update(HISTORIES).where(*mine).values(**changed))

        await self._worker.run(work)

    async def sweep(self, now: int) -> int:
        """Forget histories whose time is over, as many as there are, and what this process remembers of those that are gone.

        How many were forgotten; `now` in epoch seconds.
        """
        total = 0
        while (gone := await self._worker.run(lambda connection: sweep(connection, now))) > 0:
            total += gone
        await self._worker.run(self._stories.keep_known)
        return total

    def forget(self, subject: str) -> None:
        """Nothing of a person's steps stays in this process's memory."""
        self._stories.forget(subject)

    async def recount(self) -> None:
        """Forget what is kept of budgets: each is counted anew from the steps when it is next asked for."""
        await self._worker.run(lambda connection: connection.execute(delete(PURSES)))


def sweep(connection: Connection, now: int) -> int:
    """Forget histories whose time is over, a batch, and the purses that nothing draws on any more; how many histories."""
    c = HISTORIES.c
    ended = select(c.tenant, c.workflow).where(c.until < now).limit(_SWEPT_AT_ONCE)
    if connection.dialect.name == "postgresql":
        ended = ended.with_for_update(skip_locked=True)  # another replica sweeps at the same time
    over = connection.execute(ended).all()
    for tenant, workflow in over:
        _forget_steps(connection, STEPS.c.tenant == tenant, STEPS.c.workflow == workflow)
        connection.execute(delete(HISTORIES).where(c.tenant == tenant, c.workflow == workflow))
    connection.execute(delete(PURSES).where(PURSES.c.until < now))
    return len(over)


def _forget_steps(connection: Connection, *where: ColumnElement[bool]) -> None:
    connection.execute(delete(MARKS).where(MARKS.c.call.in_(select(STEPS.c.call).where(*where))))
    connection.execute(delete(STEPS).where(*where))
