"""Where clients want their tasks' news: webhook, token and credentials sealed, found by the callback that the agent was given.

A thief of the table learns how many configurations there are at which agent; a writer of it can take some away, not make one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Table, delete, func, select, update

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state.tables import PushConfig

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gateway.state.worker import Worker

MOST_OF_A_PERSON = 1000
"""Live configurations of one person at one agent: one more is refused."""

_PUSH: Table = PushConfig.__table__  # type: ignore[attr-defined]  # set by SQLModel at class creation
_C = _PUSH.c


@dataclass(frozen=True, slots=True)
class Kept:
    """A row.  callback: SHA-256 (hex) of the callback's id; task_id and config_id "" until an answer has named them."""

    callback: str
    agent: str
    task_id: str
    config_id: str
    tenant: str
    subject: str
    sealed: bytes
    until: int


class PushRows:
    """Rows by callback; what has ended is not given out, and is deleted as others come."""

    def __init__(self, worker: Worker, most: int = MOST_OF_A_PERSON) -> None:
        self._worker = worker
        self._most = most

    async def add(self, row: Kept, now: int) -> None:
        """Durable on return.  Refused(OVERLOADED) where the person has as many as they may; `now` in epoch seconds."""

        def work(connection: Connection) -> None:
            connection.execute(delete(_PUSH).where(_C.until <= now))
            whose = _C.agent == row.agent, _C.tenant == row.tenant, _C.subject == row.subject
            if int(connection.execute(select(func.count()).select_from(_PUSH).where(*whose)).scalar_one()) >= self._most:
                raise Refused(Code.OVERLOADED, "too many push notification configurations")
            connection.execute(_PUSH.insert().values(**_columns(row)))

        await self._worker.run(work)

    async def of(self, callback: str, now: int) -> Kept | None:
        """The configuration behind a callback; None where there is none, or no longer."""

        def work(connection: Connection) -> Kept | None:
            columns = select(*(_C[name] for name in Kept.__slots__)).where(_C.callback == callback, _C.until > now)
            row = connection.execute(columns).one_or_none()
            return None if row is None else Kept(*row)

        return await self._worker.run(work)

    async def bind(self, callback: str, task_id: str, config_id: str = "") -> None:
        """Write down of which task it is, and under which id the agent has it; what stands already stays."""

        def work(connection: Connection) -> None:
            mine = _C.callback == callback
            connection.execute(update(_PUSH).where(mine, _C.task_id == "").values(task_id=task_id))
            if config_id:
                connection.execute(update(_PUSH).where(mine, _C.config_id == "").values(config_id=config_id))

        await self._worker.run(work)

    async def drop(self, callback: str) -> None:
        """Forget one."""
        await self._worker.run(lambda connection: connection.execute(delete(_PUSH).where(_C.callback == callback)))

    async def forget(self, agent: str, task_id: str, config_id: str) -> None:
        """Forget what an agent was told to forget, and what of that task never got an id of its own."""

        def work(connection: Connection) -> None:
            named = _C.agent == agent, _C.task_id == task_id, _C.config_id.in_((config_id, ""))
            connection.execute(delete(_PUSH).where(*named))

        await self._worker.run(work)


def _columns(row: Kept) -> dict[str, object]:
    return {name: getattr(row, name) for name in Kept.__slots__}
