"""One database behind the store: SQLite or PostgreSQL, opened so that what is committed is on the disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from audit.store_connect import MIGRATING, write_ahead
from gateway.problem import Problem, ProblemError

POSTGRES_CONNECTIONS = 4
_MIGRATIONS = Path(__file__).with_name("migrations")
_MIGRATION_LOCK = 0x6261_696C_7374_6174  # "bailstat": one replica migrates, the others wait


def open_engine(url: str) -> tuple[Engine, int]:
    """A migrated database, and how many threads may use it at a time.  ProblemError where it cannot be opened; blocks."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise _problem("not a database URL", "") from None
    shown = parsed.render_as_string(hide_password=True)
    try:
        if parsed.drivername in {"sqlite", "sqlite+pysqlite"}:
            engine, threads = _sqlite(parsed), 1
        elif parsed.drivername == "postgresql+psycopg":
            engine, threads = _postgres(parsed), POSTGRES_CONNECTIONS
        else:
            raise _problem("the state store is SQLite or PostgreSQL", shown, "sqlite:///file.db or postgresql+psycopg://…")
        try:
            with engine.begin() as connection:
                _migrate(connection, shown)
        except BaseException:
            engine.dispose()
            raise
    except SQLAlchemyError as error:
        raise _problem(f"the state store cannot be opened ({type(error).__name__})", shown) from None
    except (OSError, ModuleNotFoundError) as error:
        raise _problem(f"the state store cannot be opened: {error}", shown) from None
    return engine, threads


def _sqlite(url: URL) -> Engine:
    arguments: dict[str, Any] = {"connect_args": {"check_same_thread": False, "timeout": 10}, "hide_parameters": True}
    if url.database in {None, "", ":memory:"}:
        arguments["poolclass"] = StaticPool
    else:
        path = Path(str(url.database))
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # before SQLite makes it for everybody to read
    engine = create_engine(url, **arguments)

    @event.listens_for(engine, "connect")
    def _settle(connection: Any, _record: object) -> None:  # the driver's own type
        connection.isolation_level = None  # the driver must not begin transactions behind our back
        write_ahead(connection)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(
            "PRAGMA wal_autocheckpoint=512"
        )  # a log that is written in place again syncs faster than one that grows
        connection.execute("PRAGMA secure_delete=ON")  # what was erased does not stay in a free page

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # a read that becomes a write later could deadlock

    return engine


def _postgres(url: URL) -> Engine:
    return create_engine(
        url,
        hide_parameters=True,
        pool_size=POSTGRES_CONNECTIONS,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 5, "options": "-c statement_timeout=10000 -c lock_timeout=5000"},
    )


def _migrate(connection: Connection, shown: str) -> None:
    if connection.dialect.name == "postgresql":
        if connection.execute(text("SHOW synchronous_commit")).scalar_one() == "off":
            message = "the state store forgets what it has confirmed (synchronous_commit is off)"
            raise _problem(message, shown, "set synchronous_commit to on for this role")
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    with MIGRATING:
        command.upgrade(config, "head")


def _problem(message: str, location: str, help_text: str = "") -> ProblemError:
    return ProblemError(Problem("state-store", message, location, help_text))
