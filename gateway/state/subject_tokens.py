"""People's access tokens, sealed before they come here, one a workflow.  A thief of the table learns their number and length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Table, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.state.tables import SubjectToken

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gateway.state.worker import Worker

_TOKENS: Table = SubjectToken.__table__  # type: ignore[attr-defined]  # set by SQLModel at class creation


class SubjectTokens:
    """Sealed tokens by workflow; what has ended is not given out, and goes with the next one that is kept."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def keep(self, workflow: str, sealed: bytes, until: int, now: int) -> None:
        """Durable on return, in the place of an earlier one of the workflow; `until` and `now` in epoch seconds."""

        def work(connection: Connection) -> None:
            connection.execute(delete(_TOKENS).where(_TOKENS.c.until <= now))
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            row = {"sealed": sealed, "until": until}
            insert = dialect.insert(_TOKENS).values(workflow=workflow, **row)
            connection.execute(insert.on_conflict_do_update(index_elements=["workflow"], set_=row))

        await self._worker.run(work)

    async def get(self, workflow: str, now: int) -> bytes | None:
        """The sealed token; None where there is none that still counts."""
        wanted = select(_TOKENS.c.sealed).where(_TOKENS.c.workflow == workflow, _TOKENS.c.until > now)
        found: bytes | None = await self._worker.run(lambda connection: connection.execute(wanted).scalar_one_or_none())
        return found

    async def drop(self, workflow: str) -> None:
        """Forget it: the workflow is over."""
        await self._worker.run(lambda connection: connection.execute(delete(_TOKENS).where(_TOKENS.c.workflow == workflow)))
