"""The verifier's checks on any ledger of ours: a SQLite file as a stranger would check it, or the same rows from PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from audit.store import StoreError
from audit.store_connect import engine, parse_url, sqlite_path
from audit.store_read import SqlReader
from audit.store_sql import store_error
from audit.verify import TABLES, Report, Rows, SqliteRows, Trust, verify_rows, verify_sqlite


class _PostgresRows(Rows):
    """The tables as one transaction sees them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, table: str) -> Iterator[tuple[Any, ...]]:
        columns, order = TABLES[table]
        collated = re.sub("(name|witness|authority)", r'\1 COLLATE "C"', order)
        statement = f"SELECT {', '.join(columns)} FROM {table} ORDER BY {collated}"  # noqa: S608  constants
        for row in self._connection.execution_options(yield_per=500).exec_driver_sql(statement):
            yield tuple(row)

    def schema(self, level: str) -> list[str]:  # noqa: ARG002  the guards are the same for each
        """The guards that make the log append-only are there, and on for everybody."""
        guards = (
            "SELECT tgname, tgenabled FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid WHERE NOT tgisinternal "
            "AND relnamespace = current_schema()::regnamespace AND relname LIKE 'ledger_%%'"
        )
        found = {row[0]: row[1] for row in self._connection.exec_driver_sql(guards)}
        append_only = ["ledger_leaves", "ledger_checkpoints", "ledger_nodes"]
        revision = self._connection.exec_driver_sql("SELECT version_num FROM ledger_version").scalar()
        if revision not in {"l0001", "l0002"}:
            append_only += ["ledger_cosignatures", "ledger_timestamps"]
        if revision not in {"l0001", "l0002", "l0003", "l0004"}:
            append_only += ["ledger_segments"]
        names = [f"{table}_{guard}" for table in append_only for guard in ("no_change", "no_truncate")]
        wanted = [*names, "ledger_openings_no_change"]
        return [f"the trigger {name} is missing or switched off" for name in wanted if found.get(name) not in {"A", b"A"}]


def verify_url(  # noqa: PLR0917  what else it is to be held against
    url: str,
    key: str | None = None,
    kept: str | Sequence[str] | None = None,
    witnesses: Sequence[str] = (),
    quorum: int | None = None,
    receipts: Sequence[Any] = (),
    level: str = "semantic",
    state: bytes | None = None,
) -> Report:
    """Verify the ledger at a URL against the key that its operator published, checkpoints that were kept, and witnesses.

    `ValueError` for a URL, key or checkpoint that is none; `OSError` or `StoreError` where there is no ledger.
    """
    path = sqlite_path(parse_url(url))
    if path is not None:
        _settled(url)
        return verify_sqlite(path, key, kept, witnesses, quorum, receipts, level, state)
    with rows_of(url) as rows:
        return verify_rows(rows, Trust(key, kept, witnesses, quorum, receipts, level, state))


@contextmanager
def rows_of(url: str) -> Iterator[Rows]:
    """The tables of the ledger at a URL, in one state whatever is appended meanwhile."""
    parsed = parse_url(url)
    path = sqlite_path(parsed)
    if path is not None:
        _settled(url)
        rows = SqliteRows(path)
        try:
            yield rows
        finally:
            rows.close()
        return
    reading = engine(parsed, read_only=True)
    try:
        with reading.connect() as connection:
            connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield _PostgresRows(connection)
    except SQLAlchemyError as error:
        raise store_error(error) from error
    finally:
        reading.dispose()


def _settled(url: str) -> None:
    """Wait until what a living writer has acknowledged is in the tables; whatever else is wrong is the verifier's to say."""
    with suppress(StoreError), SqlReader(url):
        pass


__all__ = ["StoreError", "rows_of", "verify_url"]
