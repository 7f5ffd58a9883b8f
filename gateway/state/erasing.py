"""What the state store holds of a person, by the name of what it is for; each is erased by itself, and leaves no bytes behind.

What is sealed and over within minutes (handed hops, tokens kept for exchanges, tickets) is left to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, Table, delete, select
from sqlalchemy.sql.elements import ColumnElement

from gateway.state.history_rows import HISTORIES, MARKS, PURSES, STEPS
from gateway.state.tables import (
    ApprovalGrant,
    ContextOwner,
    Kill,
    Outgoing,
    ParkedCall,
    PushConfig,
    StandingGrant,
    TaskOwner,
    VaultToken,
)
from gateway.state.worker import Worker

_TABLES: Final[dict[str, tuple[Table, ...]]] = {
    "vault": (VaultToken.__table__,),  # type: ignore[attr-defined]  # set by SQLModel at class creation
    "grants": (StandingGrant.__table__,),  # type: ignore[attr-defined]  # as above
    "tasks": (TaskOwner.__table__, ContextOwner.__table__, PushConfig.__table__),  # type: ignore[attr-defined]  # as above
    "approvals": (ParkedCall.__table__, ApprovalGrant.__table__),  # type: ignore[attr-defined]  # as above
    "kills": (Kill.__table__,),  # type: ignore[attr-defined]  # as above
    "notices": (Outgoing.__table__,),  # type: ignore[attr-defined]  # as above
    "workflows": (MARKS, STEPS, HISTORIES, PURSES),
}
STORES: Final = tuple(_TABLES)
"""vault: credentials for upstreams.  grants: standing ones.  tasks: whose an agent's tasks are,
and where their news goes.  approvals: calls that waited for somebody's yes,
and yeses that were given.  kills: those that were lifted;
one in force keeps somebody out, and stays.
notices: what waits to be told of them.
workflows: their steps in histories."""


class PersonRows:
    """The rows about one person."""

    def __init__(self, worker: Worker, forget: Callable[[str], None] = lambda _subject: None) -> None:
        """`forget` has this process forget what it remembers of a person's histories."""
        self._worker = worker
        self._forget = forget

    async def erase(self, store: str, subject: str) -> int:
        """Delete them; how many there were.  On return they are in no page of the database either; `Refused` where it fails."""
        tables = _TABLES[store]
        deleted = await self._worker.run(lambda connection: _delete(connection, tables, subject))
        if STEPS in tables:
            self._forget(subject)
        await self._worker.scrub([table.name for table in tables])
        return deleted


def _delete(connection: Connection, tables: tuple[Table, ...], subject: str) -> int:
    return sum(connection.execute(delete(table).where(*_of(table, subject))).rowcount for table in tables)


def _of(table: Table, subject: str) -> tuple[ColumnElement[bool], ...]:
    if table is MARKS:  # before the steps that they name
        return (MARKS.c.call.in_(select(STEPS.c.call).where(STEPS.c.subject == subject)),)
    if table.name == "kills":
        return table.c.kind == "user", table.c.target == subject, table.c.lifted_at.is_not(None)
    return (table.c.subject == subject,)
