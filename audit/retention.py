"""How long records stay, and how they go: sealed into an archive as segments, later retired, and both on record.

Nothing is sealed that does not verify; nothing goes that is not in the archive as it was sealed, whose time has not come, or that
a legal hold keeps.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from audit import checkpoint as notes
from audit import segment as files
from audit.archive import Archive
from audit.checkpoint import Vkey
from audit.leaf import Kind
from audit.model import Entry, HeldError, Receipt, TamperedError
from audit.proof import consistency, verify_consistency
from audit.reader import Ledger
from audit.segment import Manifest, Opening
from audit.store import StoredLeaf
from audit.store_read import SqlReader
from audit.store_segments import Progress, Segment, Segments
from audit.tiles import node_of
from audit.verify import Ahead, Check, Rows, Trust
from audit.verify_url import rows_of
from audit.writer import record_id

DAY: Final = 86_400_000_000
FLOORS: Final[Mapping[str, int]] = {"eu-ai-act": 183, "soc2": 365, "pci-dss": 365, "hipaa": 2192, "sec-17a-4": 2192}
"""Days that records of a class stay at least: AI Act Art. 19, 26(6); PCI DSS 10.5.1; 45 CFR 164.316(b)(2); 17 CFR 240.17a-4."""

Append = Callable[[Entry], Receipt]


@dataclass(frozen=True, slots=True)
class Rule:
    """How long records stay: the longest floor of the classes, or `days` where that is longer.  ValueError for other classes."""

    classes: tuple[str, ...] = ("eu-ai-act",)
    days: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.classes if name not in FLOORS]
        if unknown or not self.classes:
            msg = f"not classes of retention: {', '.join(unknown) or 'none is named'}; there are: {', '.join(FLOORS)}"
            raise ValueError(msg)

    @property
    def keep(self) -> int:
        """Microseconds."""
        return max(self.days, *(FLOORS[name] for name in self.classes)) * DAY


@dataclass(frozen=True, slots=True)
class Held:
    """A segment that cannot go yet, and why; hold: because of a legal hold, not because of its time."""

    segment: Segment
    why: str
    hold: bool = False


class Retention:
    """Seals and retires the segments of one log.

    append  writes a record and returns when it is durable; clock in UTC microseconds.  For one thread.
    """

    def __init__(self, url: str, archive: Archive, rule: Rule, append: Append, clock: Callable[[], int]) -> None:
        """`ValueError` for a URL of another kind."""
        self._url = url
        self.archive = archive
        self._rule = rule
        self._append = append
        self._clock = clock

    @property
    def vkey(self) -> str:
        """The verifier key that the log names."""
        with Ledger.open(self._url) as ledger:
            return ledger.vkey

    def known(self) -> list[Segment]:
        """Every segment, oldest first."""
        segments = Segments(self._url)
        try:
            return segments.rows()
        finally:
            segments.close()

    def seal(self, until: int, progress: Progress = lambda _done, _of: None) -> Manifest | None:
        """Put the records older than `until` that are in no segment yet into one; None where there are not 256 of them.

        Everything in it was checked first, as the verifier checks it: `TamperedError` where something was found, and nothing is
        sealed.  `ArchiveError` where the archive does not take it; the next attempt goes on.
        """
        rows, segments = SqlReader(self._url), Segments(self._url)
        try:
            known = segments.rows()
            start, carry = (known[-1].stop, known[-1].carry) if known else (0, b"")
            stop, newest = _bounds(rows, start, until)
            if stop == start:
                return None
            note = rows.checkpoint() or ""
            with rows_of(self._url) as tables:
                manifest, after = self._packed(rows, segments, tables, carry, (start, stop, newest), note, progress)
            data = manifest.to_bytes()
            self.archive.put(f"{manifest.name}/{files.MANIFEST}", data, manifest.keep_until)
            said = {
                "from": start, "to": stop, "count": stop - start, "root": manifest.root, "carry": _sha256(after),
                "manifest": _sha256(data), "classes": list(manifest.classes), "keep_until": manifest.keep_until,
            }  # fmt: skip
            record = self._record(Kind.SEGMENT_SEAL, said)
            segments.add(Segment(start, stop, record, "", after))
            return manifest
        finally:
            segments.close()
            rows.close()

    def retire(self, by: str, reason: str, progress: Progress = lambda _done, _of: None) -> tuple[list[Segment], list[Held]]:
        """Let go of the segments whose time has come, oldest first: which went, and which may not yet.

        by, reason  who agreed to it and why, for the record.

        `TamperedError` where the archive does not hold a segment as it was sealed: nothing of it is deleted.
        """
        gone: list[Segment] = []
        held: list[Held] = []
        segments = Segments(self._url)
        try:
            for each in segments.rows():
                if each.retired:
                    continue
                stays = self._stays(segments, each)
                if stays is not None:
                    held.append(stays)
                    break  # a later one cannot go before it: what is left of a log is its end
                manifest = self._archived(each)
                said = {
                    "from": each.start, "to": each.stop, "count": each.stop - each.start, "root": manifest.root,
                    "carry": _sha256(each.carry), "sealed": each.sealed, "classes": list(manifest.classes), "by": by[:128],
                    "reason": reason[:256],
                }  # fmt: skip
                segments.mark(each.stop, self._record(Kind.SEGMENT_RETIRE, said))
                gone.append(each)
            try:
                segments.delete(progress)
            except HeldError as error:
                held.append(Held(gone[-1], f"the legal hold {error.hold} was set meanwhile; what is left stays", hold=True))
            return gone, held
        finally:
            segments.close()

    def _packed(  # noqa: PLR0917  what `seal` has opened
        self,
        rows: SqlReader,
        segments: Segments,
        tables: Rows,
        carry: bytes,
        bounds: tuple[int, int, int],
        note: str,
        progress: Progress,
    ) -> tuple[Manifest, bytes]:
        """Check and put every file but the manifest; the manifest, and what is true after the segment."""
        start, stop, newest = bounds
        check = Check(tables, Trust())
        check.report.origin = rows.origin
        if carry:
            check.resume(carry)
        plan = Manifest(rows.origin, rows.vkey, start, stop, "", {}, self._rule.classes, newest + self._rule.keep)
        done: dict[str, str] = {}

        def put(name: str, data: bytes) -> None:
            self.archive.put(f"{plan.name}/{name}", data, plan.keep_until)
            done[name] = files.digest(data)

        put(files.CARRY_IN, carry)
        for first, last in plan.parts:
            leaves, beside = list(rows.leaves(first, last)), segments.openings(first, last)
            _checked(check, leaves, beside)
            put(files.entries_name(first), files.pack_entries(leaves))
            put(files.openings_name(first), files.pack_openings(beside))
            progress(last - start, stop - start)
        after = check.carry()
        put(files.CARRY_OUT, after)
        put(files.CHECKPOINT, note.encode())
        root = base64.b64encode(check.tree.root()).decode()
        size = int(note.split("\n")[1])
        proof = consistency(stop, size, lambda height, index: node_of(rows.hashes, height, index))
        hexed = tuple(digest.hex() for digest in proof)
        return Manifest(plan.log, plan.vkey, start, stop, root, done, plan.classes, plan.keep_until, hexed), after

    def _stays(self, segments: Segments, each: Segment) -> Held | None:
        with Ledger.open(self._url) as ledger:
            sealed = ledger.get(each.sealed)
        until = sealed.leaf.get("keep_until") if sealed is not None else None
        if not isinstance(until, int):
            return Held(each, "the record that sealed it is gone", hold=True)
        if self._clock() < until:
            return Held(each, f"it is kept until {datetime.fromtimestamp(until // 1_000_000, UTC):%Y-%m-%d}")
        hold = segments.held(each.start, each.stop)
        return None if hold is None else Held(each, f"the legal hold {hold} is in force", hold=True)

    def _archived(self, each: Segment) -> Manifest:
        """The manifest, once every file of it was read back and is what was sealed."""
        name = files.name_of(each.start, each.stop)
        data = self.archive.get(f"{name}/{files.MANIFEST}")
        with Ledger.open(self._url) as ledger:
            sealed = ledger.get(each.sealed)
        if sealed is None or sealed.leaf.get("manifest") != _sha256(data):
            msg = f"the manifest of {name} in the archive is not the one that was sealed"
            raise TamperedError(msg)
        manifest = Manifest.parse(data)
        for file, digest in manifest.files.items():
            if files.digest(self.archive.get(f"{name}/{file}")) != digest:
                msg = f"{name}/{file} in the archive is not what was sealed"
                raise TamperedError(msg)
        return manifest

    def _record(self, kind: Kind, said: Mapping[str, object]) -> str:
        at = self._clock()
        return self._append(Entry(kind, record_id(at), at, None, said)).id


class SegmentRows(Rows):
    """An archived segment as the verifier reads tables."""

    partial = True

    def __init__(self, leaves: Iterator[StoredLeaf], openings: Iterator[Opening]) -> None:
        self._tables: dict[str, Iterator[tuple[Any, ...]]] = {
            "ledger_leaves": ((leaf.index, leaf.id, leaf.hash, leaf.data) for leaf in leaves),
            "ledger_openings": ((each.index, each.name, each.sealed) for each in openings),
        }

    def rows(self, table: str) -> Iterator[tuple[Any, ...]]:
        """The rows that the archive has of the table."""
        return self._tables.get(table, iter(()))


def verify_segment(
    archive: Archive, name: str, key: str | None = None, before: bytes | None = None
) -> tuple[list[str], Manifest]:
    """What is wrong with a segment in the archive, and its manifest; nothing where all its files, records, chains and root fit.

    key     the log's verifier key, by which the checkpoint in the segment must be signed; else the one that the manifest names.
    before  the `carry-out` of the segment before it, which it must continue.

    `TamperedError` for files that cannot be read, `ArchiveError` where they are not there.
    """
    manifest = Manifest.parse(archive.get(f"{name}/{files.MANIFEST}"))
    got = {file: archive.get(f"{name}/{file}") for file in (files.CARRY_IN, files.CARRY_OUT, files.CHECKPOINT)}
    wrong = [
        f"{file} is not what the manifest names" for file, data in got.items() if files.digest(data) != manifest.files.get(file)
    ]
    if before is not None and got[files.CARRY_IN] != before:
        wrong.append("it does not continue the segment before it")
    if manifest.name != name:
        wrong.append("it lies under the name of another")

    def part(kind: Callable[[int], str], first: int) -> bytes:
        data = archive.get(f"{name}/{kind(first)}")
        if files.digest(data) != manifest.files.get(kind(first)):
            wrong.append(f"{kind(first)} is not what the manifest names")
        return data

    leaves = (leaf for at, end in manifest.parts for leaf in files.unpack_entries(part(files.entries_name, at), at, end))
    openings = (each for at, _ in manifest.parts for each in files.unpack_openings(part(files.openings_name, at)))
    check = Check(SegmentRows(leaves, openings), Trust(key))
    check.report.origin = manifest.log
    if got[files.CARRY_IN]:
        check.resume(got[files.CARRY_IN])
    beside = Ahead(check.source.rows("ledger_openings"))
    for row in check.source.rows("ledger_leaves"):
        check.leaf(row, beside)
    wrong += [str(finding) for finding in check.report.findings]
    if check.tree.size != manifest.stop or base64.b64encode(check.tree.root()).decode() != manifest.root:
        wrong.append("its records are not those of its root")
    wrong += _unsigned(manifest, got[files.CHECKPOINT], Vkey.parse(key or manifest.vkey))
    if check.carry() != got[files.CARRY_OUT]:
        wrong.append("what it says is true after it does not follow from its records")
    return wrong, manifest


def _unsigned(manifest: Manifest, note: bytes, vkey: Vkey) -> list[str]:
    """What is wrong with the signature over the segment's root, by way of the checkpoint that came after it."""
    try:
        signed = notes.verify(note.decode("utf-8", "replace"), vkey)
        proof, root = [bytes.fromhex(digest) for digest in manifest.proof], base64.b64decode(manifest.root)
    except (notes.CheckpointError, ValueError) as error:
        return [f"its checkpoint: {error}"]
    if not verify_consistency(manifest.stop, signed.size, root, signed.root, proof):
        return ["its root is not one that the signed log ever had"]
    return []


def _bounds(rows: SqlReader, start: int, until: int) -> tuple[int, int]:
    """Up to where records can be sealed (a multiple of 256, signed, all older than `until`), and the newest time among them."""
    note = rows.checkpoint()
    signed = int(note.split("\n")[1]) if note else 0
    at, newest = start, 0
    while at + files.WIDTH <= signed:
        times = [int(str(leaf.record().get("ts", 0))) for leaf in islice(rows.leaves(at, at + files.WIDTH), files.WIDTH)]
        if len(times) < files.WIDTH or max(times) >= until:
            break
        at += files.WIDTH
        newest = max(newest, *times)
    return at, newest


def _checked(check: Check, leaves: Sequence[StoredLeaf], openings: Sequence[Opening]) -> None:
    beside = Ahead(iter([(each.index, each.name, each.sealed) for each in openings]))
    for leaf in leaves:
        check.leaf((leaf.index, leaf.id, leaf.hash, leaf.data), beside)
    if check.report.findings:
        msg = f"nothing was sealed: {check.report.findings[0]}"
        raise TamperedError(msg)


def _sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
