"""The store in SQL: SQLite for one machine, PostgreSQL where replicas share one log.  One locked transaction for each batch.

Order is not left to a sequence (its numbers become visible out of order): whoever holds the head row gives out the indexes.
The hot path speaks plain SQL in batches; nothing here looks into what it stores.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Final, cast

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import SQLAlchemyError

from audit.ahead import Ahead
from audit.ballast import Ballast
from audit.store import FullError, Head, OpenCall, Signing, StoredLeaf, StoreError, Turn
from audit.store_beside import BesideFile, BesidePostgres
from audit.store_connect import MIGRATING, create_file, engine, parse_url, schema_of, sqlite_path
from audit.store_guards import Guards, guards
from audit.store_turn import HEAD, AheadTurn, Cursor, SqlTurn, Words, head_of

REVISION: Final = "l0005"
"""The schema that this code speaks; the newest step in `audit/migrations/versions`."""

_CHUNK: Final = 500
_MIGRATION_LOCK: Final = 0x6261_696C_6C65_6467  # any number that nobody else uses
_LEAVES: Final = "SELECT idx, id, hash, data FROM ledger_leaves WHERE idx >= ? AND idx < ? ORDER BY idx"


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
                _make_schema(connection, schema_of(parsed))
            _upgrade(connection)
            connection.exec_driver_sql("COMMIT")
    except SQLAlchemyError as error:
        raise store_error(error) from error


def _make_schema(connection: Connection, name: str) -> None:
    """A log with a schema of its own makes it; where somebody else has made it, no right to do so is needed."""
    if name and not connection.exec_driver_sql("SELECT 1 FROM pg_namespace WHERE nspname = %s", (name,)).scalar():
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")


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
        with MIGRATING:
            command.upgrade(config, REVISION)
    except CommandError as error:
        msg = f"the ledger's schema is not one that this version knows: {error}"
        raise StoreError(msg) from error


def store_error(error: Exception) -> StoreError:
    """What the driver says of a failure, without the statement: its parameters are records."""
    said = (getattr(error, "orig", None) or type(error).__name__) if isinstance(error, SQLAlchemyError) else error
    full = getattr(said, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return (FullError if full else StoreError)(str(said).strip().split("\n")[0])


class SqlStore:
    """A `Store` in SQLite or PostgreSQL."""

    def __init__(self, url: str) -> None:
        """Open the log at the URL, bringing its schema up to date.  `ValueError` for a URL of another kind, else `StoreError`."""
        migrate(url)
        parsed = parse_url(url)
        path = sqlite_path(parsed)
        self._engine = engine(parsed)
        driver = self._engine.dialect.loaded_dbapi
        self._errors: tuple[type[Exception], ...] = (SQLAlchemyError, driver.Error)
        self._words = Words(sqlite=path is not None, duplicate=driver.IntegrityError)
        self._leaves = self._words(_LEAVES)
        self._connections: dict[str, Connection] = {}
        self._cursor: Cursor | None = None  # the driver's own, of the connection that takes turns
        self._beside = BesideFile(path) if path is not None else BesidePostgres()
        self._ahead = Ahead(path) if path is not None else None
        self.ballast = Ballast(path.with_name(path.name + ".ballast")) if path is not None else None

    def claim(self, origin: str, vkey: str) -> tuple[str, str]:
        """See `Store`."""
        with self._use("turn") as connection:
            statement = self._words("INSERT INTO ledger_log (id, origin, vkey) VALUES (1, ?, ?) ON CONFLICT DO NOTHING")
            connection.exec_driver_sql(statement, (origin, vkey))
            row = connection.exec_driver_sql("SELECT origin, vkey FROM ledger_log WHERE id = 1").one()
            return row[0], row[1]

    def turn(self, *, may_wait: bool = False) -> AbstractContextManager[Turn]:
        """See `Store`."""
        return _Turning(self, may_wait=may_wait)

    @property
    def unsettled(self) -> int:
        """See `Store`."""
        return self._ahead.records if self._ahead is not None else 0

    @property
    def due(self) -> bool:
        """See `Store`."""
        return self._ahead is not None and self._ahead.due

    def settle(self) -> None:
        """See `Store`."""
        if self.unsettled:
            with self.turn():
                pass

    def lease(self, writer: str) -> bool:
        """See `Store`."""
        with self._use("turn") as connection:
            return self._beside.lease(connection, writer)

    def free(self, writer: str) -> bool:
        """See `Store`."""
        with self._use("turn") as connection:
            return self._beside.free(connection, writer)

    def guards(self) -> Guards:
        """See `Store`."""
        with self._use("turn") as connection:
            return guards(connection, sqlite=self._words.sqlite)

    def open_calls(self) -> list[OpenCall]:
        """See `Store`."""
        with self._use("turn") as connection:
            rows = connection.exec_driver_sql("SELECT id, idx, writer, boot FROM ledger_open_calls ORDER BY idx")
            return [OpenCall(*row) for row in rows]

    def head(self) -> Head:
        """See `Store`."""
        with self._use("sign") as connection:
            return Head(*connection.exec_driver_sql(HEAD).one())

    def leaves(self, start: int, stop: int) -> Iterator[StoredLeaf]:
        """See `Store`."""
        for at in range(start, stop, _CHUNK):
            with self._use("sign") as connection:
                rows = connection.exec_driver_sql(self._leaves, (at, min(at + _CHUNK, stop))).all()
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
        if self._ahead is not None:
            self._ahead.close()

    @contextmanager
    def _use(self, role: str) -> Iterator[Connection]:
        """The role's connection.  A failed one is dropped, which rolls back, and the next use connects anew."""
        try:
            connection = self._connections.get(role)
            if connection is None:
                connection = self._connect(role)
            yield connection
        except self._errors as error:
            self._drop(role)
            raise store_error(error) from error

    def _connect(self, role: str) -> Connection:
        if role == "turn":
            self._beside.connecting()
        connection = self._engine.connect()
        try:
            if role == "turn":
                self._beside.connected(connection)
        except BaseException:
            connection.close()
            raise
        self._connections[role] = connection
        if role == "turn":
            self._cursor = cast("Cursor", connection.connection.cursor())
        return connection

    def _drop(self, role: str) -> None:
        if role == "turn":
            self._cursor = None
        connection = self._connections.pop(role, None)
        if connection is not None:
            connection.invalidate()
            connection.close()


class _Turning:
    """A turn, from taking the lock to the commit.  It runs for every batch: two plain methods cost less than a generator."""

    __slots__ = ("_begun", "_may_wait", "_store", "_turn")

    def __init__(self, store: SqlStore, *, may_wait: bool) -> None:
        self._store = store
        self._may_wait = may_wait
        self._begun = False  # a transaction of the database
        self._turn: SqlTurn

    def __enter__(self) -> Turn:
        store, ahead = self._store, self._store._ahead
        if store._cursor is None:
            with store._use("turn"):
                pass
        store._beside.begin()
        try:
            if ahead is not None and ahead.take():
                ahead.adopt(ahead.left(head_of(cast("Cursor", store._cursor), store._words)))
            if ahead is not None and self._may_wait and not ahead.behind:
                self._turn = AheadTurn(cast("Cursor", store._cursor), store._words, ahead)
            else:
                self._turn = self._begin()
        except BaseException as error:
            self._abandon(error)
            raise
        return self._turn

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._abandon(error)
            return
        try:
            if not self._begun and not self._is_ahead():
                first, self._turn = self._turn, self._begin()
                if first.written is not None:
                    self._turn.write(first.written, first.ends.size, first.ends.frontier)
            self._end()
        except BaseException as failure:
            self._abandon(failure)
            raise

    def _begin(self) -> SqlTurn:
        """A transaction, and in it first what is durable ahead of the tables."""
        store = self._store
        cursor = cast("Cursor", store._cursor)
        if store._ahead is not None and store._ahead.pending:
            store._ahead.behind = True  # until it is done nothing more is taken
        cursor.execute(store._words.begin)
        self._begun = True
        turn = SqlTurn(cursor, store._words)
        if store._ahead is not None and store._ahead.pending:
            turn.settle(store._ahead.pending)
        return turn

    def _is_ahead(self) -> bool:
        """Whether the turn's batch is durable ahead of the tables now (or there is none)."""
        ahead, turn = self._store._ahead, self._turn
        if ahead is None or turn.written is None:
            return True
        return ahead.fits(turn.written) and ahead.append(turn.written, turn.ends)

    def _end(self) -> None:
        store = self._store
        if self._begun:
            cast("Cursor", store._cursor).execute("COMMIT")
        store._beside.check()  # a commit into a file that is gone is not durable
        if store._ahead is not None:
            if self._begun:
                store._ahead.settled(self._turn.written)
            store._ahead.let_go()

    def _abandon(self, error: BaseException) -> None:
        """Let go of the lock whatever went wrong.  To close alone would not do: an unfinished statement keeps it."""
        store = self._store
        if store._cursor is not None and self._begun:
            try:
                store._connections["turn"].exec_driver_sql("ROLLBACK")
            except SQLAlchemyError:
                store._drop("turn")
        if store._ahead is not None:
            store._ahead.behind = store._ahead.behind or (self._begun and bool(store._ahead.pending))
            store._ahead.let_go()
        if isinstance(error, store._errors):
            store._drop("turn")
            raise store_error(error) from error
