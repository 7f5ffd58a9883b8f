"""Calls that wait for people to approve them: parked once, approved by whoever may, used once, whichever replica does what.

A thief of the tables learns who waits for an approval of what kind of call, not what it says.  Whoever may write to them can put
an end to approvals; a yes of somebody is sealed, and counts only for whom the gateway still finds entitled when the call goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Table, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state.tables import ApprovalGrant, ParkedCall

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gateway.state.worker import Worker

MOST_OPEN: Final = 100
"""Calls of one person that wait at a time."""
MOST_GRANTS: Final = 64
MOST_SHOWN: Final = 1000
MOST_SWEPT: Final = 200
KEPT_US: Final = 30 * 24 * 3600 * 1_000_000
"""How long one that is over can still be looked at; the ledger has it for good."""

_ROWS: Table = ParkedCall.__table__  # type: ignore[attr-defined]  # set by SQLModel at class creation
_GRANTS: Table = ApprovalGrant.__table__  # type: ignore[attr-defined]  # as above
_C = _ROWS.c


class State(StrEnum):
    """Where it stands."""

    OPEN = "open"
    DENIED = "denied"
    USED = "used"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Parked:
    """A row; times in UTC microseconds.  See `gateway.state.tables.ParkedCall`."""

    id: str
    tenant: str
    subject: str
    workflow: str
    digest: str
    bundle: str
    resource: str
    state: str
    noted: bool
    created_at: int
    expires_at: int
    sealed: bytes
    ended_at: int | None = None
    used_by: str = ""


@dataclass(frozen=True, slots=True)
class Yes:
    """That somebody approved."""

    subject: str
    at: int
    sealed: bytes


class ApprovalRows:
    """All of them."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def park(self, row: Parked) -> Parked:
        """The row that stands for this call now, durably: this one, or the one that was there before, open or denied.

        Refused(OVERLOADED) for a person for whom as many wait as may.
        """
        return await self._worker.run(lambda connection: _park(connection, row))

    async def get(self, name: str) -> Parked | None:
        """The one with that id."""
        where = _C.id == name
        found = await self._worker.run(lambda connection: _some(connection, where))
        return found[0] if found else None

    async def listed(self, tenant: str, now: int, *, over: bool = False) -> list[Parked]:
        """Those of a tenant that are open, or with `over` the others as well; newest first."""
        where: tuple[Any, ...] = (_C.tenant == tenant,)
        if not over:
            where = (*where, _C.state == State.OPEN.value, _C.expires_at > now)
        return await self._worker.run(lambda connection: _some(connection, *where))

    async def grants(self, name: str) -> list[Yes]:
        """Who said yes to one, in that order."""
        asked = select(_GRANTS.c.subject, _GRANTS.c.at, _GRANTS.c.sealed).where(_GRANTS.c.approval == name)
        asked = asked.order_by(_GRANTS.c.at, _GRANTS.c.subject).limit(MOST_GRANTS)
        return await self._worker.run(lambda connection: [Yes(*row) for row in connection.execute(asked)])

    async def grant(self, name: str, yes: Yes) -> bool:
        """Keep a yes, durably; whether the approval was still open.  A second one of the same person changes nothing."""
        return await self._worker.run(lambda connection: _grant(connection, name, yes))

    async def end(self, name: str, state: State, now: int, used_by: str = "") -> bool:
        """Open no more, durably; whether it was open until now: of several who want it one is told so."""
        values = {"state": state.value, "ended_at": now, "used_by": used_by}
        ended = update(_ROWS).where(_C.id == name, _C.state == State.OPEN.value, _C.expires_at > now).values(**values)
        return await self._worker.run(lambda connection: connection.execute(ended).rowcount == 1)

    async def noted(self, name: str, state: State) -> None:
        """The ledger has it in this state."""
        done = update(_ROWS).where(_C.id == name, _C.state == state.value).values(noted=True)
        await self._worker.run(lambda connection: connection.execute(done))

    async def sweep(self, now: int) -> list[Parked]:
        """Those whose time is over, and of which the ledger does not have that yet; what was over long ago is forgotten."""
        return await self._worker.run(lambda connection: _sweep(connection, now))


def _park(connection: Connection, row: Parked) -> Parked:
    over = _C.digest == row.digest, _C.state == State.OPEN.value, _C.expires_at <= row.created_at
    connection.execute(update(_ROWS).where(*over).values(state=State.EXPIRED.value, noted=False, ended_at=row.created_at))
    standing = _C.digest == row.digest, _C.state.in_((State.OPEN.value, State.DENIED.value)), _C.expires_at > row.created_at
    found = _some(connection, *standing)
    if found:
        return found[0]
    mine = _C.tenant == row.tenant, _C.subject == row.subject, _C.state == State.OPEN.value, _C.expires_at > row.created_at
    if connection.execute(select(func.count()).select_from(_ROWS).where(*mine)).scalar_one() >= MOST_OPEN:
        raise Refused(Code.OVERLOADED, f"at most {MOST_OPEN} calls of a person wait for an approval")
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    values = {name: getattr(row, name) for name in row.__slots__}
    connection.execute(dialect.insert(_ROWS).values(**values).on_conflict_do_nothing())
    found = _some(connection, *standing)
    if not found:  # in the way was one that was used up in this very moment
        raise Refused(Code.OVERLOADED, "the same call was approved and made at this moment")
    return found[0]


def _grant(connection: Connection, name: str, yes: Yes) -> bool:
    is_open = _C.id == name, _C.state == State.OPEN.value, _C.expires_at > yes.at
    held = select(_C.id).where(*is_open).with_for_update()  # nobody ends it meanwhile
    if connection.execute(held).one_or_none() is None:
        return False
    count = select(func.count()).select_from(_GRANTS).where(_GRANTS.c.approval == name)
    if connection.execute(count).scalar_one() >= MOST_GRANTS:
        return True  # enough of them to tell by
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    values = {"approval": name, "subject": yes.subject, "at": yes.at, "sealed": yes.sealed}
    newer = {"at": yes.at, "sealed": yes.sealed}  # what their token says now counts: a revoked one was replaced
    keys = [_GRANTS.c.approval, _GRANTS.c.subject]
    connection.execute(dialect.insert(_GRANTS).values(**values).on_conflict_do_update(index_elements=keys, set_=newer))
    return True


def _some(connection: Connection, *where: Any) -> list[Parked]:
    columns = [_C[name] for name in Parked.__slots__]
    newest = select(*columns).where(*where).order_by(_C.id.desc()).limit(MOST_SHOWN)
    return [Parked(*row) for row in connection.execute(newest)]


def _sweep(connection: Connection, now: int) -> list[Parked]:
    late = select(_C.id).where(_C.state == State.OPEN.value, _C.expires_at <= now).limit(MOST_SWEPT)
    values = {"state": State.EXPIRED.value, "noted": False, "ended_at": now}
    connection.execute(update(_ROWS).where(_C.id.in_(late.scalar_subquery())).values(**values))
    long_ago = select(_C.id).where(_C.expires_at <= now - KEPT_US, _C.noted.is_(True)).limit(MOST_SWEPT)
    gone = [row.id for row in connection.execute(long_ago)]
    if gone:
        connection.execute(delete(_GRANTS).where(_GRANTS.c.approval.in_(gone)))
        connection.execute(delete(_ROWS).where(_C.id.in_(gone)))
    connection.execute(delete(_GRANTS).where(_GRANTS.c.at <= now - 2 * KEPT_US))  # of approvals that were erased
    return _some(connection, _C.state == State.EXPIRED.value, _C.noted.is_(False))[:MOST_SWEPT]
