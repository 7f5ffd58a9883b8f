"""The search index: facets of every record in a database of its own, made from the log and never the other way round.

It may be lost, late or wrong, and nothing is lost: whoever searches brings it up to the log first, every hit is read from the log
again, and `check` compares all of it.  A thief of the file learns what the leaves say, and no value.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Text, and_, func, not_, or_
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import Field, SQLModel, col, create_engine, delete, insert, select, update

from audit.facets import FACETS, Facets, facets
from audit.model import TamperedError
from audit.query import Query, Term
from audit.reader import Ledger, Record
from audit.store import StoreError
from audit.store_connect import create_file, engine, parse_url

LAYOUT: Final = 1
"""Of the facets; an index of another layout is made anew."""
MOST: Final = 1000
_BATCH: Final = 2000
_ANYWHERE: Final = ("id", "call", "workflow", "tool", "resource", "reason", "agent")
_METADATA: Final = MetaData()


class _Table(SQLModel):
    metadata: ClassVar[MetaData] = _METADATA


class _RecordRow(_Table, table=True):
    __tablename__ = "index_records"
    idx: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    at: int = Field(sa_column=Column(Integer, nullable=False, index=True))
    id: str = Field(sa_column=Column(Text, nullable=False, index=True))
    kind: str = Field(sa_column=Column(Text, nullable=False, index=True))
    call: str = Field(sa_column=Column(Text, nullable=False, index=True))
    workflow: str = Field(sa_column=Column(Text, nullable=False, index=True))
    tenant: str = Field(sa_column=Column(Text, nullable=False))
    subject: str = Field(sa_column=Column(Text, nullable=False, index=True))
    agent: str = Field(sa_column=Column(Text, nullable=False, index=True))
    chain: str = Field(sa_column=Column(Text, nullable=False))
    proto: str = Field(sa_column=Column(Text, nullable=False))
    method: str = Field(sa_column=Column(Text, nullable=False))
    server: str = Field(sa_column=Column(Text, nullable=False, index=True))
    tool: str = Field(sa_column=Column(Text, nullable=False))
    action: str = Field(sa_column=Column(Text, nullable=False))
    resource: str = Field(sa_column=Column(Text, nullable=False))
    effect: str = Field(sa_column=Column(Text, nullable=False))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    outcome: str = Field(sa_column=Column(Text, nullable=False))
    policy: str = Field(sa_column=Column(Text, nullable=False))
    trace: str = Field(sa_column=Column(Text, nullable=False))
    writer: str = Field(sa_column=Column(Text, nullable=False))


class _StateRow(_Table, table=True):
    """One row: of which log, in which layout, and how many of its records."""

    __tablename__ = "index_state"
    id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    origin: str = Field(sa_column=Column(Text, nullable=False))
    layout: int = Field(sa_column=Column(Integer, nullable=False))
    size: int = Field(sa_column=Column(Integer, nullable=False))


@dataclass(frozen=True, slots=True)
class Found:
    """A page of hits, newest first.

    size   of the log that was searched: the same query with it finds the same, whatever was recorded since.
    older  what `before` of the next page is; None where there is no more.
    """

    records: tuple[Record, ...]
    size: int
    older: int | None


class Index:
    """The index of one log.  Used by one thread at a time; `StoreError` where its file cannot be used."""

    def __init__(self, ledger: Ledger, path: Path | None) -> None:
        """In the file at `path`, which is made where there is none; None: in memory, for a log that one only looks at."""
        self._ledger = ledger
        self._engine = _engine(path)
        try:
            self._connection = self._engine.connect()
            self._begin()
        except SQLAlchemyError as error:
            self._engine.dispose()
            msg = f"the search index cannot be used: {error.__class__.__name__}; it can be deleted, and is made anew"
            raise StoreError(msg) from error

    def search(self, query: Query, *, count: int = 100, before: int | None = None, size: int | None = None) -> Found:
        """Hits among the first `size` records (all there are now), below index `before`, newest first, at most `count`.

        `TamperedError` where a hit is not what the log says: the index was changed, or is that of another log.
        """
        size = self.catch_up() if size is None else min(size, self.catch_up())
        row = _RecordRow
        where = [col(row.idx) < (size if before is None else min(before, size)), *_conditions(query)]
        asked = select(row.idx).where(*where).order_by(col(row.idx).desc()).limit(min(count, MOST) + 1)
        hits = [found[0] for found in self._rows(asked)]
        kept = hits[: min(count, MOST)]
        return Found(tuple(map(self._true, kept)), size, kept[-1] if len(hits) > len(kept) else None)

    def counts(self, facet: str, query: Query) -> list[tuple[str, int]]:
        """How many records of each value of the facet the query finds, most first."""
        self.catch_up()
        column = col(getattr(_RecordRow, _known(facet)))
        number = func.count()
        asked = select(column, number).where(*_conditions(query)).group_by(column).order_by(number.desc(), column)
        return [(value, count) for value, count in self._rows(asked)]

    def catch_up(self) -> int:
        """Take in what was recorded since; how many records the index then has."""
        self._let_go()
        done = self._size()
        size = self._ledger.size
        while done < size:
            done = self._take(done, min(size, done + _BATCH))
        return done

    def rebuild(self) -> int:
        """Forget everything and read the log again; how many records there are."""
        with self._transaction():
            self._forget()
        return self.catch_up()

    def check(self) -> Iterator[str]:
        """What does not agree with the log, a line each; nothing where all of it does."""
        size = self.catch_up()
        row = _RecordRow
        kept, oldest = self._rows(select(func.count()).select_from(row))[0][0], self._ledger.first
        if kept != size - oldest:
            yield f"the index has {kept} records, the log {size - oldest}"
        for first in range(oldest, size, _BATCH):
            columns = [col(getattr(row, name)) for name in ("idx", "at", *FACETS)]
            found = {each[0]: tuple(each[1:]) for each in self._rows(select(*columns).where(_between(first, first + _BATCH)))}
            for record in self._ledger.records(first, min(size, first + _BATCH)):
                wanted = (record.at, *facets(record.leaf, self._begun(record, {})))
                if found.get(record.index) != wanted:
                    yield f"record {record.index} ({record.id}) is not in the index as the log has it"

    def close(self) -> None:
        """Let the file go."""
        self._connection.close()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _begin(self) -> None:
        with self._transaction():
            _METADATA.create_all(self._connection)
            state = self._rows(select(_StateRow.origin, _StateRow.layout, _StateRow.size))
            wanted = (self._ledger.origin, LAYOUT)
            if not state or tuple(state[0][:2]) != wanted or state[0][2] > self._ledger.size:
                self._forget()

    def _forget(self) -> None:
        first = self._ledger.first
        self._connection.execute(delete(_RecordRow))
        self._connection.execute(delete(_StateRow))
        self._connection.execute(insert(_StateRow).values(id=1, origin=self._ledger.origin, layout=LAYOUT, size=first))

    def _let_go(self) -> None:
        """Forget what was retired from the log; ends whose beginnings went with it say less now, so all of it is read again."""
        oldest = self._rows(select(func.min(_RecordRow.idx)))[0][0]
        if oldest is not None and oldest < self._ledger.first:
            with self._transaction():
                self._forget()

    def _size(self) -> int:
        return int(self._rows(select(_StateRow.size))[0][0])

    def _take(self, first: int, stop: int) -> int:
        """Records [first, stop), unless another process has taken them meanwhile."""
        with self._transaction():
            if self._size() != first:
                return self._size()
            rows: list[dict[str, Any]] = []
            taken: dict[str, Facets] = {}
            for record in self._ledger.records(first, stop):
                said = taken[record.id] = facets(record.leaf, self._begun(record, taken))
                rows.append({"idx": record.index, "at": record.at, **said._asdict()})
            if len(rows) != stop - first:
                msg = f"records from {first + len(rows)} on are missing from the log"
                raise TamperedError(msg)
            self._connection.execute(insert(_RecordRow), rows)
            self._connection.execute(update(_StateRow).values(size=stop))
        return stop

    def _begun(self, record: Record, taken: dict[str, Facets]) -> Facets | None:
        """The facets of the record that this one ends."""
        call = record.leaf.get("call")
        if not isinstance(call, str):
            return None
        if call in taken:
            return taken[call]
        row = _RecordRow
        columns = [col(getattr(row, name)) for name in FACETS]
        found = self._rows(select(*columns).where(col(row.id) == call, col(row.idx) < record.index).limit(1))
        return Facets(*found[0]) if found else None

    def _true(self, index: int) -> Record:
        """The record of a hit, from the log; it must be what the index took it for."""
        record = next(self._ledger.records(index, index + 1), None)
        row = _RecordRow
        kept = self._rows(select(*(col(getattr(row, name)) for name in FACETS)).where(col(row.idx) == index))
        if record is None or not kept or tuple(kept[0]) != tuple(facets(record.leaf, self._begun(record, {}))):
            msg = f"record {index} is not what the search index says; `bailiwick audit search --rebuild` makes it anew"
            raise TamperedError(msg)
        return record

    def _rows(self, statement: Any) -> Sequence[Any]:
        try:
            return self._connection.execute(statement).all()
        except SQLAlchemyError as error:
            msg = f"the search index cannot be read: {error.__class__.__name__}; it can be deleted, and is made anew"
            raise StoreError(msg) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Another process that takes records in waits for this one, and the other way round."""
        self._connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.exec_driver_sql("ROLLBACK")
            raise
        self._connection.exec_driver_sql("COMMIT")


def _engine(path: Path | None) -> Engine:
    if path is None:
        return create_engine("sqlite://", isolation_level="AUTOCOMMIT")
    create_file(path)
    return engine(parse_url(f"sqlite:///{path}"))


def _between(first: int, stop: int) -> ColumnElement[bool]:
    return and_(col(_RecordRow.idx) >= first, col(_RecordRow.idx) < stop)


def _known(facet: str) -> str:
    if facet not in FACETS:
        msg = f"not a facet: {facet}"
        raise ValueError(msg)
    return facet


def _conditions(query: Query) -> list[ColumnElement[bool]]:
    found = [_condition(term) for term in query.terms]
    if query.since is not None:
        found.append(col(_RecordRow.at) >= query.since)
    if query.until is not None:
        found.append(col(_RecordRow.at) < query.until)
    return found


def _condition(term: Term) -> ColumnElement[bool]:
    if not term.facet:
        wanted = or_(*(_like(name, f"*{value}*") for name in _ANYWHERE for value in term.values))
    else:
        wanted = or_(*(_like(term.facet, value) for value in term.values))
    return not_(wanted) if term.without else wanted


def _like(facet: str, value: str) -> ColumnElement[bool]:
    column = col(getattr(_RecordRow, _known(facet)))
    if facet == "chain" and "*" not in value:
        value = f"* {value} *"
    if not value.startswith("*") and not value.endswith("*"):
        return column == value
    inner = value.removeprefix("*").removesuffix("*")
    escaped = inner.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    pattern = ("%" if value.startswith("*") else "") + escaped + ("%" if value.endswith("*") else "")
    return column.like(pattern, escape="\\")
