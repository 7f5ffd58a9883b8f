"""Rows of workflows' histories, within one transaction: who holds a row's lock sees what everybody before it wrote.

Order of locks, the same everywhere: a workflow's own row, then purses and marks by their keys.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import Connection, Row, Table, and_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

from gateway.model import Refused, random16
from gateway.reasons import Code
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
_DAY: Final = 86_400
_OF_SCOPE: Final = {"workflow": "workflow", "subject": "subject", "agent": "actor", "tool": "resource"}


@dataclass(frozen=True, slots=True)
class Head:
    """A workflow's own row, locked."""

    tenant: str
    workflow: str
    epoch: str
    version: int
    size: int
    until: int

    @property
    def mine(self) -> ColumnElement[bool]:
        """Its row."""
        return and_(HISTORIES.c.tenant == self.tenant, HISTORIES.c.workflow == self.workflow)


def lock(connection: Connection, tenant: str, workflow: str, subject: str, until: int) -> Head:
    """The row, made where there is none, and nobody else's until this transaction ends."""
    row = {"tenant": tenant, "workflow": workflow, "epoch": random16().hex(), "version": 0, "size": 0}
    found = _locked(connection, tenant, workflow)
    if found is None:
        insert(connection, HISTORIES, [{**row, "subject": subject, "until": until}])
        found = _locked(connection, tenant, workflow)
    if found is None:
        raise Refused(Code.INTERNAL_ERROR, "the state store lost a workflow")
    return found


def locked(connection: Connection, tenant: str, workflow: str) -> Head | None:
    """The same, where there is one."""
    return _locked(connection, tenant, workflow)


def _locked(connection: Connection, tenant: str, workflow: str) -> Head | None:
    c = HISTORIES.c
    row = connection.execute(
        select(c.epoch, c.version, c.size, c.until).where(c.tenant == tenant, c.workflow == workflow).with_for_update()
    ).one_or_none()
    return None if row is None else Head(tenant, workflow, *row)


def insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert what is not there; of two at once the database lets one wait and then see the other's row."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)


def step_of(row: Row[Any]) -> Step:
    """A row as a step."""
    return Step(
        id=row.call,
        resource=row.resource,
        actor=row.actor,
        subject=row.subject,
        at=row.at,
        state=State(row.state),
        results=kept.read_results(row.results),
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
    }


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
        if told is None or told.epoch != head.epoch or told.version > head.version:
            told = _Told(head.epoch)
        if told.version < head.version:
            c = STEPS.c
            mine = c.tenant == head.tenant, c.workflow == head.workflow, c.version > told.version
            for row in connection.execute(select(STEPS).where(*mine).order_by(c.version)):
                told.story.put(step_of(row))
            told.version = head.version
        with self._lock:
            self._told[key] = told
            self._size += len(told.story)
            while self._size > self._most and len(self._told) > 1:
                _, gone = self._told.popitem(last=False)
                self._size -= len(gone.story)
        return told.story


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
    wanted = sorted((key_of(tenant, purse), purse) for purse in purses)
    if not wanted:
        return {}
    keys = [key for key, _ in wanted]
    c = PURSES.c
    rows = select(c.key, c.drawn, c.total).where(c.key.in_(keys)).order_by(c.key).with_for_update()
    found = {row.key: row for row in connection.execute(rows)}
    missing = [(key, purse) for key, purse in wanted if key not in found]
    if missing:
        insert(connection, PURSES, [_empty(key, purse, ends) for key, purse in missing])
        found = {row.key: row for row in connection.execute(rows)}
    spent: dict[Purse, Spent] = {}
    for key, purse in wanted:
        row = found.get(key)
        if row is None:  # swept away meanwhile
            raise Refused(Code.INTERNAL_ERROR, "the state store lost a purse")
        if row.drawn is None:
            spent[purse] = _counted(connection, tenant, purse)
            _keep(connection, key, spent[purse])
        else:
            spent[purse] = Spent(row.drawn, Decimal(row.total))
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
    shares = json.loads(took)
    c = PURSES.c
    rows = select(c.key, c.drawn, c.total).where(c.key.in_(list(shares))).order_by(c.key).with_for_update()
    for row in connection.execute(rows).all() if shares else ():
        if row.drawn is not None:
            _keep(connection, row.key, Spent(row.drawn, Decimal(row.total)).plus(-1, -Decimal(shares[row.key])))


def _keep(connection: Connection, key: str, spent: Spent) -> None:
    connection.execute(update(PURSES).where(PURSES.c.key == key).values(drawn=spent.count, total=str(spent.total)))


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
