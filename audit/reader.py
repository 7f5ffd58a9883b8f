"""Reading the ledger: records, the values behind them for whoever has the seal key, proofs.  Nothing is written.

Every record that is handed out was hashed again; whether the log as a whole is what was signed, `audit/verify.py` says.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import orjson

from audit import privacy, proof
from audit.leaf import Commitment
from audit.model import TamperedError
from audit.privacy import SealBrokenError, SealKey, SubjectKey, SubjectRow
from audit.store import StoredLeaf
from audit.store_read import SqlReader
from audit.tiles import root_at
from audit.tree import TILE_HEIGHT, root_of


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its place in the log, its bytes, what they say, the leaf hash."""

    index: int
    data: bytes
    leaf: dict[str, Any]
    hash: bytes

    @property
    def id(self) -> str:
        """The record's id."""
        return str(self.leaf["id"])

    @property
    def kind(self) -> str:
        """One of `audit.leaf.Kind`."""
        return str(self.leaf["kind"])

    @property
    def at(self) -> int:
        """UTC microseconds."""
        return int(self.leaf["ts"])

    @property
    def subject(self) -> str | None:
        """The person's pseudonym."""
        return self.leaf.get("subject")

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the values that the record commits to."""
        return tuple(name for name in self.leaf if self.commitment(name) is not None)

    def commitment(self, name: str) -> Commitment | None:
        """What the record holds of a value."""
        return Commitment.read(self.leaf.get(name))

    def owner(self, name: str) -> str:
        """Pseudonym of the person for whom a value is sealed; the log's own where it is about nobody."""
        found = self.commitment(name)
        return (found.of if found is not None else "") or self.subject or privacy.LOG


@dataclass(frozen=True, slots=True)
class Shredded:
    """A value or a name that cannot be read any more: the person's key was destroyed."""

    pseudonym: str

    def __str__(self) -> str:
        return "[erased]"


@dataclass(frozen=True, slots=True)
class Salted:
    """A value and the salt of its commitment."""

    salt: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Damaged:
    """A value or a name that is not what the log says it is."""

    why: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A record with some of its values.  values: None for a name that the record has no value of."""

    record: Record
    values: Mapping[str, bytes | Shredded | Damaged | None]
    subject: str | Shredded | Damaged | None


_BATCH: Final = 256
_BATCH_BYTES: Final = 8 * 1024 * 1024
_TIMES: Final = re.compile(rb'"ts":([0-9]+)')


class Ledger:
    """A log, to be read.  Used by one thread at a time."""

    def __init__(self, rows: SqlReader, seal: SealKey | None, *, reveal: bool = True) -> None:
        self._rows = rows
        self._seal = seal if reveal else None
        self._names = seal
        self.origin = rows.origin
        self.vkey = rows.vkey

    @classmethod
    def open(cls, url: str, seal_key: bytes | None = None, *, reveal: bool = True) -> Self:
        """Open the log at the URL.  Without the seal key no value and no name can be read; without `reveal` people can be looked
        up by name, and nothing is opened.

        `StoreError` where there is no ledger, `ValueError` for another kind of URL or key.
        """
        rows = SqlReader(url)
        try:
            return cls(rows, None if seal_key is None else SealKey(rows.origin, seal_key), reveal=reveal)
        except ValueError:
            rows.close()
            raise

    @property
    def size(self) -> int:
        """How many records there are now."""
        return self._rows.head().size

    @property
    def first(self) -> int:
        """The oldest record that is here: those before it were retired into an archive."""
        return self._rows.first()

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """The records [start, stop) in order.  `TamperedError` at one that does not hash to what is stored with it."""
        return map(_record, self._rows.leaves(start, stop))

    def opened(
        self, kinds: Collection[str], names: Sequence[str], *, since: int = 0, start: int = 0, stop: int | None = None
    ) -> Iterator[Opened]:
        """The records of these kinds, not older than `since`, each with its subject's name and the values of these names.

        Many are opened at once, in memory that does not grow with the log; a key that is destroyed meanwhile is soon not used
        any more.  `ValueError` without the seal key; a record that does not hash to what is stored with it raises, as `records`.
        """
        if self._seal is None:
            msg = "values are opened with the seal key"
            raise ValueError(msg)
        wanted = [b'"kind":' + orjson.dumps(kind) for kind in kinds]
        batch: list[Record] = []
        size = 0
        for stored in self._rows.leaves(start, self.size if stop is None else stop):
            if stored.intact and not _may_be(stored.data, wanted, since):
                continue
            record = _record(stored)
            if record.kind not in kinds or record.at < since:
                continue
            batch.append(record)
            size += sum(found.n for name in names if (found := record.commitment(name)) is not None)
            if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                yield from self._open(batch, names)
                batch, size = [], 0
        yield from self._open(batch, names)

    def _open(self, batch: Sequence[Record], names: Sequence[str]) -> Iterator[Opened]:
        """A few records with their values; the keys of all their subjects are looked up at once."""
        if not batch:
            return
        sealed = self._rows.openings([record.index for record in batch], names)
        whose = {record.subject or privacy.LOG for record in batch} | {record.owner(name) for record in batch for name in names}
        rows = self._rows.subjects(sorted(whose))
        keys = {pseudonym: self._key_and_name(pseudonym, rows.get(pseudonym)) for pseudonym in whose}
        for record in batch:
            _, subject = keys[record.subject or privacy.LOG]
            values = {name: _value(record, name, keys[record.owner(name)][0], sealed.get((record.index, name))) for name in names}
            yield Opened(record, values, subject if record.subject is not None else None)

    def _key_and_name(
        self, pseudonym: str, row: SubjectRow | None
    ) -> tuple[SubjectKey | Shredded | Damaged, str | Shredded | Damaged]:
        if row is None or self._seal is None:
            return Shredded(pseudonym), Shredded(pseudonym)
        try:
            key = self._seal.unwrap(row)
        except SealBrokenError as error:
            broken = Damaged(f"the key of {pseudonym}: {error}")
            return broken, broken
        try:
            return key, key.open_name(row.name)
        except SealBrokenError as error:
            return key, Damaged(f"the name behind {pseudonym}: {error}")

    def get(self, record: str) -> Record | None:
        """The record of that id."""
        found = self._rows.leaf(record)
        return _record(found) if found is not None else None

    def tail(self, count: int = 20) -> list[Record]:
        """The newest records, oldest first."""
        return [_record(stored) for stored in self._rows.last(count)]

    def workflow(self, workflow: str) -> list[Record]:
        """Every record of the workflow, in order.  Looks through the whole log."""
        member = b'"workflow":' + orjson.dumps(workflow)
        found = map(_record, self._rows.containing(member))
        return [record for record in found if record.leaf.get("workflow") == workflow]

    def open_value(self, record: Record, name: str) -> bytes | Shredded | None:
        """A value as it was on the wire; None where the record has none of that name, or where we have no seal key.

        What is returned is what the leaf commits to: `TamperedError` for an opening that is missing, exchanged or changed.
        """
        found = self.open_salted(record, name)
        return found.value if isinstance(found, Salted) else found

    def open_salted(self, record: Record, name: str) -> Salted | Shredded | None:
        """The same with the salt, for whoever is to hold it against the commitment."""
        expected = record.commitment(name)
        if expected is None or self._seal is None:
            return None
        pseudonym = record.owner(name)
        key = self._key(pseudonym)
        if key is None:
            return Shredded(pseudonym)
        sealed = self._rows.opening(record.index, name)
        if not isinstance(sealed, bytes):  # SQLite's columns take values of any type
            msg = f"the opening of {name} in record {record.index} ({record.id}) is missing"
            raise TamperedError(msg)
        try:
            return Salted(*key.open_salted(record.id, name, sealed, expected))
        except SealBrokenError as error:
            msg = f"{name} in record {record.index} ({record.id}): {error}"
            raise TamperedError(msg) from error

    def subject_name(self, pseudonym: str) -> str | Shredded | None:
        """Whom a pseudonym stands for; None without the seal key."""
        if self._seal is None:
            return None
        row = self._rows.subject(pseudonym)
        key = self._key(pseudonym)
        if row is None or key is None:
            return Shredded(pseudonym)
        try:
            return key.open_name(row.name)
        except SealBrokenError as error:
            msg = f"the name behind {pseudonym}: {error}"
            raise TamperedError(msg) from error

    def pseudonym(self, subject: str) -> str | None:
        """The pseudonym of somebody; None for who is not known here (any more), or without the seal key."""
        row = None if self._names is None else self._rows.subject_by(self._names.lookup(subject))
        return None if row is None else row.pseudonym

    def holds(self) -> list[tuple[str, str]]:
        """Legal holds in force: the id of the record that set it, and whom it is about (`log`: everybody)."""
        return self._rows.holds()

    def checkpoint(self) -> str | None:
        """The newest signed checkpoint, as the note that was signed."""
        return self._rows.checkpoint()

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that record `index` is in the log of `size` records (RFC 9162 §2.1.3)."""
        return proof.inclusion(index, size, self._node)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the log of `new` records begins with that of `old` (RFC 9162 §2.1.4)."""
        return proof.consistency(old, new, self._node)

    @property
    def rows(self) -> SqlReader:
        """The rows as they are stored."""
        return self._rows

    def root_at(self, size: int) -> bytes:
        """The root of the tree of the first `size` records, from stored hashes; `TamperedError` where one is missing."""
        return root_at(self._rows.hashes, size)

    def close(self) -> None:
        """Let the store go."""
        self._rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _key(self, pseudonym: str) -> SubjectKey | None:
        """The key behind a pseudonym, looked up each time: it may have been destroyed a moment ago."""
        row = self._rows.subject(pseudonym)
        if row is None or self._seal is None:
            return None
        try:
            return self._seal.unwrap(row)
        except SealBrokenError as error:
            msg = f"the key of {pseudonym}: {error}"
            raise TamperedError(msg) from error

    def _node(self, height: int, index: int) -> bytes:
        """The hash of a complete subtree, from the nearest stored level below it."""
        level, above = divmod(height, TILE_HEIGHT)
        first = index << above
        stored = self._rows.hashes(level, first, first + (1 << above))
        if len(stored) != 1 << above:
            msg = f"hashes of level {level} from {first} on are missing"
            raise TamperedError(msg)
        return root_of(stored)


def _may_be(data: bytes, wanted: Sequence[bytes], since: int) -> bool:
    """Two looks at the bytes, which spare most of a log being parsed.  A yes may be wrong, a no is not."""
    return any(text in data for text in wanted) and any(int(at) >= since for at in _TIMES.findall(data))


def _value(
    record: Record, name: str, key: SubjectKey | Shredded | Damaged, sealed: bytes | None
) -> bytes | Shredded | Damaged | None:
    """What `Ledger.open_value` returns, with the damage said instead of raised."""
    expected = record.commitment(name)
    if expected is None:
        return None
    if not isinstance(key, SubjectKey):
        return key
    if not isinstance(sealed, bytes):  # SQLite's columns take values of any type
        return Damaged("its opening is missing")
    try:
        return key.open(record.id, name, sealed, expected)
    except SealBrokenError as error:
        return Damaged(str(error))


def _record(stored: StoredLeaf) -> Record:
    return Record(stored.index, stored.data, stored.record(), stored.hash)
