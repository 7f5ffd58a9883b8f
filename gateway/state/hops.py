"""Calls that were handed to agents which cannot show a token, by the trace under which they went; sealed before they come here.

A thief of the table learns how many calls went to which agent, and when; a writer of it can undo a correlation, not make one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Table, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state.tables import HandedHop

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gateway.state.worker import Worker

MOST_OF_AN_AGENT = 65_536
"""Live rows of one agent: one more call is refused, as forgetting an older one would take its person from it."""
MOST_OF_A_TRACE = 16
"""What is read of one trace; where more stand under it, nobody can tell them apart anyway."""
_COUNTED_EVERY = 256

_HOPS: Table = HandedHop.__table__  # type: ignore[attr-defined]  # set by SQLModel at class creation


class HandedHops:
    """Rows by agent and trace; what has ended is not given out, and is deleted as others come."""

    def __init__(self, worker: Worker, most: int = MOST_OF_AN_AGENT) -> None:
        self._worker = worker
        self._most = most
        self._room: dict[str, int] = {}  # how many more before the agent's rows are counted again

    async def hand(  # noqa: PLR0917  a row's columns, in their order
        self, agent: str, trace: str, call: str, sealed: bytes, until: int, now: int
    ) -> None:
        """Durable on return; `until` and `now` in epoch seconds.  Refused(OVERLOADED) where the agent has as many as it may."""
        counted = self._room.get(agent, 0) > 0

        def work(connection: Connection) -> int | None:
            room = None if counted else _room(connection, agent, now, self._most)
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            row = {"agent": agent, "trace": trace, "call": call, "sealed": sealed, "until": until}
            connection.execute(dialect.insert(_HOPS).values(row).on_conflict_do_nothing())
            return room

        if counted:
            self._room[agent] -= 1
        room = await self._worker.run(work)
        if room is not None:
            self._room[agent] = room - 1

    async def handed(self, agent: str, trace: str, now: int) -> tuple[tuple[str, bytes], ...]:
        """Call and sealed bytes of each that still counts, newest last; one more than `MOST_OF_A_TRACE` at most."""
        wanted = (
            select(_HOPS.c.call, _HOPS.c.sealed)
            .where(_HOPS.c.agent == agent, _HOPS.c.trace == trace, _HOPS.c.until > now)
            .order_by(_HOPS.c.call)
            .limit(MOST_OF_A_TRACE + 1)
        )

        def work(connection: Connection) -> tuple[tuple[str, bytes], ...]:
            return tuple((row.call, row.sealed) for row in connection.execute(wanted))

        return await self._worker.run(work)


def _room(connection: Connection, agent: str, now: int, most: int) -> int:
    """How many more may come before the next count, the ended ones deleted; Refused(OVERLOADED) where none may."""
    connection.execute(delete(_HOPS).where(_HOPS.c.until <= now))
    rows = select(_HOPS.c.call).where(_HOPS.c.agent == agent).limit(most).subquery()
    room = most - int(connection.execute(select(func.count()).select_from(rows)).scalar_one())
    if room <= 0:
        raise Refused(Code.OVERLOADED, "too many calls of this agent wait for their answers")
    return min(room, _COUNTED_EVERY)
