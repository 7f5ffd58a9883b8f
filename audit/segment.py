"""A segment of the log as files that stand alone: its records in bundles (c2sp.org/tlog-tiles), what is sealed beside them, and a
manifest with the digest of each.  Bytes to bytes; no I/O, no clock, no keys.

A thief of a segment learns what the leaves say; sealed values stay sealed, and of an erased person nobody can open them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import zstandard

from audit.model import TamperedError
from audit.store import StoredLeaf
from audit.tree import leaf_hash

WIDTH: Final = 256
PART: Final = 64 * WIDTH
"""Records of one file: what a reader holds in memory at once."""
MANIFEST: Final = "manifest.json"
CARRY_IN: Final = "carry-in.json"
CARRY_OUT: Final = "carry-out.json"
CHECKPOINT: Final = "checkpoint"
_LEVEL: Final = 9
_MOST: Final = 1 << 30
_OPENING = struct.Struct(">QBI")


@dataclass(frozen=True, slots=True)
class Opening:
    """A sealed value beside record `index`."""

    index: int
    name: str
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a segment is: records [start, stop) of `log`, whose tree of `stop` records has this root.

    files      SHA-256 (hex) of each file, by name.
    proof      that the tree of the signed checkpoint in it begins with that root (RFC 9162 §2.1.4), hex.
    classes    of retention; keep_until: UTC microseconds before which it must not be destroyed.
    """

    log: str
    vkey: str
    start: int
    stop: int
    root: str
    files: dict[str, str]
    classes: tuple[str, ...] = ()
    keep_until: int = 0
    proof: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """Its one spelling."""
        said = {
            "v": 1, "log": self.log, "vkey": self.vkey, "from": self.start, "to": self.stop, "root": self.root,
            "files": self.files, "classes": list(self.classes), "keep_until": self.keep_until,
            "proof": list(self.proof),
        }  # fmt: skip
        return json.dumps(said, sort_keys=True, separators=(",", ":")).encode("ascii")

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """`TamperedError` unless the bytes are a manifest in its one spelling."""
        try:
            said: dict[str, Any] = json.loads(data)
            made = cls(
                str(said["log"]), str(said["vkey"]), int(said["from"]), int(said["to"]), str(said["root"]), dict(said["files"]),
                tuple(map(str, said["classes"])), int(said["keep_until"]), tuple(map(str, said["proof"])),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
            msg = "the manifest of a segment cannot be read"
            raise TamperedError(msg) from error
        if made.to_bytes() != data or not 0 <= made.start < made.stop or made.start % WIDTH or made.stop % WIDTH:
            msg = "the manifest of a segment is not in its one spelling"
            raise TamperedError(msg)
        return made

    @property
    def name(self) -> str:
        """The folder's: sorts by place in the log."""
        return name_of(self.start, self.stop)

    @property
    def parts(self) -> Sequence[tuple[int, int]]:
        """Records of each pair of files, in order."""
        return [(at, min(at + PART, self.stop)) for at in range(self.start, self.stop, PART)]


def name_of(start: int, stop: int) -> str:
    """The folder of the segment with records [start, stop)."""
    return f"{start:016d}-{stop:016d}"


def entries_name(start: int) -> str:
    """Of the file with the records from `start` on."""
    return f"entries-{start:016d}.zst"


def openings_name(start: int) -> str:
    """Of the file with what is sealed beside them."""
    return f"openings-{start:016d}.zst"


def pack_entries(leaves: Iterable[StoredLeaf]) -> bytes:
    """Entry bundles one after the other, each record behind its length; `TamperedError` for one that is not what was hashed."""
    parts = []
    for leaf in leaves:
        if not leaf.intact:
            msg = f"record {leaf.index} is not what was hashed"
            raise TamperedError(msg)
        parts.append(len(leaf.data).to_bytes(2, "big") + leaf.data)
    return zstandard.ZstdCompressor(level=_LEVEL).compress(b"".join(parts))


def unpack_entries(data: bytes, start: int, stop: int) -> Iterator[StoredLeaf]:
    """The records again, with their hashes; `TamperedError` unless there are exactly so many."""
    raw, at, index = _inflated(data), 0, start
    while at < len(raw):
        end = at + 2 + int.from_bytes(raw[at : at + 2], "big")
        entry = raw[at + 2 : end]
        if end > len(raw) or index >= stop:
            msg = f"the file of records {start} to {stop - 1} holds others"
            raise TamperedError(msg)
        yield StoredLeaf(index, _id_of(entry), leaf_hash(entry), entry)
        at, index = end, index + 1
    if index != stop:
        msg = f"records {index} to {stop - 1} are not in their file"
        raise TamperedError(msg)


def pack_openings(openings: Iterable[Opening]) -> bytes:
    """Sealed values, each with its place."""
    parts = []
    for each in openings:
        name = each.name.encode("ascii")
        parts.append(_OPENING.pack(each.index, len(name), len(each.sealed)) + name + each.sealed)
    return zstandard.ZstdCompressor(level=1).compress(b"".join(parts))  # ciphertext does not get smaller


def unpack_openings(data: bytes) -> Iterator[Opening]:
    """The sealed values again; `TamperedError` for bytes that are none."""
    raw, at = _inflated(data), 0
    while at < len(raw):
        if at + _OPENING.size > len(raw):
            msg = "the file of sealed values ends in the middle of one"
            raise TamperedError(msg)
        index, letters, size = _OPENING.unpack_from(raw, at)
        name_at = at + _OPENING.size
        end = name_at + letters + size
        if end > len(raw):
            msg = "the file of sealed values ends in the middle of one"
            raise TamperedError(msg)
        yield Opening(index, raw[name_at : name_at + letters].decode("ascii", "replace"), raw[name_at + letters : end])
        at = end


def digest(data: bytes) -> str:
    """SHA-256, hex."""
    return hashlib.sha256(data).hexdigest()


def _inflated(data: bytes) -> bytes:
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= _MOST:
            msg = "a file of a segment does not say its size, or too large a one"
            raise TamperedError(msg)
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size or 1)
    except zstandard.ZstdError as error:
        msg = "a file of a segment is not zstd"
        raise TamperedError(msg) from error


def _id_of(data: bytes) -> str:
    try:
        return str(json.loads(data)["id"])
    except (ValueError, KeyError, TypeError):
        return ""  # the verifier says what is wrong with it
