"""What an application without a ledger does: a row for each call by SQLModel, and a commit for each, as durable as ours."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlmodel import Field, Session, SQLModel, create_engine

Row = tuple[str, bytes, tuple[tuple[str, bytes], ...]]
"""A record's id, its bytes, and the sealed values beside it by name."""


class PlainRecord(SQLModel, table=True):
    """One record."""

    index: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    data: bytes


class PlainValue(SQLModel, table=True):
    """What stands sealed beside it."""

    id: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    sealed: bytes


def rate(folder: Path, rows: Sequence[Row]) -> float:
    """Records a second, one after the other: SQLite has one writer, so more callers would only wait."""
    engine = create_engine(f"sqlite:///{folder / 'plain.db'}")

    @event.listens_for(engine, "connect")
    def durable(connection: Any, _: object) -> None:
        with closing(connection.cursor()) as cursor:
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")

    tables = [SQLModel.metadata.tables[each] for each in ("plainrecord", "plainvalue")]
    SQLModel.metadata.create_all(engine, tables=tables)
    began = time.perf_counter()
    for record, data, values in rows:
        with Session(engine) as session:
            session.add(PlainRecord(id=record, data=data))
            for name, sealed in values:
                session.add(PlainValue(id=record, name=name, sealed=sealed))
            session.commit()
    took = time.perf_counter() - began
    engine.dispose()
    return len(rows) / took
