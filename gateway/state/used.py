"""What is good once: the first use is durable, every later one is refused, on every replica and after every restart.

Kept by the SHA-256 of its `jti` within a scope, never by a token's text: one signature has several spellings.  A scope is the
gateway's own word (a use, a registered agent, an issuer), never a stranger's.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from sqlalchemy import Connection, Table, delete, func, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state.tables import Used
from gateway.state.worker import Worker

MOST_OF_A_SCOPE = 65_536
"""Live rows of one scope: more is refused, as forgetting one would let it be used again."""
GRACE_SECONDS = 120
"""Rows stay so long after their end: another replica's clock may be behind."""
MAX_SCOPE = 128
Key = tuple[str, str]
"""Scope, and SHA-256 (hex) of the `jti`."""
_REMEMBERED = 65_536
_COUNTED_EVERY = 256
_SCOPES = 4096
_SWEPT_EVERY_SECONDS = 30
_SWEPT_AT_ONCE = 500

_USED: Table = Used.__table__  # type: ignore[attr-defined]  # set by SQLModel at class creation


class Once:
    """Uses of things that may be used once."""

    def __init__(self, worker: Worker, most: int = MOST_OF_A_SCOPE) -> None:
        self._worker = worker
        self._most = most
        self._seen: OrderedDict[Key, int] = OrderedDict()  # a replay on the same replica asks no database
        self._room: OrderedDict[str, int] = OrderedDict()  # how many more before the rows of a scope are counted again
        self._swept = 0

    async def use(self, scope: str, jti: str, until: int, now: int) -> bool:
        """Whether this was the first use; durable when it was.  `until`, `now` in epoch seconds.

        False as well for what has ended (`until` is not after `now`).  Refused(OVERLOADED) where the scope is full; what the
        worker raises where the database does not answer.
        """
        key = key_of(scope, jti)
        if until <= now:
            return False
        if self._seen.get(key, 0) > now:
            return False
        counted = self._takes_room(scope)
        due = now - self._swept >= _SWEPT_EVERY_SECONDS
        if due:
            self._swept = now

        def work(connection: Connection) -> tuple[bool, int | None, bool]:
            room = None if counted else _room(connection, scope, now, self._most)
            return insert(connection, key, until), room, due and sweep(connection, now)

        first, room, more = await self._worker.run(work)
        if more:
            self._swept = 0  # not all of it in one go: the next use goes on
        if room is not None:
            self._room[scope] = room - 1
            self._room.move_to_end(scope)
            if len(self._room) > _SCOPES:
                self._room.popitem(last=False)
        self._seen[key] = until
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return first

    async def used(self, scope: str, jti: str) -> bool:
        """Whether it was used before; uses nothing."""
        key = key_of(scope, jti)
        row = select(_USED.c.until).where(_USED.c.scope == key[0], _USED.c.digest == key[1])
        return await self._worker.run(lambda connection: connection.execute(row).one_or_none() is not None)

    def _takes_room(self, scope: str) -> bool:
        """Whether the last count of the scope's rows left room for one more; taken before anybody waits."""
        room = self._room.get(scope, 0)
        if room > 0:
            self._room[scope] = room - 1
        return room > 0


def key_of(scope: str, jti: str) -> Key:
    """Under which a use is kept.  ValueError for a scope that is none."""
    if not 1 <= len(scope) <= MAX_SCOPE or not scope.isprintable():
        msg = f"a scope is 1 to {MAX_SCOPE} printable characters"
        raise ValueError(msg)
    return scope, hashlib.sha256(jti.encode("utf-8", "backslashreplace")).hexdigest()


def insert(connection: Connection, key: Key, until: int) -> bool:
    """Whether the row is new; of two at once the database lets one wait and then see the other's."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    row = dialect.insert(_USED).values(scope=key[0], digest=key[1], until=until).on_conflict_do_nothing().returning(_USED.c.until)
    return connection.execute(row).one_or_none() is not None


def _room(connection: Connection, scope: str, now: int, most: int) -> int:
    """How many more may come before the next count; Refused(OVERLOADED) where none may."""
    rows = select(_USED.c.digest).where(_USED.c.scope == scope, _USED.c.until > now).limit(most).subquery()
    room = most - int(connection.execute(select(func.count()).select_from(rows)).scalar_one())
    if room <= 0:
        raise Refused(Code.OVERLOADED, "too much was used once in this scope")
    return min(room, _COUNTED_EVERY)


def sweep(connection: Connection, now: int) -> bool:
    """Delete rows that have ended, a batch; whether it was a full one."""
    ended = select(_USED.c.scope, _USED.c.digest).where(_USED.c.until < now - GRACE_SECONDS).limit(_SWEPT_AT_ONCE)
    if connection.dialect.name == "postgresql":
        ended = ended.with_for_update(skip_locked=True)  # another replica sweeps at the same time
    gone = connection.execute(delete(_USED).where(tuple_(_USED.c.scope, _USED.c.digest).in_(ended)))
    return gone.rowcount == _SWEPT_AT_ONCE
