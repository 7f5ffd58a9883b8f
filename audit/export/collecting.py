"""The long part of an export: record after record, a row in each format, its bytes or its proof, its disclosed values.

In memory stands one chunk, however long the log; each chunk is on disk before the next begins.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Final

from audit.export.plan import Plan, Progress
from audit.export.query import Chooser
from audit.model import TamperedError
from audit.proof import inclusion
from audit.reader import Ledger, Record, Salted
from audit.tiles import ENTRIES, WIDTH, Tile, node_of
from audit.tlog_proof import TlogProof
from audit.tree import Node
from audit.verify import HEADERS, ROWS, Row, compact, proof_name

CHUNK: Final = 4096
"""Records between two marks of progress; a multiple of a tile's width."""
PIECE: Final = 65_536
"""Records in one file of a range that is not the whole log."""
MOST_PROOFS: Final = 200_000
"""Records that a selection may have: each has a file of its own."""

_NODES: Final = 65_536

Told = Callable[[int, int], None]


class TooManyError(Exception):
    """The selection is too large to prove record by record; the complete range can be exported instead."""


def collect(log: Ledger, plan: Plan, folder: Path, told: Told = lambda _done, _of: None) -> Progress:
    """Write what is left to write of the data.  `TamperedError` where a record is not what was hashed, or is missing."""
    progress = Progress.load(folder, plan.first)
    chooser = Chooser(plan.query, set(progress.open))
    nodes = lru_cache(_NODES)(partial(node_of, log.rows.hashes))  # neighbours share most of their proofs
    with Files(folder, progress, nodes) as files:
        if progress.next == plan.first:
            for name in plan.formats:
                if name in ROWS:
                    files.write(ROWS[name][0], (HEADERS[name] + "\n").encode() if name in HEADERS else b"")
        while progress.next < plan.stop:
            stop = min(progress.next - progress.next % CHUNK + CHUNK, plan.stop)
            _chunk(log, plan, progress, chooser, files, stop)
            progress.next, progress.open = stop, sorted(chooser.open)
            files.mark()
            told(stop - plan.first, plan.stop - plan.first)
    return progress


def _chunk(log: Ledger, plan: Plan, progress: Progress, chooser: Chooser, files: Files, stop: int) -> None:  # noqa: PLR0917
    at, chosen = progress.next, []
    for record in log.records(progress.next, stop):
        if record.index != at:
            break
        at += 1
        if plan.complete or chooser.fits(record.leaf):
            chosen.append(record)
    if at != stop:
        msg = f"record {at} is missing"
        raise TamperedError(msg)
    for record in chosen:
        _rows(log.origin, plan, progress, files, record)
        if plan.complete:
            files.write(entries_file(record.index, plan), len(record.data).to_bytes(2, "big") + record.data)
        else:
            _proof(plan, progress, files, record)
    if plan.disclose:
        _openings(log, plan, progress, files, chosen)


def _rows(origin: str, plan: Plan, progress: Progress, files: Files, record: Record) -> None:
    row = Row(origin, record.index, record.hash.hex(), record.data, record.leaf)
    for name in plan.formats:
        if name in ROWS:
            file, make = ROWS[name]
            files.write(file, make(row).encode() + b"\n")
    progress.records += 1
    progress.kinds[record.kind] = progress.kinds.get(record.kind, 0) + 1
    decision = record.leaf.get("decision")
    digest = str((decision.get("policy") if isinstance(decision, dict) else None) or record.leaf.get("policy") or "")
    if digest.startswith("sha256:") and digest not in progress.policies:
        progress.policies.append(digest)


def _proof(plan: Plan, progress: Progress, files: Files, record: Record) -> None:
    progress.proofs += 1
    if progress.proofs > MOST_PROOFS:
        msg = f"more than {MOST_PROOFS} records fit"
        raise TooManyError(msg)
    hashes = inclusion(record.index, plan.size, files.nodes)
    proof = TlogProof(record.data, record.index, tuple(hashes), plan.note)
    files.whole(proof_name(record.index), str(proof).encode())


def _openings(log: Ledger, plan: Plan, progress: Progress, files: Files, chosen: Iterable[Record]) -> None:
    """The values that are disclosed, a file for each person: taken away, nothing else of the export changes."""
    for record in chosen:
        for name in record.values:
            if name not in plan.disclose and "all" not in plan.disclose:
                continue
            found = log.open_salted(record, name)
            if not isinstance(found, Salted):  # erased
                continue
            owner = record.owner(name)
            said = {"name": name, "of": owner, "seq": record.index, "salt": _text(found.salt), "value": _text(found.value)}
            files.write(f"openings/{owner}.jsonl", compact(said).encode() + b"\n")
            progress.disclosed[owner] = progress.disclosed.get(owner, 0) + 1


def entries_file(index: int, plan: Plan) -> str:
    """Where a record's bytes stand: in a tile, where the whole log is exported; else in a file of its range."""
    if plan.first == 0 and plan.stop == plan.size:
        number = index // 256
        return Tile(ENTRIES, number, min(256, plan.size - number * 256)).path
    return f"range/{index // PIECE:013d}.entries"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Files:
    """The files that grow, cut back to the last mark when they are opened again."""

    def __init__(self, folder: Path, progress: Progress, nodes: Node) -> None:
        self.nodes = nodes
        self._folder = folder
        self._progress = progress
        self._open: dict[str, IO[bytes]] = {}
        self._unsynced = False

    def write(self, name: str, data: bytes) -> None:
        """Add to a file."""
        file = self._open.get(name)
        if file is None:
            file = self._open[name] = self._opened(name)
        file.write(data)
        self._progress.lengths[name] = self._progress.lengths.get(name, 0) + len(data)

    def whole(self, name: str, data: bytes) -> None:
        """Write a small file; one that is there already is written anew."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self._unsynced = True

    def mark(self) -> None:
        """Everything is on disk, and remembered to be; files that will grow no more are let go."""
        for file in self._open.values():
            file.flush()
            os.fsync(file.fileno())
        for name in [name for name in self._open if not name.startswith("data/")]:
            self._open.pop(name).close()
            if name.startswith("tile/") and self._progress.next % WIDTH == 0:
                del self._progress.lengths[name]  # whole: no record of it is left
        if self._unsynced:
            os.sync()  # many small files: once for all of them
            self._unsynced = False
        self._progress.save(self._folder)

    def _opened(self, name: str) -> IO[bytes]:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("r+b" if path.exists() else "w+b")
        file.truncate(self._progress.lengths.get(name, 0))
        file.seek(0, os.SEEK_END)
        return file

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()
