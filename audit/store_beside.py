"""What stands beside a log's tables, in files or PostgreSQL's locks: who writes, who signs, whether it is still the same log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from audit.store import Signed, Signing, StoreError
from audit.store_files import FileIdentity, Locks, SignedFile

_LOCK: Final = "hashtextextended('bailiwick ledger ' || current_schema() || ' ' || %s, 0)"
"""The number of an advisory lock: they are database-wide, and schemas may hold a log each."""


class BesideFile:
    """Locks, identity and the last signed head of a SQLite log: files."""

    def __init__(self, path: Path) -> None:
        self._identity = FileIdentity(path)
        self._locks = Locks(path)
        self._signed = SignedFile(path.with_name(path.name + ".signed"))

    def connecting(self) -> None:
        """Before a connection: it is to the log that was opened, or `IdentityError`."""
        self._identity.same()

    def connected(self, _connection: Connection) -> None:
        """After it."""
        self._identity.reopened()

    def begin(self) -> None:
        """Before a turn."""
        self._identity.begin()

    def check(self) -> None:
        """After one: `IdentityError` where it went into a file that is gone."""
        self._identity.check()

    def lease(self, _connection: Connection, writer: str) -> bool:
        """See `Store`."""
        return self._locks.take(f"writer {writer}")

    def free(self, _connection: Connection, writer: str) -> bool:
        """See `Store`."""
        return self._locks.is_free(f"writer {writer}")

    @contextmanager
    def signing(self, _connection: Connection) -> Iterator[Signing]:
        """See `Store`."""
        with self._locks.hold("sign"):
            yield self._signed

    def close(self) -> None:
        """Let the locks go."""
        self._locks.close()


class BesidePostgres:
    """The same in PostgreSQL: advisory locks of the session, and a row."""

    def __init__(self) -> None:
        self._leases: set[str] = set()

    def connecting(self) -> None:
        """The server keeps its own files."""

    def connected(self, connection: Connection) -> None:
        """A new session holds no lock yet, and may find that another process took a name meanwhile."""
        for writer in self._leases:
            if not try_lock(connection, f"writer {writer}"):
                msg = f"another process writes as {writer}, or the session that was lost is not over yet"
                raise StoreError(msg)

    def begin(self) -> None:
        """The server keeps its own files."""

    def check(self) -> None:
        """The server keeps its own files."""

    def lease(self, connection: Connection, writer: str) -> bool:
        """See `Store`."""
        if writer not in self._leases and try_lock(connection, f"writer {writer}"):
            self._leases.add(writer)
        return writer in self._leases

    def free(self, connection: Connection, writer: str) -> bool:
        """See `Store`."""
        if writer in self._leases or not try_lock(connection, f"writer {writer}"):
            return False
        connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_LOCK})", (f"writer {writer}",))
        return True

    @contextmanager
    def signing(self, connection: Connection) -> Iterator[Signing]:
        """See `Store`."""
        connection.exec_driver_sql("BEGIN")
        try:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})", ("sign",))
            yield _SignedRow(connection)
        finally:
            if not connection.invalidated:
                connection.exec_driver_sql("ROLLBACK")  # what was saved is committed already

    def close(self) -> None:
        """The locks went with the session."""


class _SignedRow:
    """The last signed head, as the only row of its table."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def last(self) -> Signed | None:
        """See `Signing`."""
        row = self._connection.exec_driver_sql("SELECT size, frontier, note FROM ledger_signed WHERE id = 1").one_or_none()
        return Signed(*row) if row is not None else None

    def save(self, signed: Signed) -> None:
        """See `Signing`."""
        statement = (
            "INSERT INTO ledger_signed (id, size, frontier, note) VALUES (1, %s, %s, %s) ON CONFLICT (id) "
            "DO UPDATE SET size = excluded.size, frontier = excluded.frontier, note = excluded.note"
        )
        self._connection.exec_driver_sql(statement, (signed.size, signed.frontier, signed.note))
        self._connection.exec_driver_sql("COMMIT")


def try_lock(connection: Connection, name: str) -> bool:
    """Take a PostgreSQL session's advisory lock of that name, without waiting."""
    return bool(connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({_LOCK})", (name,)).scalar())
