"""Reading a ledger's database, with a connection that cannot write.  What it returns is as stored: nothing of it is checked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self

from sqlalchemy import func, inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import col, select

from audit.ahead_file import AheadFile
from audit.privacy import SubjectRow
from audit.store import Head, StoredLeaf, StoreError
from audit.store_connect import engine, parse_url, sqlite_path
from audit.store_sql import store_error
from audit.store_tables import (
    CheckpointRow,
    HeadRow,
    HoldRow,
    LeafRow,
    LogRow,
    NodeRow,
    OpeningRow,
    SubjectTableRow,
    TimestampRow,
)

_CHUNK: Final = 500
_PATIENCE: Final = 2.0  # seconds, for a writer that lives
_PAUSE: Final = 0.001


class SqlReader:
    """The rows of one log.  Used by one thread at a time; `StoreError` where the database does not answer."""

    def __init__(self, url: str) -> None:
        """`ValueError` for a URL of another kind.  A SQLite file is never created."""
        path = sqlite_path(parse_url(url))
        self._ahead = AheadFile(path) if path is not None else None
        self._settled = 0  # so many records are in the tables
        self._engine = engine(parse_url(url), read_only=True)
        try:
            self._connection = self._engine.connect()
            row = self._rows(select(LogRow.origin, LogRow.vkey))
        except SQLAlchemyError as error:
            raise store_error(error) from error
        if len(row) != 1:
            msg = "there is no ledger"
            raise StoreError(msg)
        self.origin: str = row[0][0]
        self.vkey: str = row[0][1]

    @property
    def unsettled(self) -> int:
        """How many records are durable and not in the tables, as their writer died: its next start puts them there."""
        return max(0, self._ahead.size - self.head().size) if self._ahead is not None else 0

    def first(self) -> int:
        """The oldest record that is here: 0 until a segment is retired; the size of the log where there is none."""
        return int(self._rows(select(func.min(LeafRow.idx)))[0][0] or 0)

    def head(self) -> Head:
        """Where the log ends now."""
        return Head(*self._rows(select(HeadRow.size, HeadRow.frontier, HeadRow.erasures))[0])

    def leaves(self, start: int = 0, stop: int | None = None) -> Iterator[StoredLeaf]:
        """The leaves [start, stop) in order, a few at a time."""
        while stop is None or start < stop:
            rows = self._leaves(col(LeafRow.idx) >= start, stop=stop, limit=_CHUNK)
            yield from rows
            if not rows:
                return
            start = rows[-1].index + 1

    def leaf(self, record: str) -> StoredLeaf | None:
        """The leaf of the record."""
        return next(iter(self._leaves(col(LeafRow.id) == record)), None)

    def last(self, count: int) -> list[StoredLeaf]:
        """The newest leaves, oldest first."""
        size = self.head().size
        return self._leaves(col(LeafRow.idx) >= size - count, stop=size, limit=count)

    def containing(self, text: bytes) -> Iterator[StoredLeaf]:
        """Leaves whose bytes contain the text: the whole log is looked through."""
        for leaf in self.leaves():
            if text in leaf.data:
                yield leaf

    def hashes(self, level: int, start: int, stop: int) -> list[bytes]:
        """Hashes of the complete subtrees of height 8·level: [start, stop) of them, those that are stored."""
        if level == 0:
            where = select(LeafRow.hash).where(col(LeafRow.idx) >= start, col(LeafRow.idx) < stop).order_by(col(LeafRow.idx))
        else:
            where = select(NodeRow.hash).where(col(NodeRow.level) == level, col(NodeRow.idx) >= start, col(NodeRow.idx) < stop)
            where = where.order_by(col(NodeRow.idx))
        return [row[0] for row in self._rows(where)]

    def opening(self, index: int, name: str) -> bytes | None:
        """The sealed value of a leaf."""
        rows = self._rows(select(OpeningRow.sealed).where(col(OpeningRow.idx) == index, col(OpeningRow.name) == name))
        return rows[0][0] if rows else None

    def openings(self, indices: Sequence[int], names: Sequence[str]) -> dict[tuple[int, str], bytes]:
        """The sealed values of these names, of many leaves at once."""
        row = OpeningRow
        where = col(row.idx).in_(indices), col(row.name).in_(names)
        return {(idx, name): sealed for idx, name, sealed in self._rows(select(row.idx, row.name, row.sealed).where(*where))}

    def subject(self, pseudonym: str) -> SubjectRow | None:
        """The subject's row; None when it was destroyed, or never was."""
        row = SubjectTableRow
        found = self._rows(select(row.pseudonym, row.lookup, row.dek, row.name).where(col(row.pseudonym) == pseudonym))
        return SubjectRow(*found[0]) if found else None

    def subject_by(self, lookup: bytes) -> SubjectRow | None:
        """The row of the subject with this keyed hash."""
        row = SubjectTableRow
        found = self._rows(select(row.pseudonym, row.lookup, row.dek, row.name).where(col(row.lookup) == lookup))
        return SubjectRow(*found[0]) if found else None

    def holds(self) -> list[tuple[str, str]]:
        """Legal holds in force."""
        if not inspect(self._connection).has_table(str(HoldRow.__tablename__)):  # as with `timestamps`
            return []
        return [(row[0], row[1]) for row in self._rows(select(HoldRow.id, HoldRow.pseudonym).order_by(col(HoldRow.id)))]

    def subjects(self, pseudonyms: Sequence[str]) -> dict[str, SubjectRow]:
        """The rows of these subjects, of those that are there."""
        row = SubjectTableRow
        columns = select(row.pseudonym, row.lookup, row.dek, row.name)
        return {found[0]: SubjectRow(*found) for found in self._rows(columns.where(col(row.pseudonym).in_(pseudonyms)))}

    def checkpoint(self, size: int | None = None) -> str | None:
        """The note of the newest checkpoint, or that of exactly this size."""
        notes = select(CheckpointRow.note).order_by(col(CheckpointRow.size).desc()).limit(1)
        rows = self._rows(notes if size is None else notes.where(col(CheckpointRow.size) == size))
        return rows[0][0] if rows else None

    def timestamps(self) -> Iterator[tuple[int, str, bytes, str]]:
        """Authorities' tokens: size, authority, token, and the note of the checkpoint that they are about."""
        row = TimestampRow
        if not inspect(self._connection).has_table(str(row.__tablename__)):  # a log that no writer of this version has opened
            return
        columns = select(row.size, row.authority, row.token, CheckpointRow.note)
        yield from map(tuple, self._rows(columns.join(CheckpointRow, col(CheckpointRow.size) == col(row.size))))

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _leaves(self, where: ColumnElement[bool], *, stop: int | None = None, limit: int = 1) -> list[StoredLeaf]:
        statement = select(LeafRow.idx, LeafRow.id, LeafRow.hash, LeafRow.data).where(where)
        if stop is not None:
            statement = statement.where(col(LeafRow.idx) < stop)
        return [StoredLeaf(*row) for row in self._rows(statement.order_by(col(LeafRow.idx)).limit(limit))]

    def _rows(self, statement: Any) -> Sequence[Any]:
        try:
            if self._ahead is not None and self._ahead.size > self._settled:
                self._wait(self._ahead)
            return self._connection.execute(statement).all()
        except SQLAlchemyError as error:
            raise store_error(error) from error

    def _wait(self, ahead: AheadFile) -> None:
        """What was acknowledged before is read: where it is not in the tables yet, it soon is, if its writer lives."""
        wanted, deadline = ahead.size, time.monotonic() + _PATIENCE
        while True:
            self._settled = int(self._connection.execute(select(HeadRow.size)).scalar() or 0)
            if self._settled >= wanted:
                return
            if not ahead.waiting or time.monotonic() > deadline:
                self._settled = wanted  # it was waited for in vain, once
                return
            time.sleep(_PAUSE)
