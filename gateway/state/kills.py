"""Who may act no more: rows that are durable on return, said to the other replicas in the same transaction, and never deleted.

Whoever may write here could stop everybody's work, or let those go on who were stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Table, func, select, text, update

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state.tables import Kill as Row
from gateway.state.used import Key, insert, sweep
from gateway.state.worker import Worker

CHANNEL: Final = "bailiwick_kills"
MOST: Final = 100_000
"""Kills in force at a time; the last tenth is for those who have the right to kill, whatever people and issuers do."""
MOST_OF_ONE_PERSON: Final = 100
"""Of those that people may make for themselves, each."""
GRANT_SECONDS: Final = 3600
"""After so long nothing runs any more by a standing grant that was taken back: its tokens live minutes and are not renewed."""
SELF, EVENT, OFFLINE, ADMIN = "self", "event", "offline", "api"
LIFT: Final = "lift"
"""Kind of a row that kills nothing: written beside the gateway, it says which kill is to be taken back."""
Mark = tuple[int, int]

_KILLS: Table = Row.__table__  # type: ignore[attr-defined]  # set by SQLModel at class creation


@dataclass(frozen=True, slots=True)
class Kill:
    """kind, target   what may act no more, see `gateway/identity/revocation.py`.
    before         epoch seconds: only what was given until then is dead; None: all, until it is lifted.
    source         `api`, `self` (for one's own alone), `event` (an issuer's), `offline` (written beside the gateway).
    by             the subject, the issuer or the operator that wanted it.
    created_at, lifted_at   UTC microseconds.
    """

    id: str
    kind: str
    target: str
    before: int | None
    reason: str
    source: str
    by: str
    created_at: int
    lifted_at: int | None = None

    def covers(self, other: Kill) -> bool:
        """Whether the other would kill nothing that this one does not, for the same reason."""
        same = (self.kind, self.target, self.source, self.by, self.reason) == (
            other.kind, other.target, other.source, other.by, other.reason,
        )  # fmt: skip
        return same and (self.before is None or (other.before is not None and other.before <= self.before))


@dataclass(frozen=True, slots=True)
class Lift:
    """Which kills an event takes back: of one target and reason by one issuer, made no later than `until` (UTC microseconds)."""

    kind: str
    target: str
    by: str
    reason: str
    until: int


class KillRows:
    """The table.  `me` is this replica's word for itself in notices."""

    def __init__(self, worker: Worker, me: str = "", most: int = MOST) -> None:
        self._worker = worker
        self._me = me
        self._most = most

    async def read(self, known: Mark | None) -> tuple[Mark, list[Kill] | None]:
        """What is in force, unless the table is as it was at `known`."""
        return await self._worker.run(lambda connection: _read(connection, known))

    async def add(self, kill: Kill) -> Kill:
        """The kill that stands for this one: itself, or one that covers it already and was made in the same way.

        Refused(OVERLOADED) where too many are in force.
        """

        def work(connection: Connection) -> Kill:
            self._tell(connection)
            return _add(connection, kill, self._most)

        return await self._worker.run(work)

    async def lift(self, kill_id: str, at: int) -> Kill | None:
        """The kill, lifted now or before; None where there is none of that id."""

        def work(connection: Connection) -> Kill | None:
            connection.execute(update(_KILLS).where(_KILLS.c.id == kill_id, _KILLS.c.lifted_at.is_(None)).values(lifted_at=at))
            self._tell(connection)
            return _one(connection, kill_id)

        return await self._worker.run(work)

    async def order(self, lift: Kill) -> Kill | None:
        """The kill that is in force and that `lift` wants taken back, which is written down; None where there is none such."""

        def work(connection: Connection) -> Kill | None:
            found = _one(connection, lift.target)
            if found is None or found.lifted_at is not None or found.kind == LIFT:
                return None
            connection.execute(_KILLS.insert().values({name: getattr(lift, name) for name in Kill.__slots__}))
            self._tell(connection)
            return found

        return await self._worker.run(work)

    async def obey(self, lift: Kill, at: int) -> None:
        """What it wanted, once: both are over."""

        def work(connection: Connection) -> None:
            both = _KILLS.c.id.in_([lift.id, lift.target]), _KILLS.c.lifted_at.is_(None)
            connection.execute(update(_KILLS).where(*both).values(lifted_at=at))
            self._tell(connection)

        await self._worker.run(work)

    async def apply(
        self, once: Key, until: int, kills: Sequence[Kill], lifts: Sequence[Lift], at: int
    ) -> tuple[list[Kill], list[Kill]] | None:
        """All that one event changes, in one transaction with its being used; None where it was used before.

        Returns the kills that stand, as `add` does, and those that were lifted.
        """

        def work(connection: Connection) -> tuple[list[Kill], list[Kill]] | None:
            if not insert(connection, once, until):
                return None
            sweep(connection, at // 1_000_000)
            stand = [_add(connection, kill, self._most) for kill in kills]
            self._tell(connection)
            return stand, [each for lift in lifts for each in _lift(connection, lift, at)]

        return await self._worker.run(work)

    async def one(self, kill_id: str) -> Kill | None:
        """The kill of that id."""
        return await self._worker.run(lambda connection: _one(connection, kill_id))

    async def listed(self, most: int, *, lifted: bool = False, by: str | None = None) -> list[Kill]:
        """The newest kills; also those that were lifted, or those of one person alone."""

        def work(connection: Connection) -> list[Kill]:
            rows = select(_KILLS).where(_KILLS.c.kind != LIFT)
            rows = rows.order_by(_KILLS.c.created_at.desc(), _KILLS.c.id.desc()).limit(most)
            if not lifted:
                rows = rows.where(_KILLS.c.lifted_at.is_(None))
            if by is not None:
                rows = rows.where(_KILLS.c.by == by)
            return _kills(connection, rows)

        return await self._worker.run(work)

    def _tell(self, connection: Connection) -> None:
        """The other replicas hear of it once it is committed."""
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_notify(:channel, :me)"), {"channel": CHANNEL, "me": self._me})


def _kills(connection: Connection, rows: Any) -> list[Kill]:
    return [Kill(**row) for row in connection.execute(rows).mappings()]


def _one(connection: Connection, kill_id: str) -> Kill | None:
    found = _kills(connection, select(_KILLS).where(_KILLS.c.id == kill_id))
    return found[0] if found else None


def _read(connection: Connection, known: Mark | None) -> tuple[Mark, list[Kill] | None]:
    # Rows are never deleted and never un-lifted: whatever changes, one of the two grows.  Counted first: what comes between the
    # two is read now and once more at the next look.
    counted = connection.execute(select(func.count(), func.count(_KILLS.c.lifted_at)).select_from(_KILLS)).one()
    mark = int(counted[0]), int(counted[1])
    if mark == known:
        return mark, None
    return mark, _kills(connection, select(_KILLS).where(_KILLS.c.lifted_at.is_(None)))


def _add(connection: Connection, kill: Kill, most: int) -> Kill:
    in_force = _KILLS.c.lifted_at.is_(None)
    alike = _KILLS.c.kind == kill.kind, _KILLS.c.target == kill.target, _KILLS.c.by == kill.by
    stands = next((each for each in _kills(connection, select(_KILLS).where(in_force, *alike)) if each.covers(kill)), None)
    if stands is not None:
        return stands
    if kill.source == SELF and kill.kind == "grant":  # of those that were taken back long ago every token has ended
        over = _KILLS.c.created_at < kill.created_at - GRANT_SECONDS * 1_000_000
        mine = _KILLS.c.kind == "grant", _KILLS.c.by == kill.by, _KILLS.c.source == SELF
        connection.execute(update(_KILLS).where(in_force, over, *mine).values(lifted_at=kill.created_at))
    _bounded(connection, most if kill.source in {ADMIN, OFFLINE} else most - most // 10)
    if kill.source == SELF:
        _bounded(connection, MOST_OF_ONE_PERSON, _KILLS.c.by == kill.by, _KILLS.c.source == SELF)
    connection.execute(_KILLS.insert().values({name: getattr(kill, name) for name in Kill.__slots__}))
    if kill.source == EVENT:  # an issuer may say the same every minute: what the new one covers is history
        older = [each for each in _kills(connection, select(_KILLS).where(in_force, *alike)) if each.id != kill.id]
        gone = [each.id for each in older if kill.covers(each)]
        connection.execute(update(_KILLS).where(_KILLS.c.id.in_(gone)).values(lifted_at=kill.created_at))
    return kill


def _bounded(connection: Connection, most: int, *where: Any) -> None:
    rows = select(_KILLS.c.id).where(_KILLS.c.lifted_at.is_(None), *where).limit(most).subquery()
    if int(connection.execute(select(func.count()).select_from(rows)).scalar_one()) >= most:
        raise Refused(Code.OVERLOADED, f"{most} kills are in force; lift those that are not needed any more")


def _lift(connection: Connection, lift: Lift, at: int) -> list[Kill]:
    table = _KILLS.c
    where = (
        table.lifted_at.is_(None), table.kind == lift.kind, table.target == lift.target, table.source == EVENT,
        table.by == lift.by, table.reason == lift.reason, table.created_at <= lift.until,
    )  # fmt: skip
    found = _kills(connection, select(_KILLS).where(*where))
    connection.execute(update(_KILLS).where(table.id.in_([kill.id for kill in found])).values(lifted_at=at))
    return found
