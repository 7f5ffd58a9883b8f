"""What is still to be told, at least once: written before the call goes, delivered by whichever replica comes first.

What is told is sealed: a thief learns how much there is for which receiver, and about whom; a writer could keep something from
being told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, Table, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state.tables import Outgoing
from gateway.state.worker import Worker

_OUT: Table = Outgoing.__table__  # type: ignore[attr-defined]  # set by SQLModel at class creation
_C = _OUT.c
MOST_WAITING = 10_000
"""Of one receiver: more is refused, as leaving something out would not be telling it."""


class Notice(NamedTuple):
    """One thing to tell.

    attempts     so many have begun, this one among them.
    made, until  in UTC microseconds: then it is given up.
    subject      whom it is about, and with whom it is erased; "" for nobody.
    """

    id: str
    receiver: str
    sealed: bytes
    attempts: int
    made: int
    until: int
    subject: str = ""


class Outbox:
    """What waits, by when it is due."""

    def __init__(self, worker: Worker, most: int = MOST_WAITING) -> None:
        self._worker = worker
        self._most = most

    async def put(self, notices: Sequence[Notice]) -> None:
        """All of them, durably; one whose id is there already is that one.  `Refused(OVERLOADED)` where too much waits."""

        def work(connection: Connection) -> None:
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            for each in notices:
                rows = select(_C.id).where(_C.receiver == each.receiver).limit(self._most).subquery()
                if connection.execute(select(func.count()).select_from(rows)).scalar_one() >= self._most:
                    raise Refused(Code.OVERLOADED, f"too much waits to be told to {each.receiver}")
                values = {**each._asdict(), "due": each.made}
                connection.execute(dialect.insert(_OUT).values(**values).on_conflict_do_nothing())

        await self._worker.run(work)

    async def claim(self, receivers: Sequence[str], most: int, now: int, until: int) -> list[Notice]:
        """What is due for these, oldest first, for this replica alone until `until`."""

        def work(connection: Connection) -> list[Notice]:
            rows = select(_OUT).where(_C.due <= now, _C.receiver.in_(receivers)).order_by(_C.due).limit(most)
            if connection.dialect.name == "postgresql":
                rows = rows.with_for_update(skip_locked=True)
            found = [
                Notice(row.id, row.receiver, row.sealed, row.attempts + 1, row.made, row.until, row.subject)
                for row in connection.execute(rows)
            ]
            claimed = update(_OUT).where(_C.id.in_([each.id for each in found]))
            connection.execute(claimed.values(due=until, attempts=_C.attempts + 1))
            return found

        return await self._worker.run(work)

    async def told(self, notice: str) -> None:
        """It was taken, is given up, or need not be told any more: forget it."""
        await self._worker.run(lambda connection: connection.execute(delete(_OUT).where(_C.id == notice)))

    async def again(self, notice: str, due: int) -> None:
        """It is tried again then."""
        await self._worker.run(lambda connection: connection.execute(update(_OUT).where(_C.id == notice).values(due=due)))
