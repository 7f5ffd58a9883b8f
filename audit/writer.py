"""Turns entries into leaves and writes them, a batch a turn: pseudonyms, commitments, the writer's chain, the tree.

Crash story: everything of a batch is one transaction, so a crash leaves all of it or nothing; memory follows after the commit.
Where its answer is lost, the next turn looks whether the last record is there.  While the store is away the chain goes on in the
spool, after the very leaves of such a batch: whether they are in the log or not, it is whole once the spool is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Final

from msgspec.structs import replace

from audit import detectors
from audit.draft import CLOSING, Away, AwayError, Draft, Signed
from audit.leaf import Kind
from audit.model import Entry, HeldError, LedgerUnavailableError, Receipt, TamperedError
from audit.privacy import LOG, SealBrokenError, SealKey, SubjectKey
from audit.spool import Frame
from audit.store import ClosedError, DuplicateError, Head, Store, StoredLeaf, StoreError, Turn

_CACHED_KEYS: Final = 4096
_START, _FIRST, _SHRED = Kind.CALL_START.value, Kind.WRITER_START.value, Kind.KEY_SHRED.value  # members cost a look-up each time
_HOLD, _CLEAR = Kind.HOLD_SET.value, Kind.HOLD_CLEAR.value

_BESIDE: Final = frozenset({Kind.EGRESS_START, Kind.SANDBOX_START})
_NOBODY: Final[Mapping[str, SubjectKey | None]] = {}

Result = Receipt | Exception
Spooled = tuple[Entry, Sequence[Frame]]
"""What a spool holds, and the `spool.replayed` record that says so."""


def record_id(at: int) -> str:
    """A UUIDv7 (RFC 9562 §5.7) of the microsecond `at`."""
    rand = int.from_bytes(os.urandom(10), "big")
    value = (at // 1000 & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | (rand >> 68 & 0xFFF) << 64 | 0b10 << 62 | rand & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def orphaned(call: str, index: int, fields: Mapping[str, object], at: int, reason: str) -> Entry:
    """The record that closes a call (run, connection) without an end: nobody will ever say how it ended.

    `fields` are those of its start.
    """
    said: dict[str, object] = {"call": call, "reason": reason}
    if index >= 0:  # else its start is in the spool
        said["start_index"] = index
    same = {name: fields[name] for name in ("workflow", "trace", "tenant") if name in fields}
    if fields.get("kind") in _BESIDE:
        said["of"] = str(fields["kind"])
    return Entry(Kind.CALL_ORPHANED, record_id(at), at, None, said | same)


def closing(start: Entry, index: int, reason: str) -> Entry:
    """The same, for a start that is still at hand."""
    closed = orphaned(start.id, index, {**start.fields, "kind": str(start.kind)}, start.at, reason)
    return replace(closed, spool=True) if start.spool else closed


def shredding(subject: str, request: str, approver: str, at: int) -> Entry:
    """The record that destroys a person's key."""
    person = approver.startswith(("user:", "svc:"))
    fields = {"request": request} if person else {"request": request, "approver": approver}
    return Entry(Kind.KEY_SHRED, record_id(at), at, subject, fields, (), {"approver": approver} if person else {})


def _others(entry: Entry) -> Set[str]:
    """Whom the entry names beside its subject."""
    named = {value.of for value in entry.values if value.of is not None}
    return named.union(entry.people.values()) if entry.people else named


class Writer:
    """Writes for one boot of one writer.  Used by one thread at a time."""

    def __init__(self, store: Store, origin: str, seal: SealKey, writer: str, mono: Callable[[], int]) -> None:
        self.boot: Final = os.urandom(16).hex()
        self.id: Final = writer
        self.may_wait = False
        """Whether records may wait for the store's tables; whoever says so calls `settle` in time."""
        self._store = store
        self.log: Final = origin
        self._seal = seal
        self._mono = mono
        self._wseq = 0
        self._wprev = ""
        self._size = 0  # of the log, when we last saw it
        self._erasures = -1
        self._keys: dict[str | None, SubjectKey] = {}
        self._unsure: Draft | None = None  # a batch whose commit was not answered
        self._kept: dict[str, tuple[int, bytes, str]] = {}  # what is in the spool: hash and kind
        self._late: list[Entry] = []  # what closes the calls of such a batch

    def write(self, entries: Sequence[Entry], spooled: Sequence[Spooled] = ()) -> list[Result]:
        """Write the entries that passed `leaf.check`, in order, all of them or (`StoreError`) none; one result for each.

        An entry whose id is in the log already is not written again: its receipt is that of the first time, or (another kind
        of record, or a call that was closed since) `LedgerUnavailableError`; that too for an end of a call which somebody else
        closed, as a writer that seemed dead.  `TamperedError` where the log is shorter than it was.

        spooled  what goes before them, as far as it is not in the log; its records are among the entries.
        """
        entries = detectors.clean(entries)
        try:
            return self._write(entries, spooled, look=self._unsure is not None or bool(spooled))
        except (DuplicateError, ClosedError):
            return self._write(entries, spooled, look=True)

    def settle(self) -> None:
        """Put into the store's tables what waits for that.  `StoreError`, `TamperedError`."""
        self._store.settle()

    @property
    def unanswered(self) -> Draft | None:
        """A batch that the store may have and may not have."""
        return self._unsure

    def away(self, entries: Sequence[Entry]) -> tuple[Draft, list[Result]]:
        """The leaves of entries that are to stand in the spool, after those of a batch that was not answered; nothing counts yet.

        Whose key is not in memory has no record: `LedgerUnavailableError` is the result then.
        """
        entries = detectors.clean(entries)
        before = self._unsure
        draft = self._draft(Away(Head(0, b"", self._erasures)), entries, before)
        written = self._kept | before.written if before is not None else self._kept
        again = {entry.id for entry in entries}
        for entry, _ in before.starts if before is not None else ():
            if entry.id not in again:  # whoever waited was told that it is not recorded
                draft.add(closing(entry, -1, "not acknowledged"), None)
        return draft, [self._told(written, entry) or self._one(draft, entry, {}, look=False) for entry in entries]

    def _draft(self, turn: Turn, entries: Sequence[Entry], before: Draft | None = None) -> Draft:
        at = (self._wseq, self._wprev) if before is None else (before.wseq, before.wprev)
        signed = Signed(self.log, self.id, self.boot, self._mono)
        return Draft(signed, turn, sum(len(entry.values) for entry in entries), *at)

    def _told(self, written: Mapping[str, tuple[int, bytes, str]], entry: Entry) -> Result | None:
        found = written.get(entry.id)
        return self._again(entry, -1, *found[1:]) if found is not None else None

    def went_on(self, draft: Draft) -> None:
        """The draft is in the spool, and what it follows is there before it."""
        self._wseq, self._wprev = draft.wseq, draft.wprev
        self._kept |= draft.written if self._unsure is None else self._unsure.written | draft.written
        self._unsure = None

    def _write(self, entries: Sequence[Entry], spooled: Sequence[Spooled], *, look: bool) -> list[Result]:
        draft: Draft | None = None
        committing = False
        if look:  # what is durable ahead of the tables comes into them by a commit of its own: what is found then is there
            self._store.settle()
        try:
            with self._store.turn(may_wait=self.may_wait and not look and not self._late) as turn:
                self._settle(turn, {entry.id for entry in entries} if look else frozenset())
                draft = self._draft(turn, entries)
                for entry, frames in spooled:
                    if not turn.existing([entry.id]):
                        draft.take(frames)
                for entry in self._late:
                    if draft.is_open(str(entry.fields["call"])):
                        draft.add(entry, None)
                existing = turn.existing([entry.id for entry in entries]) if look else {}
                results = [self._one(draft, entry, existing, look=look) for entry in entries]
                if draft.batch.leaves:
                    turn.write(draft.batch, draft.frontier.size, draft.frontier.encode())
                    committing = True  # what fails before is rolled back
        except (DuplicateError, ClosedError):
            raise
        except StoreError:
            if draft is not None and committing:
                self._unsure = draft
            raise
        self._adopt(draft)
        return results

    def _settle(self, turn: Turn, again: Set[str]) -> None:
        """Before a turn's work: what became of an unanswered batch, whether the log is still ours, whose keys are gone.

        The calls of such a batch are to be closed: whoever waited for them was told that they are not recorded.
        """
        unsure = self._unsure
        if unsure is not None:
            index, record, digest, _ = unsure.batch.leaves[-1]
            found = turn.existing([record]).get(record)  # where this fails too, it is as unsure as before
            self._unsure = None
            if found is not None and (found.index, found.hash) == (index, digest):
                self._adopt(unsure)
                self._late = [closing(entry, at, "not acknowledged") for entry, at in unsure.starts if entry.id not in again]
        if turn.head.size < self._size:
            msg = f"the log has {turn.head.size} leaves and had {self._size}: it was set back"
            raise TamperedError(msg)
        if turn.head.erasures != self._erasures:
            self._keys.clear()
            self._erasures = turn.head.erasures

    def _adopt(self, draft: Draft) -> None:
        self._wseq, self._wprev = draft.wseq, draft.wprev
        self._size = draft.frontier.size
        self._late, self._kept = [], {}
        self._keys |= draft.keys
        while len(self._keys) > _CACHED_KEYS:
            del self._keys[next(iter(self._keys))]

    def _one(self, draft: Draft, entry: Entry, existing: Mapping[str, StoredLeaf], *, look: bool) -> Result:
        found = existing.get(entry.id)
        if found is not None:
            kind = str(found.record().get("kind"))
            if kind == entry.kind == Kind.CALL_START and not draft.turn.is_open(entry.id):
                return LedgerUnavailableError(f"the call {entry.id} is closed already")
            return self._again(entry, found.index, found.hash, kind)
        if entry.id in draft.written:
            return self._again(entry, *draft.written[entry.id])
        if look and entry.kind in CLOSING and not draft.is_open(str(entry.fields.get("call"))):
            return LedgerUnavailableError(f"the call {entry.fields.get('call')} is closed already")
        if entry.kind == _FIRST:  # a boot's first leaf; then the log's own key, which shows a wrong seal key
            receipt = draft.add(entry, None)
            self._key(draft, entry, None, create=True)
            return receipt
        key: SubjectKey | None = None
        try:
            if entry.subject is not None or entry.values:
                key = self._key(draft, entry, entry.subject, create=entry.kind != _SHRED)
            named = _others(entry)
            others = {name: self._key(draft, entry, name, create=True) for name in named} if named else _NOBODY
        except AwayError:
            return LedgerUnavailableError("the store is away, and with it the key of somebody whom this record is about")
        except SealBrokenError:
            return LedgerUnavailableError("the stored key of this record's subject is damaged")
        if entry.kind == _SHRED:
            if key is None or entry.subject is None:
                return LookupError("nobody of that name is in the log")
            held = next((hold for hold, whose in draft.holds() if whose in {key.pseudonym, LOG}), None)
            if held is not None:
                return HeldError(held)
            draft.destroy(key.pseudonym)
        elif (
            entry.kind == _CLEAR
            and "hold" in entry.fields
            and not any(hold == entry.fields.get("hold") for hold, _ in draft.holds())
        ):
            return LookupError("no legal hold of that id is in force")
        return draft.add(entry, key, others)

    def _again(self, entry: Entry, index: int, digest: bytes, kind: str) -> Result:
        if kind != entry.kind:
            return LedgerUnavailableError(f"the id {entry.id} is that of a {kind}")
        return Receipt(self.log, entry.id, index, digest)

    def _key(self, draft: Draft, entry: Entry, subject: str | None, *, create: bool) -> SubjectKey | None:
        """The key of the subject (None: of the log); a new one gets its `key.create` record in the same turn."""
        known = draft.keys.get(subject) or self._keys.get(subject)
        if known is not None and known.pseudonym not in draft.batch.destroyed:
            return known
        row = draft.turn.subject(self._seal.lookup(subject))
        if row is not None and row.pseudonym not in draft.batch.destroyed:
            key = self._seal.unwrap(row)
        elif create:
            row, key = self._seal.create(subject)
            draft.batch.subjects.append(row)
            fields = {"of": row.pseudonym, "key": row.digest()}
            draft.add(Entry(Kind.KEY_CREATE, record_id(entry.at), entry.at, None, fields), None)
        else:
            return None
        draft.keys[subject] = key
        return key
