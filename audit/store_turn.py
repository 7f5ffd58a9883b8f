"""One turn of the SQL store, in plain SQL by the driver's own cursor: what runs for every batch costs a handful of statements.

In SQLite each step of a statement lets the interpreter go and asks for it back, so many rows are written by one step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final, Protocol, TypeVar

from audit.ahead import Ahead, Pending, together
from audit.model import TamperedError
from audit.privacy import SubjectRow
from audit.store import Batch, ClosedError, DuplicateError, Head, StoredLeaf

HEAD: Final = "SELECT size, frontier, erasures FROM ledger_head WHERE id = 1"
_UPDATE_HEAD: Final = "UPDATE ledger_head SET size = ?, frontier = ?, erasures = erasures + ? WHERE id = 1"
_SUBJECT: Final = "SELECT pseudonym, lookup, dek, name FROM ledger_subjects WHERE lookup = ?"
_KNOWN: Final = "SELECT pseudonym FROM ledger_subjects WHERE pseudonym IN"
_EXISTING: Final = "SELECT idx, id, hash, data FROM ledger_leaves WHERE id IN"
_IS_OPEN: Final = "SELECT count(*) FROM ledger_open_calls WHERE id = ?"
_CLOSE: Final = "DELETE FROM ledger_open_calls WHERE id IN"
_HOLDS: Final = "SELECT id, pseudonym FROM ledger_holds ORDER BY id"
_RELEASE: Final = "DELETE FROM ledger_holds WHERE id IN"
_LARGEST_ID: Final = "SELECT max(id) FROM ledger_leaves"
_DESTROY: Final = "DELETE FROM ledger_subjects WHERE pseudonym IN"
_INSERTS: Final = {
    "ledger_leaves": ("idx bigint", "id text", "hash bytea", "data bytea"),
    "ledger_openings": ("idx bigint", "name text", "sealed bytea"),
    "ledger_nodes": ("level int", "idx bigint", "hash bytea"),
    "ledger_open_calls": ("id text", "idx bigint", "writer text", "boot text"),
    "ledger_holds": ("id text", "pseudonym text"),
    "ledger_sweeps": ("pseudonym text", "idx bigint"),
    "ledger_subjects": ("pseudonym text", "lookup bytea", "dek bytea", "name bytea"),
}
_LARGEST: Final = 128  # rows in one statement
_Row = TypeVar("_Row")


class Cursor(Protocol):
    """What is needed of a driver's cursor (PEP 249)."""

    @property
    def rowcount(self) -> int:
        """How many rows the last statement touched."""

    def execute(self, statement: str, parameters: Any = ..., /) -> Any:
        """Run one statement."""

    def fetchone(self) -> Any:
        """The next row, or None."""

    def fetchall(self) -> list[Any]:
        """All rows that are left."""


class Words:
    """SQL in the spelling of one database.

    duplicate  what the driver raises where a row cannot stand beside those that are there.
    """

    def __init__(self, *, sqlite: bool, duplicate: type[Exception]) -> None:
        self.sqlite = sqlite
        self.duplicate = duplicate
        self.begin = "BEGIN IMMEDIATE" if sqlite else "BEGIN"
        self.lock_head = HEAD if sqlite else HEAD + " FOR UPDATE"
        self.update_head = self(_UPDATE_HEAD)
        self.subject = self(_SUBJECT)
        self.is_open = self(_IS_OPEN)
        self._inserts = {table: self._insert(table, columns) for table, columns in _INSERTS.items()}
        self._said: dict[tuple[str, int], str] = {}  # SQLite's statements for so many rows: the driver finds them by their text

    def __call__(self, statement: str) -> str:
        """The statement with the driver's own marks for parameters."""
        return statement if self.sqlite else statement.replace("?", "%s")

    def insert(self, cursor: Cursor, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """All rows (one at least), in few statements (PostgreSQL: one, of arrays)."""
        if not self.sqlite:
            cursor.execute(self._inserts[table], tuple(map(list, zip(*rows, strict=True))))
        elif len(rows) == 1:
            cursor.execute(self._many(table, 1, len(rows[0])), rows[0])
        else:
            for some in _powers(rows):
                cursor.execute(self._many(table, len(some), len(some[0])), tuple(chain.from_iterable(some)))

    def among(self, cursor: Cursor, statement: str, values: Sequence[str]) -> Iterator[Any]:
        """Run a statement that ends in `IN` for all of the values, a few at a time; its rows."""
        for some in _powers(values):
            cursor.execute(self._among(statement, len(some)), some)
            yield from cursor.fetchall()

    def remove(self, cursor: Cursor, statement: str, values: Sequence[str]) -> int:
        """The same for one that deletes; how many rows are gone."""
        gone = 0
        for some in _powers(values):
            cursor.execute(self._among(statement, len(some)), some)
            gone += cursor.rowcount
        return gone

    def _many(self, table: str, rows: int, columns: int) -> str:
        said = self._said.get((table, rows))
        if said is None:
            row = f"({', '.join('?' * columns)})"
            said = self._said[table, rows] = self._inserts[table] + ", ".join((row,) * rows)
        return said

    def _among(self, statement: str, values: int) -> str:
        said = self._said.get((statement, values))
        if said is None:
            said = self._said[statement, values] = self(f"{statement} ({', '.join('?' * values)})")
        return said

    def _insert(self, table: str, columns: tuple[str, ...]) -> str:
        names = ", ".join(column.split()[0] for column in columns)
        if self.sqlite:
            return f"INSERT INTO {table} ({names}) VALUES "  # noqa: S608  our own names
        arrays = ", ".join(f"%{'b' if column.endswith('bytea') else 's'}::{column.split()[1]}[]" for column in columns)
        return f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays})"  # noqa: S608  our own names


def _powers(rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    """The rows in pieces whose lengths are powers of two, so that few statements have to be prepared, and stay prepared."""
    start = 0
    while start < len(rows):
        length = min(1 << (len(rows) - start).bit_length() - 1, _LARGEST)
        yield rows[start : start + length]
        start += length


class SqlTurn:
    """The locked head, and what may be done under it: a `Turn`."""

    __slots__ = ("_cursor", "_words", "ends", "head", "written")

    def __init__(self, cursor: Cursor, words: Words) -> None:
        self._cursor = cursor
        self._words = words
        self.written: Batch | None = None
        self.head = self.ends = head_of(cursor, words)

    def subject(self, lookup: bytes) -> SubjectRow | None:
        """See `Turn`."""
        self._cursor.execute(self._words.subject, (lookup,))
        row = self._cursor.fetchone()
        return SubjectRow(*row) if row is not None else None

    def existing(self, ids: list[str]) -> dict[str, StoredLeaf]:
        """See `Turn`."""
        return {row[1]: StoredLeaf(*row) for row in self._words.among(self._cursor, _EXISTING, ids)}

    def is_open(self, call: str) -> bool:
        """See `Turn`."""
        self._cursor.execute(self._words.is_open, (call,))
        return bool(self._cursor.fetchone()[0])

    def known(self, pseudonyms: list[str]) -> set[str]:
        """See `Turn`."""
        return {row[0] for row in self._words.among(self._cursor, _KNOWN, pseudonyms)}

    def holds(self) -> list[tuple[str, str]]:
        """See `Turn`."""
        self._cursor.execute(_HOLDS)
        return [(row[0], row[1]) for row in self._cursor.fetchall()]

    def settle(self, pending: Sequence[Pending]) -> None:
        """Put into the tables what is durable ahead of them, as far as it is not there already (a commit without an answer)."""
        todo = [each for each in pending if each.first >= self.head.size]
        for each in pending[: len(pending) - len(todo)]:
            index, record, digest, _ = each.batch.leaves[-1]
            found = self.existing([record]).get(record)
            if found is None or (found.index, found.hash) != (index, digest):
                msg = f"record {index} was acknowledged, and another stands in its place"
                raise TamperedError(msg)
        if not todo:
            return
        if todo[0].first != self.head.size:
            msg = f"the log has {self.head.size} leaves and had {todo[0].first}: it was set back"
            raise TamperedError(msg)
        if todo[0].before != self.head.frontier:
            msg = f"other records stand below {self.head.size} than those that were there when more was acknowledged"
            raise TamperedError(msg)
        batch, last = together(todo), todo[-1].head
        batch.ended += batch.closed  # that they were open was known when they were acknowledged
        batch.closed = []
        try:
            self._put(batch, last.size, last.frontier)
        except (DuplicateError, self._words.duplicate) as error:
            msg = f"what is durable ahead of the tables does not go into them: {error}"
            raise TamperedError(msg) from error
        self.head = Head(last.size, last.frontier, self.head.erasures)

    def write(self, batch: Batch, size: int, frontier: bytes) -> None:
        """See `Turn`."""
        self._put(batch, size, frontier)
        self.written = batch

    def _put(self, batch: Batch, size: int, frontier: bytes) -> None:
        cursor, words = self._cursor, self._words
        if batch.destroyed:
            words.remove(cursor, _DESTROY, batch.destroyed)
            words.insert(cursor, "ledger_sweeps", [(pseudonym, 0) for pseudonym in batch.destroyed])
        if batch.held:
            words.insert(cursor, "ledger_holds", batch.held)
        if batch.released:
            words.remove(cursor, _RELEASE, batch.released)
        if batch.subjects:
            subjects = [(row.pseudonym, row.lookup, row.dek, row.name) for row in batch.subjects]
            words.insert(cursor, "ledger_subjects", subjects)
        try:
            words.insert(cursor, "ledger_leaves", batch.leaves)
        except words.duplicate as error:
            raise DuplicateError(str(error).strip().split("\n")[0]) from error
        if batch.openings:
            words.insert(cursor, "ledger_openings", batch.openings)
        if batch.nodes:
            words.insert(cursor, "ledger_nodes", batch.nodes)
        if batch.opened:
            words.insert(cursor, "ledger_open_calls", [(call.id, call.index, call.writer, call.boot) for call in batch.opened])
        if batch.closed and words.remove(cursor, _CLOSE, batch.closed) != len(batch.closed):
            msg = "a call that was to be closed is not open"
            raise ClosedError(msg)
        if batch.ended:
            words.remove(cursor, _CLOSE, batch.ended)
        cursor.execute(words.update_head, (size, frontier, len(batch.destroyed)))


class AheadTurn(SqlTurn):
    """A turn whose batch is to become durable in the file ahead of the tables.  Whoever is asked is right about both."""

    __slots__ = ("_ahead",)

    def __init__(self, cursor: Cursor, words: Words, ahead: Ahead) -> None:
        self._cursor = cursor
        self._words = words
        self._ahead = ahead
        self.written = None
        if ahead.head is None:
            head = head_of(cursor, words)
            cursor.execute(_LARGEST_ID)
            ahead.remember(head, cursor.fetchone()[0] or "")
        self.head = self.ends = ahead.head or head

    def existing(self, ids: list[str]) -> dict[str, StoredLeaf]:
        """See `Turn`."""
        wanted = set(ids)
        here = {row[1]: StoredLeaf(*row) for each in self._ahead.pending for row in each.batch.leaves if row[1] in wanted}
        return super().existing(ids) | here

    def is_open(self, call: str) -> bool:
        """See `Turn`."""
        for each in reversed(self._ahead.pending):
            if call in each.batch.closed or call in each.batch.ended:
                return False
            if any(opened.id == call for opened in each.batch.opened):
                return True
        return super().is_open(call)

    def write(self, batch: Batch, size: int, frontier: bytes) -> None:
        """See `Turn`."""
        try:
            asked, closed = self._ahead.unsure(batch), self._ahead.not_open(batch)
        except KeyError as error:
            msg = "a record or the end of a call is there already"
            raise (DuplicateError if error.args else ClosedError)(msg) from None
        if asked and super().existing(asked):
            msg = "a record is there already"
            raise DuplicateError(msg)
        if closed and not all(map(super().is_open, closed)):
            msg = "a call that was to be closed is not open"
            raise ClosedError(msg)
        self.written, self.ends = batch, Head(size, frontier, self.head.erasures + len(batch.destroyed))


def head_of(cursor: Cursor, words: Words) -> Head:
    """Where the log ends, as the tables say; locked, within a transaction of PostgreSQL."""
    cursor.execute(words.lock_head)
    row = cursor.fetchone()
    if row is None:
        msg = "the log has no head"
        raise TamperedError(msg)
    return Head(*row)
