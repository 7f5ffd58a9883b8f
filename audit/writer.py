"""Turns entries into leaves and writes them, a batch a turn: pseudonyms, commitments, the writer's chain, the tree.

Crash story: everything of a batch (leaves, openings, open calls, tree, head) is one transaction, so a crash leaves all of it or
nothing.  What is kept in memory is taken over only after the commit.  Where a commit's answer is lost, the next turn looks
whether its last record is there, and goes on from what it finds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Final

from audit import detectors, leaf
from audit.leaf import Commitment, Kind, Stamp
from audit.model import Entry, HeldError, LedgerUnavailableError, Receipt, TamperedError, Together
from audit.privacy import LOG, SEAL_RANDOM, SealBrokenError, SealKey, SubjectKey
from audit.store import Batch, ClosedError, DuplicateError, OpenCall, Store, StoredLeaf, StoreError, Turn
from audit.tree import leaf_hash

_CACHED_KEYS: Final = 4096
_START, _FIRST, _SHRED = Kind.CALL_START.value, Kind.WRITER_START.value, Kind.KEY_SHRED.value  # members cost a look-up each time
_HOLD, _CLEAR = Kind.HOLD_SET.value, Kind.HOLD_CLEAR.value
_OPENING: Final = frozenset({Kind.CALL_START, Kind.EGRESS_START, Kind.SANDBOX_START})
_CLOSING: Final = frozenset({Kind.CALL_END, Kind.CALL_ORPHANED})
_ENDING: Final = {Kind.EGRESS_END.value: "call", Kind.SANDBOX_END.value: "start"}  # and the member that names what ends

_BESIDE: Final = frozenset({Kind.EGRESS_START, Kind.SANDBOX_START})

Result = Receipt | Exception
_NOBODY: Final[Mapping[str, SubjectKey | None]] = {}


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
    said = {"call": call, "start_index": index, "reason": reason}
    same = {name: fields[name] for name in ("workflow", "trace", "tenant") if name in fields}
    if fields.get("kind") in _BESIDE:
        said["of"] = str(fields["kind"])
    return Entry(Kind.CALL_ORPHANED, record_id(at), at, None, said | same)


def closing(start: Entry, index: int, reason: str) -> Entry:
    """The same, for a start that is still at hand."""
    return orphaned(start.id, index, {**start.fields, "kind": str(start.kind)}, start.at, reason)


def _others(entry: Entry) -> Set[str]:
    """Whom the entry names beside its subject."""
    if not entry.people and all(value.of is None for value in entry.values):
        return frozenset()
    return {*entry.people.values(), *(value.of for value in entry.values if value.of is not None)}


class Writer:
    """Writes for one boot of one writer.  Used by one thread at a time."""

    def __init__(self, store: Store, origin: str, seal: SealKey, writer: str, mono: Callable[[], int]) -> None:
        self.boot: Final = os.urandom(16).hex()
        self.id: Final = writer
        self._store = store
        self._origin = origin
        self._seal = seal
        self._mono = mono
        self._wseq = 0
        self._wprev = ""
        self._size = 0  # of the log, when we last saw it
        self._erasures = -1
        self._keys: dict[str | None, SubjectKey] = {}
        self._unsure: _Draft | None = None  # a batch whose commit was not answered
        self._late: list[Entry] = []  # what closes the calls of such a batch

    def write(self, entries: Sequence[Entry]) -> list[Result]:
        """Write the entries that passed `leaf.check`, in order, all of them or (`StoreError`) none; one result for each.

        An entry whose id is in the log already is not written again: its receipt is that of the first time, or (another kind
        of record, or a call that was closed since) `LedgerUnavailableError`; that too for an end of a call which somebody else
        closed, as a writer that seemed dead.  `TamperedError` where the log is shorter than it was.
        """
        entries = [detectors.clean(entry) if entry.values else entry for entry in entries]
        try:
            return self._write(entries, look=self._unsure is not None)
        except (DuplicateError, ClosedError):
            return self._write(entries, look=True)

    def _write(self, entries: Sequence[Entry], *, look: bool) -> list[Result]:
        draft: _Draft | None = None
        try:
            with self._store.turn() as turn:
                self._settle(turn, {entry.id for entry in entries} if look else frozenset())
                draft = _Draft(self, turn, sum(len(entry.values) for entry in entries))
                for entry in self._late:
                    if draft.is_open(str(entry.fields["call"])):
                        draft.add(entry, None)
                existing = turn.existing([entry.id for entry in entries]) if look else {}
                results = [self._one(draft, entry, existing, look=look) for entry in entries]
                if draft.batch.leaves:
                    turn.write(draft.batch, draft.frontier.size, draft.frontier.encode())
        except (DuplicateError, ClosedError):
            raise
        except StoreError:
            if draft is not None and draft.batch.leaves:
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

    def _adopt(self, draft: _Draft) -> None:
        self._wseq, self._wprev = draft.wseq, draft.wprev
        self._size = draft.frontier.size
        self._late = []
        self._keys |= draft.keys
        while len(self._keys) > _CACHED_KEYS:
            del self._keys[next(iter(self._keys))]

    def _one(self, draft: _Draft, entry: Entry, existing: Mapping[str, StoredLeaf], *, look: bool) -> Result:
        found = existing.get(entry.id)
        if found is not None:
            kind = str(found.record().get("kind"))
            if kind == entry.kind == Kind.CALL_START and not draft.turn.is_open(entry.id):
                return LedgerUnavailableError(f"the call {entry.id} is closed already")
            return self._again(entry, found.index, found.hash, kind)
        if entry.id in draft.written:
            return self._again(entry, *draft.written[entry.id])
        if look and entry.kind in _CLOSING and not draft.is_open(str(entry.fields.get("call"))):
            return LedgerUnavailableError(f"the call {entry.fields.get('call')} is closed already")
        if entry.kind == _FIRST:  # a boot's first leaf; then the log's own key, which shows a wrong seal key
            receipt = draft.add(entry, None)
            self._key(draft, entry, None, create=True)
            return receipt
        key: SubjectKey | None = None
        try:
            if entry.subject is not None or entry.values:
                key = self._key(draft, entry, entry.subject, create=entry.kind != _SHRED)
            others = {name: self._key(draft, entry, name, create=True) for name in _others(entry)}
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
        return Receipt(self._origin, entry.id, index, digest)

    def _key(self, draft: _Draft, entry: Entry, subject: str | None, *, create: bool) -> SubjectKey | None:
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


class _Draft:
    """A batch in the making.  Nothing of it counts before its commit."""

    __slots__ = ("_random", "_writer", "batch", "frontier", "keys", "starts", "together", "turn", "wprev", "written", "wseq")

    def __init__(self, writer: Writer, turn: Turn, values: int) -> None:
        self._writer = writer
        drawn = os.urandom(values * SEAL_RANDOM)  # once: each look at the kernel lets the interpreter go
        self._random = [drawn[at : at + SEAL_RANDOM] for at in range(0, len(drawn), SEAL_RANDOM)]
        self.turn = turn
        self.batch = Batch()
        self.frontier = turn.head.tree()
        self.together = Together(self.frontier.size, [])
        self.wseq, self.wprev = writer._wseq, writer._wprev
        self.keys: dict[str | None, SubjectKey] = {}
        self.written: dict[str, tuple[int, bytes, str]] = {}
        self.starts: list[tuple[Entry, int]] = []

    def add(self, entry: Entry, key: SubjectKey | None, others: Mapping[str, SubjectKey | None] = _NOBODY) -> Receipt:
        """Make the entry's leaf and put it at the end.  others: the keys of those whom it names beside its subject."""
        writer, index = self._writer, self.frontier.size
        commitments: dict[str, Commitment] = {}
        if key is not None:
            for value in entry.values:
                other = others[value.of] if value.of is not None else None
                whose = key if other is None else other
                made, sealed = whose.seal(entry.id, value.name, value.data, self._random.pop())
                commitments[value.name] = made if whose is key else made._replace(of=whose.pseudonym)
                self.batch.openings.append((index, value.name, sealed))
        pseudonym = key.pseudonym if key is not None and entry.subject is not None else None
        stamp = Stamp(writer.id, writer.boot, self.wseq, self.wprev, writer._mono())
        people = {name: found.pseudonym for name, whom in entry.people.items() if (found := others[whom]) is not None}
        data = leaf.compose(entry, writer._origin, stamp, pseudonym, commitments, people)
        digest = leaf_hash(data)
        self.batch.leaves.append((index, entry.id, digest, data))
        self.batch.nodes += self.frontier.append(digest)
        self.together.hashes.append(digest)
        self.wseq, self.wprev = self.wseq + 1, digest.hex()
        self.written[entry.id] = (index, digest, str(entry.kind))
        if entry.kind in _OPENING:
            self.batch.opened.append(OpenCall(entry.id, index, writer.id, writer.boot))
            self.starts.append((entry, index))
        elif entry.kind in _CLOSING:
            self.batch.closed.append(str(entry.fields.get("call")))
        elif entry.kind in _ENDING:
            self.batch.ended.append(str(entry.fields.get(_ENDING[entry.kind])))
        elif entry.kind == _HOLD and (target := people.get("target") or entry.fields.get("target")):  # without: the wish alone
            self.batch.held.append((entry.id, str(target)))
        elif entry.kind == _CLEAR and "hold" in entry.fields:
            hold = str(entry.fields.get("hold"))
            self.batch.held = [held for held in self.batch.held if held[0] != hold]
            self.batch.released.append(hold)
        return Receipt(writer._origin, entry.id, index, digest, self.together)

    def is_open(self, call: str) -> bool:
        """Whether the call can be closed here."""
        return call not in self.batch.closed and (self.turn.is_open(call) or any(call == each.id for each in self.batch.opened))

    def holds(self) -> list[tuple[str, str]]:
        """Legal holds in force, those of this batch included."""
        return [held for held in (*self.turn.holds(), *self.batch.held) if held[0] not in self.batch.released]

    def destroy(self, pseudonym: str) -> None:
        """Destroy a subject's key with this batch, also one that the batch itself makes."""
        self.batch.destroyed.append(pseudonym)
        self.batch.subjects = [row for row in self.batch.subjects if row.pseudonym != pseudonym]
