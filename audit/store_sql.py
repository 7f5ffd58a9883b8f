"""The store in SQL: SQLite for one machine, PostgreSQL where replicas share one log.  One locked transaction for each batch.

Order is not left to a sequence (its numbers become visible out of order): whoever holds the head row gives out the indexes.
The hot path speaks plain SQL in batches; nothing here looks into what it stores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from audit.privacy import SubjectRow
from audit.store import Batch, DuplicateError, Head, OpenCall, Signed, Signing, StoredLeaf, StoreError, Turn
from audit.store_connect import create_file, engine, parse_url, sqlite_path
from audit.store_files import FileIdentity, Locks, SignedFile

REVISION: Final = "l0001"
"""The schema that this code speaks; the newest step in `audit/migrations/versions`."""

_CHUNK: Final = 500
_MIGRATION_LOCK: Final = 0x6261_696C_6C65_6467  # any number that nobody else uses
_LOCK: Final = "hashtextextended('bailiwick ledger ' || current_schema() || ' ' || %s, 0)"
"""The number of an advisory lock: they are database-wide, and schemas may hold a log each."""

_HEAD: Final = "SELECT size, frontier, erasures FROM ledger_head WHERE id = 1"
_UPDATE_HEAD: Final = "UPDATE ledger_head SET size = ?, frontier = ?, erasures = erasures + ? WHERE id = 1"
_SUBJECT: Final = "SELECT pseudonym, lookup, dek, name FROM ledger_subjects WHERE lookup = ?"
_LEAVES: Final = "SELECT idx, id, hash, data FROM ledger_leaves WHERE idx >= ? AND idx < ? ORDER BY idx"
_INSERTS: Final = {
    "ledger_leaves": ("idx bigint", "id text", "hash bytea", "data bytea"),
    "ledger_openings": ("idx bigint", "name text", "sealed bytea"),
    "ledger_nodes": ("level int", "idx bigint", "hash bytea"),
    "ledger_open_calls": ("id text", "idx bigint", "writer text", "boot text"),
    "ledger_subjects": ("pseudonym text", "lookup bytea", "dek bytea", "name bytea"),
}


def migrate(url: str) -> None:
    """Bring the database's schema to `REVISION`, creating a SQLite file where there is none.

    Two processes may do so at once.  `StoreError` where it cannot be done, or where the schema is newer than this code.
    """
    parsed = parse_url(url)
    path = sqlite_path(parsed)
    if path is not None:
        create_file(path)
    try:
        with engine(parsed).connect() as connection:
            if _revision(connection) == REVISION:
                return  # the usual start: Alembic is not even imported
            connection.exec_driver_sql("BEGIN IMMEDIATE" if path else "BEGIN")
            if path is None:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
            _upgrade(connection)
            connection.exec_driver_sql("COMMIT")
    except SQLAlchemyError as error:
        raise store_error(error) from error


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("ledger_version"):
        return None
    return str(connection.exec_driver_sql("SELECT version_num FROM ledger_version").scalar())


def _upgrade(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415  half a second, needed at the first start alone
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "audit:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, REVISION)
    except CommandError as error:
        msg = f"the ledger's schema is not one that this version knows: {error}"
        raise StoreError(msg) from error


def store_error(error: SQLAlchemyError) -> StoreError:
    """What the driver says of a failure, without the statement: its parameters are records."""
    return StoreError(str(getattr(error, "orig", None) or type(error).__name__).strip().split("\n")[0])


class _Words:
    """SQL in the spelling of one database."""

    def __init__(self, *, sqlite: bool) -> None:
        self.sqlite = sqlite
        self.begin = "BEGIN IMMEDIATE" if sqlite else "BEGIN"
        self.lock_head = _HEAD if sqlite else _HEAD + " FOR UPDATE"
        self.update_head = self(_UPDATE_HEAD)
        self.subject = self(_SUBJECT)
        self.leaves = self(_LEAVES)
        self._inserts = {table: self._insert(table, columns) for table, columns in _INSERTS.items()}

    def __call__(self, statement: str) -> str:
        return statement if self.sqlite else statement.replace("?", "%s")

    def insert(self, connection: Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
        """All rows in one statement (PostgreSQL: arrays, unnested) or one batch (SQLite)."""
        if rows:
            parameters = rows if self.sqlite else tuple(map(list, zip(*rows, strict=True)))
            connection.exec_driver_sql(self._inserts[table], parameters)

    def _insert(self, table: str, columns: tuple[str, ...]) -> str:
        names = ", ".join(column.split()[0] for column in columns)
        if self.sqlite:
            return f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608  our own names
        arrays = ", ".join(f"%{'b' if column.endswith('bytea') else 's'}::{column.split()[1]}[]" for column in columns)
        return f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays})"  # noqa: S608  our own names


class _SqlTurn:
    """The locked head, and what may be done under it."""

    __slots__ = ("_connection", "_words", "head")

    def __init__(self, connection: Connection, words: _Words) -> None:
        self._connection = connection
        self._words = words
        self.head = Head(*connection.exec_driver_sql(words.lock_head).one())

    def subject(self, lookup: bytes) -> SubjectRow | None:
        """See `Turn`."""
        row = self._connection.exec_driver_sql(self._words.subject, (lookup,)).one_or_none()
        return SubjectRow(*row) if row is not None else None

    def existing(self, ids: list[str]) -> dict[str, StoredLeaf]:
        """See `Turn`."""
        found = {}
        for at in range(0, len(ids), _CHUNK):
            some = tuple(ids[at : at + _CHUNK])
            statement = f"SELECT idx, id, hash, data FROM ledger_leaves WHERE id IN ({', '.join('?' * len(some))})"  # noqa: S608
            for row in self._connection.exec_driver_sql(self._words(statement), some):
                found[row[1]] = StoredLeaf(*row)
        return found

    def is_open(self, call: str) -> bool:
        """See `Turn`."""
        statement = self._words("SELECT count(*) FROM ledger_open_calls WHERE id = ?")
        return bool(self._connection.exec_driver_sql(statement, (call,)).scalar())

    def write(self, batch: Batch, size: int, frontier: bytes) -> None:
        """See `Turn`."""
        connection, words = self._connection, self._words
        self._each("DELETE FROM ledger_subjects WHERE pseudonym = ?", batch.destroyed)
        subjects = [(row.pseudonym, row.lookup, row.dek, row.name) for row in batch.subjects]
        words.insert(connection, "ledger_subjects", subjects)
        try:
            words.insert(connection, "ledger_leaves", batch.leaves)
        except IntegrityError as error:
            raise DuplicateError(str(store_error(error))) from error
        words.insert(connection, "ledger_openings", batch.openings)
        words.insert(connection, "ledger_nodes", batch.nodes)
        opened = [(call.id, call.index, call.writer, call.boot) for call in batch.opened]
        words.insert(connection, "ledger_open_calls", opened)
        self._each("DELETE FROM ledger_open_calls WHERE id = ?", batch.closed)
        connection.exec_driver_sql(words.update_head, (size, frontier, len(batch.destroyed)))

    def _each(self, statement: str, values: list[str]) -> None:
        if values:
            self._connection.exec_driver_sql(self._words(statement), [(value,) for value in values])


class SqlStore:
    """A `Store` in SQLite or PostgreSQL."""

    def __init__(self, url: str) -> None:
        """Open the log at the URL, bringing its schema up to date.  `ValueError` for a URL of another kind, else `StoreError`."""
        migrate(url)
        parsed = parse_url(url)
        path = sqlite_path(parsed)
        self._engine = engine(parsed)
        self._words = _Words(sqlite=path is not None)
        self._connections: dict[str, Connection] = {}
        self._beside = _BesideFile(path) if path is not None else _BesidePostgres()

    def claim(self, origin: str, vkey: str) -> tuple[str, str]:
        """See `Store`."""
        with self._use("turn") as connection:
            statement = self._words("INSERT INTO ledger_log (id, origin, vkey) VALUES (1, ?, ?) ON CONFLICT DO NOTHING")
            connection.exec_driver_sql(statement, (origin, vkey))
            row = connection.exec_driver_sql("SELECT origin, vkey FROM ledger_log WHERE id = 1").one()
            return row[0], row[1]

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """See `Store`."""
        with self._use("turn") as connection:
            self._beside.check()
            connection.exec_driver_sql(self._words.begin)
            committed = False
            try:
                yield _SqlTurn(connection, self._words)
                connection.exec_driver_sql("COMMIT")
                committed = True
            finally:
                if not committed:
                    self._drop("turn")  # rolls back, and lets go of the lock whatever went wrong
            self._beside.check()  # a commit into a file that is gone is not durable

    def lease(self, writer: str) -> bool:
        """See `Store`."""
        with self._use("turn") as connection:
            return self._beside.lease(connection, writer)

    def free(self, writer: str) -> bool:
        """See `Store`."""
        with self._use("turn") as connection:
            return self._beside.free(connection, writer)

    def open_calls(self) -> list[OpenCall]:
        """See `Store`."""
        with self._use("turn") as connection:
            rows = connection.exec_driver_sql("SELECT id, idx, writer, boot FROM ledger_open_calls ORDER BY idx")
            return [OpenCall(*row) for row in rows]

    def head(self) -> Head:
        """See `Store`."""
        with self._use("sign") as connection:
            return Head(*connection.exec_driver_sql(_HEAD).one())

    def leaves(self, start: int, stop: int) -> Iterator[StoredLeaf]:
        """See `Store`."""
        for at in range(start, stop, _CHUNK):
            with self._use("sign") as connection:
                rows = connection.exec_driver_sql(self._words.leaves, (at, min(at + _CHUNK, stop))).all()
            for row in rows:
                yield StoredLeaf(*row)

    def signing(self) -> AbstractContextManager[Signing]:
        """See `Store`."""
        return self._signing()

    @contextmanager
    def _signing(self) -> Iterator[Signing]:
        with self._use("sign") as connection, self._beside.signing(connection) as signing:
            yield signing

    def checkpoint(self) -> tuple[int, str] | None:
        """See `Store`."""
        with self._use("sign") as connection:
            newest = "SELECT size, note FROM ledger_checkpoints ORDER BY size DESC LIMIT 1"
            row = connection.exec_driver_sql(newest).one_or_none()
            return (row[0], row[1]) if row is not None else None

    def add_checkpoint(self, size: int, note: str) -> None:
        """See `Store`."""
        with self._use("sign") as connection:
            statement = "INSERT INTO ledger_checkpoints (size, note) VALUES (?, ?) ON CONFLICT DO NOTHING"
            connection.exec_driver_sql(self._words(statement), (size, note))

    def close(self) -> None:
        """See `Store`."""
        for role in list(self._connections):
            self._drop(role)
        self._engine.dispose()
        self._beside.close()

    @contextmanager
    def _use(self, role: str) -> Iterator[Connection]:
        """The role's connection.  A failed one is dropped, which rolls back, and the next use connects anew."""
        try:
            connection = self._connections.get(role)
            if connection is None:
                connection = self._connect(role)
            yield connection
        except SQLAlchemyError as error:
            self._drop(role)
            raise store_error(error) from error

    def _connect(self, role: str) -> Connection:
        connection = self._engine.connect()
        try:
            if role == "turn":
                self._beside.connected(connection)
        except BaseException:
            connection.close()
            raise
        self._connections[role] = connection
        return connection

    def _drop(self, role: str) -> None:
        connection = self._connections.pop(role, None)
        if connection is not None:
            connection.invalidate()
            connection.close()


class _BesideFile:
    """Locks, identity and the last signed head of a SQLite log: files."""

    def __init__(self, path: Path) -> None:
        self._identity = FileIdentity(path)
        self._locks = Locks(path)
        self._signed = SignedFile(path)

    def connected(self, _connection: Connection) -> None:
        self._identity.reopened()

    def check(self) -> None:
        self._identity.check()

    def lease(self, _connection: Connection, writer: str) -> bool:
        return self._locks.take(f"writer {writer}")

    def free(self, _connection: Connection, writer: str) -> bool:
        return self._locks.is_free(f"writer {writer}")

    @contextmanager
    def signing(self, _connection: Connection) -> Iterator[Signing]:
        with self._locks.hold("sign"):
            yield self._signed

    def close(self) -> None:
        self._locks.close()


class _BesidePostgres:
    """The same in PostgreSQL: advisory locks of the session, and a row."""

    def __init__(self) -> None:
        self._leases: set[str] = set()

    def connected(self, connection: Connection) -> None:
        """A new session holds no lock yet, and may find that another process took a name meanwhile."""
        for writer in self._leases:
            if not _try_lock(connection, f"writer {writer}"):
                msg = f"another process writes as {writer}, or the session that was lost is not over yet"
                raise StoreError(msg)

    def check(self) -> None:
        """The server keeps its own files."""

    def lease(self, connection: Connection, writer: str) -> bool:
        if writer not in self._leases and _try_lock(connection, f"writer {writer}"):
            self._leases.add(writer)
        return writer in self._leases

    def free(self, connection: Connection, writer: str) -> bool:
        if writer in self._leases or not _try_lock(connection, f"writer {writer}"):
            return False
        connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_LOCK})", (f"writer {writer}",))
        return True

    @contextmanager
    def signing(self, connection: Connection) -> Iterator[Signing]:
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


def _try_lock(connection: Connection, name: str) -> bool:
    return bool(connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({_LOCK})", (name,)).scalar())
