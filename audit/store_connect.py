"""How a ledger's database is reached: one engine for each URL, with the settings that make a commit durable."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from audit.store import StoreError

MIGRATING: Final = threading.Lock()
"""Held while Alembic runs: it keeps the migration under way in globals of the process, so that two threads, each at a database of
its own, would otherwise run one another's.  Taken when the database's own lock is held already, so nobody waits in a circle."""
_PAGE_SIZE: Final = 4096  # a commit writes whole pages, and touches half a dozen
# 2 MiB of write-ahead log.  Copied into the file less often, many pages make a turn wait long, and for the same work: the log
# is then written in place again, which syncs in half the time of a log that grows.
_CHECKPOINT_PAGES: Final = 512
_BUSY_SECONDS: Final = 5.0
_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# A hung replica must not hold the head for ever, and a dead one must lose its locks soon.
_POSTGRESQL_OPTIONS: Final = " ".join(
    f"-c {setting}"
    for setting in (
        "synchronous_commit=on",
        "default_transaction_isolation=read\\ committed",
        "statement_timeout=30s",
        "lock_timeout=10s",
        "idle_in_transaction_session_timeout=20s",
        "tcp_keepalives_idle=10",
        "tcp_keepalives_interval=5",
        "tcp_keepalives_count=3",
    )
)


def parse_url(url: str) -> URL:
    """`sqlite:////absolute/path.db` or `postgresql+psycopg://…`; `ValueError` for anything else, a ledger in memory included."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        msg = "not the URL of a ledger"  # the URL may hold a password: it is not repeated
        raise ValueError(msg) from None
    if (
        parsed.drivername in {"sqlite", "sqlite+pysqlite"}
        and parsed.database
        and parsed.database != ":memory:"
        and not parsed.query
    ):
        return parsed
    if parsed.drivername == "postgresql+psycopg":
        schema_of(parsed)
        return parsed
    msg = "a ledger is in a SQLite file (sqlite:////path) or in PostgreSQL (postgresql+psycopg://…)"
    raise ValueError(msg)


def schema_of(url: URL) -> str:
    """The schema that a PostgreSQL URL names (`?schema=name`); "" where the server's own choice counts.  `ValueError`."""
    said = url.query.get("schema", "")
    if said and (not isinstance(said, str) or _SCHEMA.fullmatch(said) is None):
        msg = "a ledger's schema has a name of at most 63 of a-z, 0-9 and _"
        raise ValueError(msg)
    return str(said)


def sqlite_path(url: URL) -> Path | None:
    """The file of a SQLite URL; None for PostgreSQL."""
    return Path(url.database or "").absolute() if url.get_backend_name() == "sqlite" else None


def create_file(path: Path) -> None:
    """Make an empty database, readable by its owner alone, unless there is a file already."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        msg = f"cannot make {path}: {error.strerror}"
        raise StoreError(msg) from error


def engine(url: URL, *, read_only: bool = False) -> Engine:
    """An engine without a pool in autocommit: transactions are begun and ended in words, the same in both databases.

    A SQLite file is never created: where it is gone, connecting fails.
    """
    path = sqlite_path(url)
    if path is None:
        options = _POSTGRESQL_OPTIONS + (" -c default_transaction_read_only=on" if read_only else "")
        if schema := schema_of(url):
            options += f" -c search_path={schema}"
        made = create_engine(
            url.difference_update_query(["schema"]),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": 5, "options": options, "application_name": "bailiwick-ledger"},
        )
    else:
        uri = f"file:{quote(str(path))}?mode={'ro' if read_only else 'rw'}"

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False)

        made = create_engine("sqlite://", creator=connect, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        event.listen(made, "connect", _read_pragmas if read_only else _write_pragmas)
    return made


def write_ahead(connection: sqlite3.Connection) -> None:
    """Turn write-ahead logging on, waiting for others who open the same new file; sqlite3.OperationalError where they stay busy.

    SQLite itself waits for nobody here, whatever the connection's timeout: whoever comes second is refused at once.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


def _write_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute(f"PRAGMA page_size={_PAGE_SIZE}")  # takes effect in an empty file alone
    write_ahead(connection)
    connection.execute("PRAGMA synchronous=FULL")  # in WAL mode NORMAL would lose acknowledged commits with the power
    connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
    connection.execute("PRAGMA secure_delete=ON")  # a destroyed key must not stay in a free page
    _read_pragmas(connection, _record)


def _read_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA recursive_triggers=ON")  # INSERT OR REPLACE then meets the delete triggers
    connection.execute("PRAGMA trusted_schema=OFF")
