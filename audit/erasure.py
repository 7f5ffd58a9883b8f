"""After a person's key was destroyed: what was sealed under it is deleted, and what the database keeps of deleted rows goes.

Crash story: whom to sweep, and how far that came, stands in `ledger_sweeps`, written in the transaction that destroyed the key.
A sweep that was cut off goes on from there, by whoever sweeps next; nothing of it is needed for what was sealed to stay closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from audit import leaf, privacy
from audit.leaf import Commitment
from audit.store import StoreError
from audit.store_connect import engine, parse_url, sqlite_path
from audit.store_sql import store_error

CHUNK: Final = 5000
"""Leaves that one transaction looks through: whoever appends waits no longer than that takes."""

REWRITTEN: Final = 256 * 2**20
"""Bytes of sealed values in PostgreSQL up to which all of them are written anew: some seconds in which nothing is recorded."""

_PENDING: Final = "SELECT pseudonym, idx FROM ledger_sweeps ORDER BY pseudonym"
_SIZE: Final = "SELECT size FROM ledger_head WHERE id = 1"
_NAMING: Final = "SELECT idx, data FROM ledger_leaves WHERE idx >= ? AND idx < ? AND instr(data, ?) > 0 ORDER BY idx"
_NAMING_PG: Final = (
    "SELECT idx, data FROM ledger_leaves WHERE idx >= %s AND idx < %s AND position(%s::bytea in data) > 0 ORDER BY idx"
)
_DELETE: Final = "DELETE FROM ledger_openings WHERE idx = ? AND name = ?"
_AT: Final = "UPDATE ledger_sweeps SET idx = ? WHERE pseudonym = ?"
_DONE: Final = "DELETE FROM ledger_sweeps WHERE pseudonym = ?"

_FILE: Final = "SELECT pg_relation_filenode(%s)"
_BYTES: Final = "SELECT pg_total_relation_size('ledger_openings')"
_OLDER: Final = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start < %s"
)
_PATIENCE: Final = 10.0
_READERS_MS: Final = 250

Progress = Callable[[int, int], None]


class Sweeper:
    """Deletes what was sealed for erased people.  For one thread at a time; two processes may sweep at once."""

    def __init__(self, url: str) -> None:
        """`ValueError` for a URL of another kind."""
        parsed = parse_url(url)
        self._sqlite = sqlite_path(parsed) is not None
        self._engine = engine(parsed)

    def pending(self) -> list[str]:
        """Pseudonyms of erased people whose sealed values are not all deleted yet."""
        with self._connected() as connection:
            return [row[0] for row in connection.exec_driver_sql(_PENDING)]

    def sweep(self, progress: Progress = lambda _done, _of: None) -> int:
        """Delete the sealed values of everybody who is pending; how many there were.  `progress` is told leaves, of how many.

        On return nothing of them is in the database's files: in SQLite deleted rows are overwritten and the write-ahead log is
        emptied; in PostgreSQL the table of keys is written anew, and that of sealed values where it is no larger than `REWRITTEN`
        (writers wait meanwhile); in a larger one the bytes stay until their space is used again, without their key.
        `StoreError` where that could not be done, as where a reader holds the write-ahead log: what is left stays pending.
        """
        deleted = 0
        with self._connected() as connection:
            found = connection.exec_driver_sql(_PENDING).all()
            for pseudonym, start in found:
                deleted += self._values_of(connection, pseudonym, start, progress)
            if found:
                self._scrub(connection)
            for pseudonym, _ in found:
                connection.exec_driver_sql(self._words(_DONE), (pseudonym,))
        return deleted

    def close(self) -> None:
        """Let the database go."""
        self._engine.dispose()

    def _values_of(self, connection: Connection, pseudonym: str, start: int, progress: Progress) -> int:
        size = int(connection.exec_driver_sql(_SIZE).scalar_one())
        named = b'"%b"' % pseudonym.encode("ascii")
        deleted = 0
        for first in range(start, size, CHUNK):
            last = min(first + CHUNK, size)
            naming = connection.exec_driver_sql(_NAMING if self._sqlite else _NAMING_PG, (first, last, named)).all()
            connection.exec_driver_sql("BEGIN IMMEDIATE" if self._sqlite else "BEGIN")
            for index, data in naming:
                for name in sealed_for(pseudonym, bytes(data)):
                    deleted += connection.exec_driver_sql(self._words(_DELETE), (index, name)).rowcount
            connection.exec_driver_sql(self._words(_AT), (last, pseudonym))
            connection.exec_driver_sql("COMMIT")
            progress(last, size)
        return deleted

    def _scrub(self, connection: Connection) -> None:
        """Have the database let go of the bytes of what was deleted."""
        if self._sqlite:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={_READERS_MS}")  # who writes waits as long as this waits for readers
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
            if busy:
                msg = "somebody reads the ledger: its write-ahead log, which holds deleted rows, cannot be emptied now"
                raise StoreError(msg)
            return
        connection.exec_driver_sql("SET statement_timeout = 0")  # giving back the space of millions of rows takes its time
        self._outwait(connection)
        self._rewrite(connection, "ledger_subjects")  # small
        if connection.exec_driver_sql(_BYTES).scalar_one() <= REWRITTEN:
            self._rewrite(connection, "ledger_openings")
        else:
            connection.exec_driver_sql("VACUUM ledger_openings")

    @staticmethod
    def _rewrite(connection: Connection, table: str) -> None:
        """A plain VACUUM leaves the bytes where they were."""
        before = connection.exec_driver_sql(_FILE, (table,)).scalar()
        connection.exec_driver_sql(f"VACUUM (FULL) {table}")
        if connection.exec_driver_sql(_FILE, (table,)).scalar() == before:  # the server only warns
            msg = f"the table {table} cannot be written anew: its owner alone may vacuum it"
            raise StoreError(msg)

    @staticmethod
    def _outwait(connection: Connection) -> None:
        """Let transactions end that began before now: for their sake PostgreSQL would keep the deleted rows."""
        began = connection.exec_driver_sql("SELECT clock_timestamp()").scalar()
        deadline = time.monotonic() + _PATIENCE
        while connection.exec_driver_sql(_OLDER, (began,)).scalar():
            if time.monotonic() > deadline:
                msg = "a transaction that is older than the erasure keeps its deleted rows"
                raise StoreError(msg)
            time.sleep(0.05)

    def _words(self, statement: str) -> str:
        return statement if self._sqlite else statement.replace("?", "%s")

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                try:
                    yield connection
                except BaseException:
                    connection.invalidate()  # an open transaction goes with it
                    raise
        except SQLAlchemyError as error:
            raise store_error(error) from error


def sealed_for(pseudonym: str, data: bytes) -> list[str]:
    """Names of the values in a leaf's bytes that are sealed for this person; none in bytes that are no record."""
    try:
        record = leaf.parse(data)
    except ValueError:
        return []
    owner = record.get("subject", privacy.LOG)
    found = ((name, Commitment.read(member)) for name, member in record.items())
    return [name for name, value in found if value is not None and (value.of or owner) == pseudonym]
