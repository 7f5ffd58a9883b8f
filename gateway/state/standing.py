"""Looking at workflows: who has which, where one stands and what may come next in it.  Nothing is locked and nothing written."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Select, Table, func, select

from gateway.state import labelled
from gateway.state.approvals import Parked
from gateway.state.approvals import State as Waiting
from gateway.state.history_rows import HISTORIES, STEPS, spent_as_seen, step_of
from gateway.state.tables import ParkedCall, TaskOwner
from gateway.state.worker import Worker
from policies.workflows.judge import Purse, Spent
from policies.workflows.model import Workflow, Workflows, taints
from policies.workflows.standing import (
    REST,
    Next,
    Now,
    definitions_of,
    drawn,
    holding,
    holding_rest,
    standing,
    steps_of,
)
from policies.workflows.story import State, Step, Story

MOST: Final = 1000
"""Workflows that are listed, calls that wait, tasks: of each."""
MOST_STEPS: Final = 10_000
_PARKED: Table = ParkedCall.__table__  # type: ignore[attr-defined]  # set by SQLModel at class creation
_TASKS: Table = TaskOwner.__table__  # type: ignore[attr-defined]  # as above


@dataclass(frozen=True, slots=True)
class Listed:
    """A workflow with a history: how many steps it has, how many of them run or go on as tasks, how many calls wait for a yes."""

    tenant: str
    workflow: str
    subject: str
    steps: int
    running: int = 0
    open: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a workflow stands.

    definitions  whose rules held its steps; `gone` names of those that the bundle does not have any more.
    ahead        every step that rules name; `rest` stands for what they do not name, None where no rule holds that.
    parked       its calls that wait for somebody's yes; `tasks` (agent, task) of agents at which a step goes on.
    """

    tenant: str
    workflow: str
    subject: str
    steps: tuple[Step, ...] = ()
    definitions: tuple[Workflow, ...] = ()
    gone: tuple[str, ...] = ()
    ahead: tuple[Next, ...] = ()
    rest: Next | None = None
    parked: tuple[Parked, ...] = ()
    tasks: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Rows:
    subject: str
    steps: Sequence[Any]
    parked: tuple[Parked, ...]
    tasks: tuple[tuple[str, str], ...]


class Standings:
    """Every method raises `Refused` where the store fails or is overloaded."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def listed(self, now: int, tenant: str = "", subject: str = "") -> tuple[Listed, ...]:
        """Those that end last first, of a tenant and of a person where they are named; `now` in UTC microseconds."""
        return await self._worker.run(lambda connection: _listed(connection, now, tenant, subject))

    async def of(self, tenant: str, workflow: str, now: int, known: Workflows) -> Seen | None:
        """Where it stands by these definitions; None where it has no history and nothing waits in it."""
        rows = await self._worker.run(lambda connection: _rows(connection, tenant, workflow, now))
        if rows is None:
            return None
        at, steps = _At(tenant, workflow, rows.subject, now), await asyncio.to_thread(_steps, rows.steps)
        story = Story(steps)
        definitions = definitions_of(known, story)
        bare = at.knowing(story)
        ahead = [(name, holding(known, definitions, tenant, name)) for name in steps_of(definitions)]
        loose = holding_rest(definitions)
        every = [*ahead, *([(REST, loose)] if loose else [])]
        wanted = {purse for name, held in every for purse in drawn(held, name, bare)}
        sinks = [(name, held) for name, held in every if any(rule.deny.covers(name) for rule in taints(held))]
        spent, came = await self._worker.run(lambda connection: _looked(connection, bare, wanted, sinks))
        told = at.knowing(story, spent, came)
        found = await asyncio.to_thread(lambda: [standing(name, held, told) for name, held in every])
        names = {name for step in steps for name in step.held if ":" not in name} - set(known)  # with a colon: a duty's
        return Seen(
            tenant, workflow, rows.subject, steps, definitions, tuple(sorted(names)),
            tuple(each for each in found if each.resource != REST),
            next((each for each in found if each.resource == REST), None),
            rows.parked, rows.tasks,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _At:
    tenant: str
    workflow: str
    subject: str
    at: int

    def knowing(
        self,
        story: Story,
        spent: dict[Purse, Spent] | None = None,
        came: dict[tuple[str, str], Step] | None = None,
    ) -> Now:
        return Now(self.tenant, self.subject, self.workflow, story, self.at, spent or {}, came or {})


def _steps(rows: Iterable[Any]) -> tuple[Step, ...]:
    return tuple(step_of(row) for row in rows)


def _listed(connection: Connection, now: int, tenant: str, subject: str) -> tuple[Listed, ...]:
    c = HISTORIES.c
    wanted = select(c.tenant, c.workflow, c.subject, c.size).order_by(c.until.desc(), c.workflow).limit(MOST)
    for column, value in ((c.tenant, tenant), (c.subject, subject)):
        wanted = wanted.where(column == value) if value else wanted
    found = connection.execute(wanted).all()
    names = [row.workflow for row in found]
    counts: dict[tuple[str, str, str], int] = {}
    for start in range(0, len(names), 500):
        counts |= _counts(connection, names[start : start + 500], now)
    return tuple(
        Listed(*row, *(counts.get((row.tenant, row.workflow, what), 0) for what in (State.RUNNING, State.OPEN, "parked")))
        for row in found
    )


def _counts(connection: Connection, names: list[str], now: int) -> dict[tuple[str, str, str], int]:
    s, p = STEPS.c, _PARKED.c
    going = (State.RUNNING.value, State.OPEN.value)
    steps = (
        select(s.tenant, s.workflow, s.state, func.count())
        .where(s.workflow.in_(names), s.state.in_(going))
        .group_by(s.tenant, s.workflow, s.state)
    )
    parked = (
        select(p.tenant, p.workflow, func.count())
        .where(p.workflow.in_(names), p.state == Waiting.OPEN.value, p.expires_at > now)
        .group_by(p.tenant, p.workflow)
    )
    found = {(tenant, workflow, state): count for tenant, workflow, state, count in connection.execute(steps)}
    return found | {(tenant, workflow, "parked"): count for tenant, workflow, count in connection.execute(parked)}


def _rows(connection: Connection, tenant: str, workflow: str, now: int) -> _Rows | None:
    h, s, p = HISTORIES.c, STEPS.c, _PARKED.c
    subject = connection.execute(select(h.subject).where(h.tenant == tenant, h.workflow == workflow)).scalar_one_or_none()
    waiting = (p.tenant == tenant, p.workflow == workflow, p.state == Waiting.OPEN.value, p.expires_at > now)
    columns = [p[name] for name in Parked.__slots__]
    parked = tuple(Parked(*row) for row in connection.execute(select(*columns).where(*waiting).order_by(p.id).limit(MOST)))
    if subject is None and not parked:
        return None
    mine: Select[Any] = select(STEPS).where(s.tenant == tenant, s.workflow == workflow).order_by(s.at, s.call).limit(MOST_STEPS)
    steps = connection.execute(mine).all()
    agents = sorted({row.resource[4:] for row in steps if row.state == State.OPEN.value and row.resource.startswith("a2a:")})
    return _Rows(subject or parked[0].subject, steps, parked, _tasks(connection, tenant, workflow, agents))


def _tasks(connection: Connection, tenant: str, workflow: str, agents: list[str]) -> tuple[tuple[str, str], ...]:
    if not agents:
        return ()
    c = _TASKS.c
    wanted = select(c.agent, c.task_id).where(c.tenant == tenant, c.workflow == workflow, c.agent.in_(agents))
    rows = connection.execute(wanted.order_by(c.created_at, c.task_id).limit(MOST))
    return tuple((row.agent, row.task_id) for row in rows)


def _looked(
    connection: Connection, now: Now, purses: Iterable[Purse], sinks: Iterable[tuple[str, Sequence[Workflow]]]
) -> tuple[dict[Purse, Spent], dict[tuple[str, str], Step]]:
    came: dict[tuple[str, str], Step] = {}
    for name, held in sinks:
        rules = [rule for rule in taints(held) if rule.deny.covers(name)]
        came |= labelled.came(connection, now.tenant, now.workflow, now.step(name), now.story, rules)
    return spent_as_seen(connection, now.tenant, purses), came
