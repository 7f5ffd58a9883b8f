"""Rates and slots that replicas share: of two at once, the database lets one wait and then see what the other took.

A rate is one number, the moment at which its next call would be due (GCRA: a token bucket without a bucket to fill); a slot is
leased, so that what a dead replica held is free again.  Keys are digests; a writer could lift a limit or use one up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, Table, delete, func, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state.tables import LimitRate, LimitSlot
from gateway.state.worker import Worker

_RATES: Table = LimitRate.__table__  # type: ignore[attr-defined]  # set by SQLModel at class creation
_SLOTS: Table = LimitSlot.__table__  # type: ignore[attr-defined]
_SWEPT_EVERY_US = 30_000_000
_SWEPT_AT_ONCE = 500
BUSY_SECONDS = 1
"""After how long it is worth asking again where all slots are taken: nobody knows when one is free."""


class Rate(NamedTuple):
    """Calls at a time: one every `every` microseconds, and `burst` of them at once."""

    key: str
    every: int
    burst: int
    duty: str


class Slots(NamedTuple):
    """So many calls at once."""

    key: str
    most: int
    duty: str


class LimitRows:
    """What was taken."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._swept = 0

    async def take(self, rates: Sequence[Rate], slots: Sequence[Slots], holder: str, now: int, until: int) -> None:
        """All of it or nothing, durably: `Refused(LIMIT_REACHED)` with `retry_after` seconds where one is used up.

        `holder` keeps the slots until `until`, unless it renews them or gives them back.  All times in UTC microseconds.
        """
        due = now - self._swept >= _SWEPT_EVERY_US
        if due:
            self._swept = now

        def work(connection: Connection) -> None:
            wanted: list[Rate | Slots] = [*rates, *slots]
            for each in sorted(wanted, key=lambda each: each.key):  # in one order, or two could wait for each other
                if isinstance(each, Rate):
                    _take_rate(connection, each, now)
                else:
                    _take_slot(connection, each, holder, now, until)
            if due:
                _sweep(connection, now)

        await self._worker.run(work)

    async def renew(self, holders: Sequence[str], until: int) -> None:
        """These go on."""
        rows = update(_SLOTS).where(_SLOTS.c.holder.in_(holders)).values(until=until)
        await self._worker.run(lambda connection: connection.execute(rows))

    async def give_back(self, holders: Sequence[str]) -> None:
        """These are over."""
        rows = delete(_SLOTS).where(_SLOTS.c.holder.in_(holders))
        await self._worker.run(lambda connection: connection.execute(rows))


def _take_rate(connection: Connection, rate: Rate, now: int) -> None:
    due = _locked(connection, rate.key)
    wait = due - rate.every * (rate.burst - 1) - now
    if wait > 0:
        raise _reached(rate.duty, -(-wait // 1_000_000))
    later = max(due, now) + rate.every
    connection.execute(update(_RATES).where(_RATES.c.key == rate.key).values(due=later))


def _take_slot(connection: Connection, slots: Slots, holder: str, now: int, until: int) -> None:
    _locked(connection, slots.key)
    held = select(func.count()).select_from(_SLOTS).where(_SLOTS.c.key == slots.key, _SLOTS.c.until > now)
    if connection.execute(held).scalar_one() >= slots.most:
        raise _reached(slots.duty, BUSY_SECONDS)
    connection.execute(_SLOTS.insert().values(key=slots.key, holder=holder, until=until))


def _locked(connection: Connection, key: str) -> int:
    """When the key's next call is due; nobody else changes what it counts until this transaction ends."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    row = dialect.insert(_RATES).values(key=key, due=0)
    row = row.on_conflict_do_update(index_elements=[_RATES.c.key], set_={"due": _RATES.c.due}).returning(_RATES.c.due)
    return int(connection.execute(row).scalar_one())


def _reached(duty: str, seconds: int) -> Refused:
    return Refused(Code.LIMIT_REACHED, duty, data={"retry_after": seconds})


def _sweep(connection: Connection, now: int) -> None:
    """Forget what says nothing any more: rates as good as unused, slots whose time is over."""
    old_rates = select(_RATES.c.key).where(_RATES.c.due < now).limit(_SWEPT_AT_ONCE)
    old_slots = select(_SLOTS.c.key, _SLOTS.c.holder).where(_SLOTS.c.until < now).limit(_SWEPT_AT_ONCE)
    if connection.dialect.name == "postgresql":  # others take, and sweep, at the same time
        old_rates, old_slots = old_rates.with_for_update(skip_locked=True), old_slots.with_for_update(skip_locked=True)
    connection.execute(delete(_SLOTS).where(tuple_(_SLOTS.c.key, _SLOTS.c.holder).in_(old_slots)))
    connection.execute(delete(_RATES).where(_RATES.c.key.in_(old_rates)))
