"""A log written out as static files (c2sp.org/tlog-tiles), for any web server.  A folder is continued, never contradicted.

Crash story: files that never change are written first, the checkpoint last; a run that was cut off is done again from the
checkpoint that is there.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from audit import checkpoint as notes
from audit.checkpoint import Checkpoint, Vkey
from audit.model import TamperedError
from audit.proof import consistency, verify_consistency
from audit.store_read import SqlReader
from audit.tiles import ENTRIES, WIDTH, Tile, bundle, hash_tile, node_of, root_at, tiles_of

CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class Written:
    """What came of it: the log's size in the folder before and now, and how many files were written."""

    before: int
    size: int
    files: int


def write(rows: SqlReader, folder: Path, *, entries: bool = True, key: str | None = None) -> Written:
    """Bring the folder up to the log's newest checkpoint.  Everything new in it was hashed again from the stored leaves.

    `TamperedError` where the log is not what its checkpoint signs, or does not continue what the folder holds already: then
    nothing is published.  `LookupError` where nothing is signed yet.

    key  the log's verifier key; else the one that the log names.
    """
    note = rows.checkpoint()
    if note is None:
        msg = "nothing is signed yet"
        raise LookupError(msg)
    vkey = Vkey.parse(key or rows.vkey)
    signed = _verified(note, vkey, "the newest checkpoint")
    before = _before(folder, vkey)
    if before.size > signed.size or not _continues(rows, before, signed):
        msg = f"the folder holds {before.size} records which the log of {signed.size} does not continue"
        raise TamperedError(msg)
    if root_at(rows.hashes, signed.size) != signed.root:
        msg = f"the stored hashes are not the tree of {signed.size} records that was signed"
        raise TamperedError(msg)
    files = 0
    for tile in tiles_of(signed.size, before.size):
        data = _bytes_of(rows, tile)  # also where only hashes are published: the bytes are what the hashes stand for
        if tile.level != ENTRIES or entries:
            _put(folder / tile.path, data)
            files += 1
        if tile.width == WIDTH:
            shutil.rmtree(folder / f"{tile.path}.p", ignore_errors=True)
    for size, authority, token, about in rows.timestamps():
        for name, data in ((f"{size:016d}.{authority}.tsr", token), (f"{size:016d}.checkpoint", about.encode())):
            if not (folder / "timestamps" / name).exists():
                _put(folder / "timestamps" / name, data)
                files += 1
    if before.size != signed.size:
        os.sync()  # once for all of them: what is not on disk before the checkpoint is written again by the next run
        _put(folder / CHECKPOINT, note.encode(), synced=True)
        files += 1
    return Written(before.size, signed.size, files)


def _bytes_of(rows: SqlReader, tile: Tile) -> bytes:
    if tile.level != ENTRIES:
        return hash_tile(rows.hashes, tile)
    return bundle(rows.leaves(*tile.span), tile)


def _before(folder: Path, vkey: Vkey) -> Checkpoint:
    """What the folder says that it holds."""
    try:
        note = (folder / CHECKPOINT).read_text()
    except FileNotFoundError:
        return Checkpoint(vkey.name, 0, b"")
    return _verified(note, vkey, f"the checkpoint in {folder}")


def _continues(rows: SqlReader, before: Checkpoint, signed: Checkpoint) -> bool:
    if before.size == 0:
        return True
    proof = consistency(before.size, signed.size, lambda height, index: node_of(rows.hashes, height, index))
    return verify_consistency(before.size, signed.size, before.root, signed.root, proof)


def _verified(note: str, vkey: Vkey, what: str) -> Checkpoint:
    try:
        return notes.verify(note, vkey)
    except notes.CheckpointError as error:
        msg = f"{what}: {error}"
        raise TamperedError(msg) from error


def _put(path: Path, data: bytes, *, synced: bool = False) -> None:
    """Exchange the file for a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(data)
        if synced:
            file.flush()
            os.fsync(file.fileno())
    fresh.replace(path)
