"""A batch in the making: its leaves, chained to their writer's earlier ones, with what stands beside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
from msgspec.structs import replace

from audit import leaf
from audit.leaf import Commitment, Kind, Stamp
from audit.model import Entry, Receipt, TamperedError, Together
from audit.privacy import LOG, SEAL_RANDOM, SubjectKey, SubjectRow
from audit.spool import Frame, pieces
from audit.store import Batch, Head, OpenCall, StoredLeaf, Turn
from audit.tree import leaf_hash

CLOSING: Final = frozenset({Kind.CALL_END.value, Kind.CALL_ORPHANED.value})
_OPENING: Final = frozenset({Kind.CALL_START.value, Kind.EGRESS_START.value, Kind.SANDBOX_START.value})
_ENDING: Final = {Kind.EGRESS_END.value: "call", Kind.SANDBOX_END.value: "start"}  # and the member that names what ends
_HOLD, _CLEAR = Kind.HOLD_SET.value, Kind.HOLD_CLEAR.value
_FOLLOWED: Final = CLOSING | _OPENING | _ENDING.keys() | {_HOLD, _CLEAR}
_NOBODY: Final[Mapping[str, SubjectKey | None]] = {}


class Signed(NamedTuple):
    """Whose records they are: of which log, by which writer in which run, by its clock that is never set back."""

    log: str
    writer: str
    boot: str
    mono: Callable[[], int]


class AwayError(Exception):
    """There is no store to ask."""


class Away:
    """What takes the place of a turn while the store is away."""

    def __init__(self, head: Head) -> None:
        self.head = head

    def subject(self, lookup: bytes) -> SubjectRow | None:
        """Nobody who is not in memory is known."""
        raise AwayError(lookup)

    def existing(self, ids: list[str]) -> dict[str, StoredLeaf]:
        """See `Turn`."""
        raise AwayError(ids)

    def is_open(self, call: str) -> bool:
        """Whatever this writer would close: should another have closed it meanwhile, this comes late."""
        return bool(call)

    def known(self, pseudonyms: list[str]) -> set[str]:
        """See `Turn`."""
        raise AwayError(pseudonyms)

    def holds(self) -> list[tuple[str, str]]:
        """See `Turn`."""
        raise AwayError

    def write(self, batch: Batch, size: int, frontier: bytes) -> None:
        """See `Turn`."""
        raise AwayError(batch, size, frontier)


class Draft:
    """A batch in the making.  Nothing of it counts before its commit, or (`away`) before it is in the spool."""

    __slots__ = (
        "_away",
        "_random",
        "_signed",
        "batch",
        "frontier",
        "keys",
        "starts",
        "together",
        "turn",
        "wprev",
        "written",
        "wseq",
    )

    def __init__(self, signed: Signed, turn: Turn, values: int, wseq: int, wprev: str) -> None:
        """values  how many are going to be sealed; wseq, wprev  where the writer's chain stands."""
        self._signed = signed
        self._away = isinstance(turn, Away)
        drawn = os.urandom(values * SEAL_RANDOM)  # once: each look at the kernel lets the interpreter go
        self._random = [drawn[at : at + SEAL_RANDOM] for at in range(0, len(drawn), SEAL_RANDOM)]
        self.turn = turn
        self.batch = Batch()
        self.frontier = turn.head.tree()
        self.together = Together(self.frontier.size, [])
        self.wseq, self.wprev = wseq, wprev
        self.keys: dict[str | None, SubjectKey] = {}
        self.written: dict[str, tuple[int, bytes, str]] = {}
        self.starts: list[tuple[Entry, int]] = []

    def add(self, entry: Entry, key: SubjectKey | None, others: Mapping[str, SubjectKey | None] = _NOBODY) -> Receipt:
        """Make the entry's leaf and put it at the end.  others: the keys of those whom it names beside its subject."""
        signed, batch, index = self._signed, self.batch, self.frontier.size
        commitments: dict[str, Commitment] = {}
        pseudonym: str | None = None
        if key is not None:
            for value in entry.values:
                other = others[value.of] if value.of is not None else None
                whose = key if other is None else other
                made, sealed = whose.seal(entry.id, value.name, value.data, self._random.pop())
                commitments[value.name] = made if whose is key else replace(made, of=whose.pseudonym)
                batch.openings.append((index, value.name, sealed))
            pseudonym = key.pseudonym if entry.subject is not None else None
        people: dict[str, str] = {}
        if entry.people:
            people = {name: found.pseudonym for name, whom in entry.people.items() if (found := others[whom]) is not None}
        stamp = Stamp(signed.writer, signed.boot, self.wseq, self.wprev, signed.mono())
        data = leaf.compose(entry, signed.log, stamp, pseudonym, commitments, people, spooled=self._away)
        digest = leaf_hash(data)
        batch.leaves.append((index, entry.id, digest, data))
        batch.nodes += self.frontier.append(digest)
        self.together.hashes.append(digest)
        self.wseq, self.wprev = self.wseq + 1, digest.hex()
        kind = str(entry.kind)
        self.written[entry.id] = (index, digest, kind)
        if kind in _FOLLOWED:
            self._follow(entry, kind, index, people)
        if self._away:
            return Receipt(signed.log, entry.id, -1, digest)
        return Receipt(signed.log, entry.id, index, digest, self.together)

    def _follow(self, entry: Entry, kind: str, index: int, people: Mapping[str, str]) -> None:
        """What a record means for calls, runs and legal holds."""
        batch = self.batch
        if kind in _OPENING:
            batch.opened.append(OpenCall(entry.id, index, self._signed.writer, self._signed.boot))
            self.starts.append((entry, index))
        elif kind in CLOSING:
            batch.closed.append(str(entry.fields.get("call")))
        elif kind in _ENDING:
            batch.ended.append(str(entry.fields.get(_ENDING[kind])))
        elif kind == _HOLD and (target := people.get("target") or entry.fields.get("target")):  # without: the wish alone
            batch.held.append((entry.id, str(target)))
        elif kind == _CLEAR and "hold" in entry.fields:
            hold = str(entry.fields.get("hold"))
            batch.held = [held for held in batch.held if held[0] != hold]
            batch.released.append(hold)

    def frame(self) -> Frame:
        """The draft as the spool keeps it."""
        first = self.batch.leaves[0][0]
        leaves = [(record, data) for _, record, _, data in self.batch.leaves]
        return Frame(leaves, [(index - first, name, sealed) for index, name, sealed in self.batch.openings])

    @property
    def plain(self) -> bool:
        """Whether the draft is records and their sealed values alone: no new person, no erasure, no legal hold."""
        batch = self.batch
        return not (batch.subjects or batch.destroyed or batch.held or batch.released)

    def take(self, frames: Sequence[Frame]) -> None:
        """Put what a spool holds at the end, byte by byte; what is there already is not written again.

        What is sealed for somebody who was erased meanwhile is left out; a call that was closed meanwhile has a late end.
        """
        existing = self.turn.existing([record for record, _ in pieces(frames)])
        sealed: list[tuple[str, tuple[int, str, bytes]]] = []
        opened: dict[str, OpenCall] = {}
        for frame in frames:
            places: dict[int, tuple[int, Any]] = {}
            for number, (record, data) in enumerate(frame.leaves):
                digest, found = leaf_hash(data), existing.get(record)
                if found is not None:
                    if found.hash != digest:
                        msg = f"the log has another record {record} than the spool"
                        raise TamperedError(msg)
                    continue
                index, said = self.frontier.size, orjson.loads(data)
                places[number] = index, said
                self.batch.leaves.append((index, record, digest, data))
                self.batch.nodes += self.frontier.append(digest)
                self.together.hashes.append(digest)
                self.written[record] = (index, digest, said["kind"])
                if said["kind"] in _OPENING:
                    opened[record] = OpenCall(record, index, said["writer"]["id"], said["writer"]["boot"])
                elif said["kind"] in CLOSING:
                    call = str(said["call"])
                    if opened.pop(call, None) is None and self.is_open(call):
                        self.batch.closed.append(call)
                elif said["kind"] in _ENDING:
                    ended = str(said[_ENDING[said["kind"]]])
                    if opened.pop(ended, None) is None:
                        self.batch.ended.append(ended)
            for number, name, value in frame.openings:
                if number in places:
                    index, said = places[number]
                    sealed.append((said[name].get("of") or said.get("subject") or LOG, (index, name, value)))
        known = self.turn.known(sorted({owner for owner, _ in sealed})) if sealed else set()
        self.batch.openings += [opening for owner, opening in sealed if owner in known]
        self.batch.opened += opened.values()

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
