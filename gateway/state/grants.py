"""Standing grants: what a person lets an agent do in their name while they are away.  A row is never changed but to revoke it.

A thief of the table learns who trusts which agent; whoever may write to it can let a registered agent act for anybody, within
what policy grants to that person and agent.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Table, delete, func, or_, select, update

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state.tables import StandingGrant
from gateway.state.worker import Worker

MOST_OF_A_PERSON = 100
"""Grants of one person that are in force at a time."""
MOST_SHOWN = 1000
KEPT_SECONDS = 24 * 3600
"""For so long one that is over can still be listed; the ledger has it for good."""

_GRANTS: Table = StandingGrant.__table__  # type: ignore[attr-defined]  # set by SQLModel at class creation
_COLUMNS = tuple(
    _GRANTS.c[name] for name in ("id", "tenant", "subject", "agent", "scope", "definition", "ends", "created_at", "revoked_at")
)


@dataclass(frozen=True, slots=True)
class Grant:
    """One of them.  scope is written as a token says it; ends, created_at and revoked_at in epoch seconds."""

    id: str
    tenant: str
    subject: str
    agent: str
    scope: str
    definition: str
    ends: int
    created_at: int
    revoked_at: int | None = None

    def live(self, now: int) -> bool:
        """Whether it counts now."""
        return self.revoked_at is None and now < self.ends


class Grants:
    """All of them, whoever made them."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def add(self, grant: Grant) -> None:
        """Durable on return; Refused(OVERLOADED) for a person who has as many as one may have."""
        await self._worker.run(lambda connection: _add(connection, grant))

    async def get(self, name: str) -> Grant | None:
        """The grant of that id, in force or not."""
        if not 1 <= len(name) <= 40:
            return None
        return await self._worker.run(lambda connection: _get(connection, name))

    async def of(self, tenant: str, subject: str) -> list[Grant]:
        """A person's own, newest first."""
        where = _GRANTS.c.tenant == tenant, _GRANTS.c.subject == subject
        return await self._worker.run(lambda connection: _some(connection, *where))

    async def all(self, tenant: str) -> list[Grant]:
        """Those of a tenant that are not revoked, newest first."""
        where = _GRANTS.c.tenant == tenant, _GRANTS.c.revoked_at.is_(None)
        return await self._worker.run(lambda connection: _some(connection, *where))

    async def revoke(self, name: str, at: int) -> bool:
        """Whether it was in force until now; durable on return."""
        return await self._worker.run(lambda connection: _revoke(connection, name, at))


def _add(connection: Connection, grant: Grant) -> None:
    mine = _GRANTS.c.tenant == grant.tenant, _GRANTS.c.subject == grant.subject
    live = _GRANTS.c.revoked_at.is_(None), _GRANTS.c.ends > grant.created_at
    if connection.execute(select(func.count()).select_from(_GRANTS).where(*mine, *live)).scalar_one() >= MOST_OF_A_PERSON:
        raise Refused(Code.OVERLOADED, f"a person has at most {MOST_OF_A_PERSON} standing grants")
    over = grant.created_at - KEPT_SECONDS
    connection.execute(delete(_GRANTS).where(*mine, or_(_GRANTS.c.revoked_at < over, _GRANTS.c.ends < over)))
    row = {column.name: getattr(grant, column.name) for column in _COLUMNS}
    connection.execute(_GRANTS.insert().values(row))


def _get(connection: Connection, name: str) -> Grant | None:
    row = connection.execute(select(*_COLUMNS).where(_GRANTS.c.id == name)).one_or_none()
    return None if row is None else Grant(*row)


def _some(connection: Connection, *where: object) -> list[Grant]:
    newest = select(*_COLUMNS).where(*where).order_by(_GRANTS.c.id.desc()).limit(MOST_SHOWN)  # type: ignore[arg-type]  # clauses
    return [Grant(*row) for row in connection.execute(newest)]


def _revoke(connection: Connection, name: str, at: int) -> bool:
    standing = _GRANTS.c.id == name, _GRANTS.c.revoked_at.is_(None)
    return connection.execute(update(_GRANTS).where(*standing).values(revoked_at=at)).rowcount == 1
