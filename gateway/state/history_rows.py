"""Rows of workflows' histories, within one transaction: who holds a row's lock sees what everybody before it wrote.

Order of locks, the same everywhere: a workflow's own row, then purses and marks by their keys.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from sqlalchemy import BindParameter, ColumnElement, Connection, Table, bindparam, case, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.model import Refused, random16
from gateway.reasons import Code
from gateway.state.prepared import Prepared
from gateway.state.tables import WorkflowHistory, WorkflowMark, WorkflowPurse, WorkflowStep
from policies.workflows import kept
from policies.workflows.judge import MICRO, Purse, Shared, Spent, spent_by
from policies.workflows.story import State, Step, Story

HISTORIES: Final[Table] = WorkflowHistory.__table__  # type: ignore[attr-defined]  # set by SQLModel at class creation
STEPS: Final[Table] = WorkflowStep.__table__  # type: ignore[attr-defined]  # as above
PURSES: Final[Table] = WorkflowPurse.__table__  # type: ignore[attr-defined]  # as above
MARKS: Final[Table] = WorkflowMark.__table__  # type: ignore[attr-defined]  # as above

MOST_REMEMBERED: Final = 200_000
"""Steps of all stories that are kept in memory together."""
MOST_CLAIMED: Final = 200
"""Open steps that one answer settles."""
_DAY: Final = 86_400
_OF_SCOPE: Final = {"workflow": "workflow", "subject": "subject", "agent": "actor", "tool": "resource"}


def _later(one: ColumnElement[int], other: BindParameter[int]) -> ColumnElement[int]:
    return case((one < other, other), else_=one)


_H, _S, _P = HISTORIES.c, STEPS.c, PURSES.c
_UNSETTLED: Final = or_(_S.state == State.RUNNING.value, _S.state == State.OPEN.value)
_GROW: Final = Prepared(
    update(HISTORIES)
    .where(_H.tenant == bindparam("tenant_"), _H.workflow == bindparam("workflow_"))
    .values(version=_H.version + 1, size=_H.size + bindparam("more"), until=_later(_H.until, bindparam("until_")))
    .returning(_H.epoch, _H.version, _H.size)
)
_NEWER: Final = Prepared(
    select(STEPS)
    .where(_S.tenant == bindparam("tenant_"), _S.workflow == bindparam("workflow_"), _S.version > bindparam("after"))
    .order_by(_S.version)
)
_SETTLE: Final = Prepared(
    update(STEPS)
    .where(_S.call == bindparam("call_"), _UNSETTLED, _S.state != bindparam("state_"), _S.settler == bindparam("by_"))
    .values(state=bindparam("state_"), results=bindparam("results_"), task=bindparam("task_"), version=bindparam("version_"))
    .returning(_S.purses)
)
_PURSE: Final = Prepared(select(_P.drawn, _P.total).where(_P.key == bindparam("key_")).with_for_update())
_TAKE: Final = Prepared(
    update(PURSES).where(_P.key == bindparam("key_")).values(drawn=bindparam("drawn_"), total=bindparam("total_"))
)
_ADD: Final = Prepared(STEPS.insert().values({column.name: bindparam(column.name) for column in _S}))


class _Row(NamedTuple):
    call: str
    tenant: str
    workflow: str
    version: int
    kind: str
    resource: str
    actor: str
    subject: str
    at: int
    state: str
    begun: str
    results: str
    purses: str
    task: str
    settler: str  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kept:
    """A step with its workflow."""

    tenant: str
    workflow: str
    step: Step


@dataclass(frozen=True, slots=True)
class Head:
    """A workflow's own row, locked: `version` and `size` with the step that it was locked for."""

    tenant: str
    workflow: str
    epoch: str
    version: int
    size: int


def lock(connection: Connection, tenant: str, workflow: str, subject: str, until: int) -> Head:
    """The row, made where there is none, grown by one step, and nobody else's until this transaction ends."""
    found = _grown(connection, tenant, workflow, 1, until)
    if found is None:
        row = {"tenant": tenant, "workflow": workflow, "epoch": random16().hex(), "version": 0, "size": 0}
        insert(connection, HISTORIES, [{**row, "subject": subject, "until": until}])
        found = _grown(connection, tenant, workflow, 1, until)
    if found is None:
        raise Refused(Code.INTERNAL_ERROR, "the state store lost a workflow")
    return found


def _grown(connection: Connection, tenant: str, workflow: str, more: int, until: int) -> Head | None:
    rows = _GROW(connection, tenant_=tenant, workflow_=workflow, more=more, until_=until)
    return Head(tenant, workflow, *rows[0]) if rows else None


def settle(connection: Connection, key: tuple[str, str], step: Step, by: str = "") -> bool:
    """What became of a step that runs or is open; whether it was one.  What came to nothing gives back what it drew.

    by  the record for which it was claimed; "" for a step that nobody claimed.
    """
    state, results = step.state, kept.results(step.results)
    head = _grown(connection, *key, 0, 0)
    if head is None:
        return False
    said = {"state_": state.value, "results_": results, "task_": step.task, "version_": head.version}
    rows = _SETTLE(connection, call_=step.id, by_=by, **said)
    if rows and not state.counts:
        give_back(connection, str(rows[0][0]))
    return bool(rows)


def add(connection: Connection, row: dict[str, Any]) -> None:
    """Add a step."""
    _ADD(connection, **row)


def insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert what is not there; of two at once the database lets one wait and then see the other's row."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)


def step_of(row: Any) -> Step:
    """A row as a step."""
    return Step(
        id=row.call,
        resource=row.resource,
        actor=row.actor,
        subject=row.subject,
        at=row.at,
        state=State(row.state),
        results=kept.read_results(row.results),
        task=row.task,
        **kept.read_begun(row.begun),
    )


def row_of(tenant: str, workflow: str, version: int, step: Step, taken: str) -> dict[str, Any]:
    """A step as a row; `taken` is what it drew."""
    return {
        "call": step.id,
        "tenant": tenant,
        "workflow": workflow,
        "version": version,
        "kind": "call",
        "resource": step.resource,
        "actor": step.actor,
        "subject": step.subject,
        "at": step.at,
        "state": step.state.value,
        "begun": kept.begun(step),
        "results": kept.results(step.results),
        "purses": taken,
        "task": step.task,
        "settler": "",
    }


# --- tasks


def open_of(connection: Connection, tenant: str, tasks: Collection[str]) -> list[tuple[Kept, str]]:
    """Open steps of these tasks, each with the record for which it is claimed; nobody else claims until this ends."""
    where = _S.tenant == tenant, _S.task.in_(tasks), _S.state == State.OPEN.value, text("task <> ''")  # as the index says it
    found = connection.execute(select(STEPS).where(*where).order_by(_S.call).limit(MOST_CLAIMED).with_for_update())
    return [(Kept(row.tenant, row.workflow, step_of(row)), row.settler) for row in found]


def claim(connection: Connection, calls: Collection[str], before: str, record: str) -> None:
    """Have these steps, if they are open, settled by this record instead of that; "" stands for none."""
    if calls:
        where = _S.call.in_(calls), _S.state == State.OPEN.value, _S.settler == before
        connection.execute(update(STEPS).where(*where).values(settler=record))


def claimed(connection: Connection, most: int) -> tuple[tuple[Kept, str], ...]:
    """Open steps that are claimed, each with the record for which it is."""
    where = _S.state == State.OPEN.value, _S.settler != ""
    found = connection.execute(select(STEPS).where(*where).order_by(_S.call).limit(most))
    return tuple((Kept(row.tenant, row.workflow, step_of(row)), str(row.settler)) for row in found)


# --- stories


@dataclass(slots=True)
class _Told:
    epoch: str
    version: int = 0
    story: Story = field(default_factory=Story)


class Stories:
    """What is known of workflows so far, so that a decision reads what is new since, and no more.

    Everything in it is committed: a story is told on only under its workflow's lock.
    """

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        self._told: OrderedDict[tuple[str, str], _Told] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def told(self, connection: Connection, head: Head) -> Story:
        """The story as of now; whoever asks holds the lock."""
        key = head.tenant, head.workflow
        with self._lock:
            told = self._told.pop(key, None)
            self._size -= len(told.story) if told is not None else 0
        before = head.version - 1  # the lock was a change itself
        if told is None or told.epoch != head.epoch or told.version > before:
            told = _Told(head.epoch)
        if told.version < before:
            for row in _NEWER(connection, tenant_=head.tenant, workflow_=head.workflow, after=told.version):
                told.story.put(step_of(_Row._make(row)))
            told.version = before
        with self._lock:
            self._told[key] = told
            self._size += len(told.story)
            while self._size > self._most and len(self._told) > 1:
                _, gone = self._told.popitem(last=False)
                self._size -= len(gone.story)
        return told.story

    def forget(self, subject: str) -> None:
        """Every story that a person has a step in."""
        with self._lock:
            self._drop([key for key, told in self._told.items() if any(s.subject == subject for s in told.story.steps.values())])

    def keep_known(self, connection: Connection) -> None:
        """Drop the stories whose rows are gone, or were made anew: erased, or over, perhaps by another replica."""
        with self._lock:
            known = {key: told.epoch for key, told in self._told.items()}
        names = sorted({workflow for _, workflow in known})
        stands: dict[tuple[str, str], str] = {}
        for start in range(0, len(names), 500):
            wanted = select(_H.tenant, _H.workflow, _H.epoch).where(_H.workflow.in_(names[start : start + 500]))
            stands |= {(row.tenant, row.workflow): row.epoch for row in connection.execute(wanted)}
        with self._lock:
            self._drop([key for key, epoch in known.items() if stands.get(key) != epoch])

    def _drop(self, keys: Iterable[tuple[str, str]]) -> None:
        for key in keys:
            gone = self._told.pop(key, None)
            self._size -= len(gone.story) if gone is not None else 0


# --- purses


def key_of(tenant: str, purse: Purse) -> str:
    """Under which a purse is kept: by what it counts, not by how much there may be of it."""
    budget = purse.budget
    by = budget.by.text if budget.by is not None else ""
    return _digest(tenant, purse.workflow, budget.tool.text, by, budget.sum or "", [list(pair) for pair in purse.scope])


def mark_of(tenant: str, about: Shared) -> str:
    """Under which steps of different workflows meet."""
    return _digest(tenant, about.workflow, sorted(step.text for step in about.rule.steps), [list(pair) for pair in about.marks])


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def spent_of(connection: Connection, tenant: str, purses: Iterable[Purse], ends: int) -> dict[Purse, Spent]:
    """What of these purses is spent, each locked; one that nobody has opened yet is filled from the steps."""
    spent: dict[Purse, Spent] = {}
    for key, purse in sorted((key_of(tenant, purse), purse) for purse in purses):
        rows = _PURSE(connection, key_=key)
        if not rows:
            insert(connection, PURSES, [_empty(key, purse, ends)])
            rows = _PURSE(connection, key_=key)
        if not rows:  # swept away meanwhile
            raise Refused(Code.INTERNAL_ERROR, "the state store lost a purse")
        ((drawn, total),) = rows
        if drawn is None:
            spent[purse] = _counted(connection, tenant, purse)
            _keep(connection, key, spent[purse])
        else:
            spent[purse] = Spent(drawn, Decimal(total))
    return spent


def spent_as_seen(connection: Connection, tenant: str, purses: Iterable[Purse]) -> dict[Purse, Spent]:
    """The same for whoever only looks: nothing is locked, and nothing opened."""
    spent: dict[Purse, Spent] = {}
    for purse in purses:
        row = connection.execute(select(_P.drawn, _P.total).where(_P.key == key_of(tenant, purse))).one_or_none()
        known = row is not None and row.drawn is not None
        spent[purse] = Spent(row.drawn, Decimal(row.total)) if known and row is not None else _counted(connection, tenant, purse)
    return spent


def _empty(key: str, purse: Purse, ends: int) -> dict[str, Any]:
    scope = dict(purse.scope)
    until = ends if "day" not in scope else _end_of(scope["day"])
    return {"key": key, "subject": scope.get("subject", ""), "drawn": None, "total": "0", "until": until}


def _end_of(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) + 2 * _DAY


def _counted(connection: Connection, tenant: str, purse: Purse) -> Spent:
    c, scope = STEPS.c, dict(purse.scope)
    where = [c.tenant == tenant, *(c[_OF_SCOPE[name]] == value for name, value in scope.items() if name != "day")]
    if "day" in scope:
        end = _end_of(scope["day"]) - _DAY
        where += [c.at >= (end - _DAY) * MICRO, c.at < end * MICRO]
    rows = connection.execute(select(STEPS).where(*where))
    return spent_by(purse, ((row.workflow, step_of(row)) for row in rows))


def draw(connection: Connection, tenant: str, spent: Mapping[Purse, Spent], shares: Mapping[Purse, Decimal]) -> str:
    """Take a step's part of every purse, all of them locked; what it took, as its row keeps it."""
    for purse, share in shares.items():
        _keep(connection, key_of(tenant, purse), spent[purse].plus(1, share))
    return taken(tenant, shares)


def taken(tenant: str, shares: Mapping[Purse, Decimal]) -> str:
    """What a step took of its purses, as its row keeps it."""
    return json.dumps({key_of(tenant, purse): str(share) for purse, share in shares.items()}, sort_keys=True)


def give_back(connection: Connection, took: str) -> None:
    """What a step took, as it came to nothing."""
    for key, share in sorted(json.loads(took).items()):
        for drawn, total in _PURSE(connection, key_=key):
            if drawn is not None:
                _keep(connection, key, Spent(drawn, Decimal(total)).plus(-1, -Decimal(share)))


def _keep(connection: Connection, key: str, spent: Spent) -> None:
    _TAKE(connection, key_=key, drawn_=spent.count, total_=str(spent.total))


# --- what other workflows did


def others(connection: Connection, tenant: str, about: Iterable[Shared], ends: int) -> dict[Shared, tuple[Step, ...]]:
    """Steps about the same thing, of every workflow; nobody else adds to them until this transaction ends."""
    wanted = sorted((mark_of(tenant, each), each) for each in about)
    if not wanted:
        return {}
    keys = [key for key, _ in wanted]  # a purse that counts nothing: its row is the lock
    insert(connection, PURSES, [{"key": key, "subject": "", "drawn": 0, "total": "0", "until": ends} for key in keys])
    connection.execute(select(PURSES.c.key).where(PURSES.c.key.in_(keys)).order_by(PURSES.c.key).with_for_update()).all()
    found = {}
    for key, each in wanted:
        meeting = select(MARKS.c.call).where(MARKS.c.mark == key)
        rows = connection.execute(select(STEPS).where(STEPS.c.call.in_(meeting)))
        found[each] = tuple(step_of(row) for row in rows)
    return found
