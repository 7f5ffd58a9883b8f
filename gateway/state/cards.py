"""What agents last said of themselves, so that a change is noticed across restarts and replicas, and recorded once.

A writer of it can keep a change of a card from being recorded, or have one recorded that never was; not what is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Table, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.state.tables import AgentCard

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gateway.state.worker import Worker

_CARDS: Table = AgentCard.__table__  # type: ignore[attr-defined]  # set by SQLModel at class creation
_C = _CARDS.c


@dataclass(frozen=True, slots=True)
class LastHeard:
    """A row.  verdict: what the signatures came to, or why the card is not shown."""

    digest: str
    verdict: str


class CardRows:
    """A row an agent."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def get(self, agent: str) -> LastHeard | None:
        """What the agent was last heard to say; None where it was never heard."""
        row = select(_C.digest, _C.verdict).where(_C.agent == agent)

        def work(connection: Connection) -> LastHeard | None:
            found = connection.execute(row).one_or_none()
            return None if found is None else LastHeard(found.digest, found.verdict)

        return await self._worker.run(work)

    async def put(self, agent: str, last: LastHeard, at: int) -> None:
        """Keep it instead of what was kept, durably; what was heard later stays."""
        values = {"digest": last.digest, "verdict": last.verdict, "heard_at": at}

        def work(connection: Connection) -> None:
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            connection.execute(dialect.insert(_CARDS).values(agent=agent, **values).on_conflict_do_nothing())
            connection.execute(update(_CARDS).where(_C.agent == agent, _C.heard_at <= at).values(**values))

        await self._worker.run(work)
