"""What others said of the log (cosignatures, timestamps, how far anchors are), stored beside it, by a connection of its own.

Nothing here is trusted when it is read back: a cosignature counts only where a pinned key verifies it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import SQLAlchemyError

from audit.proof import consistency
from audit.store import StoreError
from audit.store_beside import try_lock
from audit.store_connect import engine, parse_url, sqlite_path
from audit.store_files import Locks
from audit.store_sql import store_error
from audit.tiles import node_of

_ADD_COSIGNATURE: Final = "INSERT INTO ledger_cosignatures (size, witness, line) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_NEWEST_OF: Final = "SELECT size, line FROM ledger_cosignatures WHERE witness = ? ORDER BY size DESC LIMIT 1"
_SIZES: Final = "SELECT DISTINCT size FROM ledger_cosignatures ORDER BY size DESC LIMIT ?"
_LINES: Final = "SELECT line FROM ledger_cosignatures WHERE size = ? ORDER BY witness"
_NOTE: Final = "SELECT note FROM ledger_checkpoints WHERE size = ?"
_NEWEST: Final = "SELECT note FROM ledger_checkpoints ORDER BY size DESC LIMIT 1"
_NEXT: Final = "SELECT note FROM ledger_checkpoints WHERE size > ? ORDER BY size LIMIT 1"
_ANCHORED: Final = "SELECT name, size, at FROM ledger_anchors"
_ANCHOR: Final = (
    "INSERT INTO ledger_anchors (name, size, at) VALUES (?, ?, ?) "
    "ON CONFLICT (name) DO UPDATE SET size = excluded.size, at = excluded.at"
)
_ADD_TIMESTAMP: Final = "INSERT INTO ledger_timestamps (size, authority, token) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_LEVEL_0: Final = "SELECT hash FROM ledger_leaves WHERE idx >= ? AND idx < ? ORDER BY idx"
_LEVEL_N: Final = "SELECT hash FROM ledger_nodes WHERE level = ? AND idx >= ? AND idx < ? ORDER BY idx"


class Anchored(NamedTuple):
    """How far an anchor has come, and when (UTC microseconds)."""

    size: int
    at: int


class ProofStore:
    """One log's.  For any thread, one at a time; `StoreError` where the database does not answer: the next use connects anew."""

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        """Nothing is opened yet.  `ValueError` for a URL of another kind."""
        self._parsed = parse_url(url)
        self._engine = engine(self._parsed, read_only=read_only)
        self._connection: Connection | None = None
        path = sqlite_path(self._parsed)
        self._locks = Locks(path) if path is not None else None
        self._leases: set[str] = set()
        self._turn = threading.RLock()

    def exists(self) -> bool:
        """Whether there is a log of this version at the URL; nothing is made."""
        path = sqlite_path(self._parsed)
        if path is not None and not path.exists():
            return False
        with self._using() as connection:
            return inspect(connection).has_table("ledger_cosignatures")

    def lease(self, name: str) -> bool:
        """Whether this process is the one that does the work of that name, until it closes or dies; of replicas, one."""
        if self._locks is not None:
            return self._locks.take(name)
        with self._using() as connection:
            if name not in self._leases and try_lock(connection, name):
                self._leases.add(name)
            return name in self._leases

    def newest(self) -> str | None:
        """The note of the newest checkpoint."""
        return self._one(_NEWEST)

    def note(self, size: int) -> str | None:
        """The note of the checkpoint of that size."""
        return self._one(_NOTE, size)

    def next_after(self, size: int) -> str | None:
        """The note of the first checkpoint that is larger."""
        return self._one(_NEXT, size)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the tree of `new` leaves begins with that of `old`; `TamperedError` where hashes are missing."""
        with self._using() as connection:

            def hashes(level: int, start: int, stop: int) -> list[bytes]:
                where = (_LEVEL_0, (start, stop)) if level == 0 else (_LEVEL_N, (level, start, stop))
                return [row[0] for row in connection.exec_driver_sql(self._words(where[0]), where[1])]

            return consistency(old, new, lambda height, index: node_of(hashes, height, index))

    def add_cosignature(self, size: int, witness: str, line: str) -> None:
        """Keep a witness's line; one that is there already stays."""
        with self._using() as connection:
            connection.exec_driver_sql(self._words(_ADD_COSIGNATURE), (size, witness, line))

    def newest_of(self, witness: str) -> tuple[int, str] | None:
        """Size and line of the largest checkpoint that the witness cosigned."""
        with self._using() as connection:
            row = connection.exec_driver_sql(self._words(_NEWEST_OF), (witness,)).one_or_none()
            return None if row is None else (row[0], row[1])

    def cosigned(self, last: int) -> list[tuple[int, str, list[str]]]:
        """The newest checkpoints that anybody cosigned, at most `last`, newest first: size, note, lines."""
        found = []
        with self._using() as connection:
            for (size,) in connection.exec_driver_sql(self._words(_SIZES), (last,)).all():
                note = connection.exec_driver_sql(self._words(_NOTE), (size,)).scalar()
                lines = [row[0] for row in connection.exec_driver_sql(self._words(_LINES), (size,))]
                if note is not None:
                    found.append((size, note, lines))
        return found

    def anchored(self) -> dict[str, Anchored]:
        """How far each anchor has come."""
        with self._using() as connection:
            return {row[0]: Anchored(row[1], row[2]) for row in connection.exec_driver_sql(_ANCHORED)}

    def anchor(self, name: str, size: int, at: int) -> None:
        """An anchor took the checkpoint of that size."""
        with self._using() as connection:
            connection.exec_driver_sql(self._words(_ANCHOR), (name, size, at))

    def add_timestamp(self, size: int, authority: str, token: bytes) -> None:
        """Keep an authority's token on the checkpoint of that size."""
        with self._using() as connection:
            connection.exec_driver_sql(self._words(_ADD_TIMESTAMP), (size, authority, token))

    def close(self) -> None:
        """Let everything go, leases too."""
        with self._turn:
            self._drop()
        self._engine.dispose()
        if self._locks is not None:
            self._locks.close()

    def _one(self, statement: str, *values: object) -> str | None:
        with self._using() as connection:
            found = connection.exec_driver_sql(self._words(statement), values).scalar()
            return None if found is None else str(found)

    def _words(self, statement: str) -> str:
        return statement if self._locks is not None else statement.replace("?", "%s")

    @contextmanager
    def _using(self) -> Iterator[Connection]:
        with self._turn:
            try:
                if self._connection is None:
                    self._connection = self._engine.connect()
                yield self._connection
            except SQLAlchemyError as error:
                self._drop()
                raise store_error(error) from error

    def _drop(self) -> None:
        self._leases.clear()  # PostgreSQL's locks go with the session
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None


__all__ = ["Anchored", "ProofStore", "StoreError"]
