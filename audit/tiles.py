"""Tiles (c2sp.org/tlog-tiles): the log as static resources, made from stored leaves and hashes; only what a checkpoint covers.

Hash tiles hold hashes alone; entry bundles hold the records' bytes, each hashed again before it is handed out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from audit.model import TamperedError
from audit.store import StoredLeaf
from audit.tree import Frontier, range_root, root_of

WIDTH: Final = 256
ENTRIES: Final = -1
"""Stands where the level would: the resource is a bundle of entries."""

_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


class Tile(NamedTuple):
    """One resource: `width` hashes (or entries) from the number·256th of its level on; a full one has 256."""

    level: int
    number: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Below the log's prefix: `tile/<level>/<number>[.p/<width>]`."""
        digits = f"{self.number:03d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        folders = "/".join([f"x{group}" for group in groups[:-1]] + groups[-1:])
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{'entries' if self.level == ENTRIES else self.level}/{folders}{partial}"

    @property
    def span(self) -> tuple[int, int]:
        """The hashes of its level that it holds: [start, stop)."""
        return self.number * WIDTH, self.number * WIDTH + self.width

    def is_in(self, size: int) -> bool:
        """Whether a tree of this size has all of it."""
        return self.span[1] <= size >> 8 * max(self.level, 0)


def parse(path: str) -> Tile | None:
    """The tile of a path in its one spelling; None for everything else."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    level = ENTRIES if match[1] == "entries" else int(match[1])
    tile = Tile(level, int(match[2].replace("x", "").replace("/", "")), int(match[3] or WIDTH))
    return tile if level < 64 and tile.width <= WIDTH and tile.path == path else None


def tiles_of(size: int, since: int = 0) -> Iterator[Tile]:
    """Every tile of a tree of `size` leaves that a tree of `since` leaves does not have, entries first, then level by level."""
    for level in (ENTRIES, *range(64)):
        height = 8 * max(level, 0)
        count = size >> height
        if count == 0:
            return
        for index in range((since >> height) // WIDTH, count // WIDTH):
            yield Tile(level, index)
        if count % WIDTH and count != since >> height:
            yield Tile(level, count // WIDTH, count % WIDTH)


def bundle(leaves: Iterable[StoredLeaf], tile: Tile) -> bytes:
    """The entries of a bundle, each behind its length; `TamperedError` unless all are there, as they were hashed."""
    parts, at = [], tile.span[0]
    for leaf in leaves:
        if leaf.index != at or not leaf.intact:
            break
        parts.append(len(leaf.data).to_bytes(2, "big") + leaf.data)
        at += 1
    if at != tile.span[1]:
        msg = f"leaf {at} is not what was stored there"
        raise TamperedError(msg)
    return b"".join(parts)


class Hashes(Protocol):
    """Where the hashes of complete subtrees of height 8·level are read: [start, stop) of them, those that are there."""

    def __call__(self, level: int, start: int, stop: int, /) -> list[bytes]: ...


def node_of(hashes: Hashes, height: int, index: int) -> bytes:
    """The hash of a complete subtree, from the nearest stored level below it; `TamperedError` where one is missing."""
    level, above = divmod(height, 8)
    first = index << above
    return root_of(_all(hashes, level, first, first + (1 << above)))


def hash_tile(hashes: Hashes, tile: Tile) -> bytes:
    """The hashes of a tile; of a full one, held against the hash that the level above has of it.  `TamperedError`."""
    found = _all(hashes, tile.level, *tile.span)
    if tile.width == WIDTH and hashes(tile.level + 1, tile.number, tile.number + 1) != [root_of(found)]:
        msg = f"tile {tile.number} of level {tile.level} is not what the level above it says"
        raise TamperedError(msg)
    return b"".join(found)


def root_at(hashes: Hashes, size: int) -> bytes:
    """The root of the tree of the first `size` leaves."""
    return range_root(0, size, lambda height, index: node_of(hashes, height, index)) if size else Frontier().root()


def _all(hashes: Hashes, level: int, start: int, stop: int) -> Sequence[bytes]:
    found = hashes(level, start, stop)
    if len(found) != stop - start or any(type(each) is not bytes or len(each) != 32 for each in found):  # SQLite takes anything
        msg = f"hashes of level {level} from {start} on are missing"
        raise TamperedError(msg)
    return found
