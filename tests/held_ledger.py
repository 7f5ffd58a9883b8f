"""A SQLite ledger that takes no record, for a while."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from audit.store import StoreError
from audit.store_read import SqlReader


def settled(path: Path) -> None:
    """Wait until what a living writer has acknowledged is in the database's tables."""
    with suppress(StoreError), SqlReader(f"sqlite:///{path}"):
        pass


@contextmanager
def kept_from_writing(path: Path) -> Iterator[sqlite3.Connection]:
    """Neither into its tables nor into the file ahead of them; the connection that holds the database."""
    settled(path)
    ahead = path.with_name(path.name + "-ahead")
    with ahead.open("ab") as file, closing(sqlite3.connect(path, isolation_level=None)) as connection:
        fcntl.flock(file, fcntl.LOCK_EX)
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        if connection.in_transaction:
            connection.execute("ROLLBACK")
