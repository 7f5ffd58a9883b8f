"""The segments' rows in a ledger's database, and the deletion of what was retired.

Crash story: a segment is marked as retired after the record that says so is durable, and leaves are deleted from the oldest on, a
few in one transaction; what a crash left is deleted by whoever retires next, and until then it is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from audit.model import HeldError
from audit.privacy import LOG
from audit.segment import Opening
from audit.store_connect import engine, parse_url, sqlite_path
from audit.store_sql import migrate, store_error

CHUNK: Final = 2000
_ROWS: Final = "SELECT start, stop, sealed, retired, carry FROM ledger_segments ORDER BY stop"
_ADD: Final = "INSERT INTO ledger_segments (stop, start, sealed, retired, carry) VALUES (?, ?, ?, '', ?)"
_MARK: Final = "UPDATE ledger_segments SET retired = ? WHERE stop = ?"
_RETIRED: Final = "SELECT coalesce(max(stop), 0) FROM ledger_segments WHERE retired <> ''"
_OLDEST: Final = "SELECT min(idx) FROM ledger_leaves"
_HOLDS: Final = "SELECT id, pseudonym FROM ledger_holds ORDER BY id"
_NAMED: Final = "SELECT 1 FROM ledger_leaves WHERE idx >= ? AND idx < ? AND instr(data, ?) > 0 LIMIT 1"
_NAMED_PG: Final = "SELECT 1 FROM ledger_leaves WHERE idx >= %s AND idx < %s AND position(%s::bytea in data) > 0 LIMIT 1"
_OPENINGS: Final = "SELECT idx, name, sealed FROM ledger_openings WHERE idx >= ? AND idx < ? ORDER BY idx, name"
_DELETE: Final = tuple(f"DELETE FROM {table} WHERE idx < ?" for table in ("ledger_openings", "ledger_leaves"))  # noqa: S608

Progress = Callable[[int, int], None]


class Segment(NamedTuple):
    """A row: records [start, stop), the record that sealed them, the one that retired them ("" none yet), and the carry."""

    start: int
    stop: int
    sealed: str
    retired: str
    carry: bytes


class Segments:
    """The segments of one log.  For one thread; `StoreError` where the database does not answer."""

    def __init__(self, url: str) -> None:
        """Brings the schema up to date.  `ValueError` for a URL of another kind."""
        migrate(url)
        parsed = parse_url(url)
        self._sqlite = sqlite_path(parsed) is not None
        self._engine = engine(parsed)

    def rows(self) -> list[Segment]:
        """All of them, oldest first."""
        with self._connected() as connection:
            return [Segment(row[0], row[1], row[2], row[3], bytes(row[4])) for row in connection.exec_driver_sql(_ROWS)]

    def openings(self, start: int, stop: int) -> Sequence[Opening]:
        """What stands sealed beside these records."""
        with self._connected() as connection:
            return [Opening(*row) for row in connection.exec_driver_sql(self._words(_OPENINGS), (start, stop))]

    def add(self, segment: Segment) -> None:
        """Note a segment whose record is durable."""
        with self._connected() as connection:
            connection.exec_driver_sql(self._words(_ADD), (segment.stop, segment.start, segment.sealed, segment.carry))

    def held(self, start: int, stop: int) -> str | None:
        """The legal hold that forbids to let go of these records; None where there is none."""
        with self._connected() as connection:
            return self._held(connection, start, stop)

    def mark(self, stop: int, record: str) -> None:
        """Note that the segment was retired by this record, which is durable."""
        with self._connected() as connection:
            connection.exec_driver_sql(self._words(_MARK), (record, stop))

    def delete(self, progress: Progress = lambda _done, _of: None) -> int:
        """Delete all that is retired and still here; how many records that were.  `HeldError` where a hold was set meanwhile."""
        deleted = 0
        with self._connected() as connection:
            stop = int(connection.exec_driver_sql(_RETIRED).scalar_one())
            oldest = connection.exec_driver_sql(_OLDEST).scalar()
            first = stop if oldest is None else int(oldest)
            for at in range(first, stop, CHUNK):
                end = min(at + CHUNK, stop)
                connection.exec_driver_sql("BEGIN IMMEDIATE" if self._sqlite else "BEGIN")
                held = self._held(connection, at, end)
                if held is not None:
                    connection.exec_driver_sql("ROLLBACK")
                    raise HeldError(held)
                for statement in _DELETE:
                    connection.exec_driver_sql(self._words(statement), (end,))
                connection.exec_driver_sql("COMMIT")
                deleted += end - at
                progress(end, stop)
            if deleted:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)" if self._sqlite else "VACUUM ledger_leaves")
        return deleted

    def close(self) -> None:
        """Let the database go."""
        self._engine.dispose()

    def _held(self, connection: Connection, start: int, stop: int) -> str | None:
        for hold, pseudonym in connection.exec_driver_sql(_HOLDS).all():
            named = b'"%b"' % str(pseudonym).encode("ascii", "replace")
            statement = _NAMED if self._sqlite else _NAMED_PG
            if pseudonym == LOG or connection.exec_driver_sql(statement, (start, stop, named)).scalar() is not None:
                return str(hold)
        return None

    def _words(self, statement: str) -> str:
        return statement if self._sqlite else statement.replace("?", "%s")

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise store_error(error) from error
