"""The Merkle tree of RFC 9162 §2.1: hashes, the frontier that appends need, and roots of ranges.  No I/O.

The frontier is the list of roots of the complete subtrees that a log of some size falls into, largest first.  Complete subtrees
whose height is a multiple of 8 are kept beside the leaves (the tiles of c2sp.org/tlog-tiles), so that a proof reads little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Final

TILE_HEIGHT: Final = 8
EMPTY_ROOT: Final = sha256(b"").digest()
HASH_SIZE: Final = 32

Node = Callable[[int, int], bytes]
"""The hash of the complete subtree of height h that is the i-th of its height: (h, i) → 32 bytes."""

TileNode = tuple[int, int, bytes]
"""(level, index, hash): the complete subtree of height 8·level, the index-th of its height."""


def leaf_hash(data: bytes) -> bytes:
    """RFC 9162 §2.1.1: SHA-256(0x00 ‖ data)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 9162 §2.1.1: SHA-256(0x01 ‖ left ‖ right)."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: enough to append and to know the root.  32 bytes for each bit set in `size`."""

    __slots__ = ("hashes", "size")

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        """`ValueError` where the hashes cannot be the frontier of a tree of this size."""
        self.size = size
        self.hashes = list(hashes)
        if size < 0 or len(self.hashes) != size.bit_count() or any(len(h) != HASH_SIZE for h in self.hashes):
            msg = f"not the frontier of a tree of {size} leaves"
            raise ValueError(msg)

    @classmethod
    def decode(cls, size: int, data: bytes) -> Frontier:
        """From `encode`'s bytes; `TypeError` for anything that is not bytes."""
        data = bytes(data)
        if size < 0 or len(data) != HASH_SIZE * size.bit_count():
            msg = f"not the frontier of a tree of {size} leaves"
            raise ValueError(msg)
        return cls._of(size, [data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE)])

    def encode(self) -> bytes:
        """The hashes, largest subtree first."""
        return b"".join(self.hashes)

    def copy(self) -> Frontier:
        """A frontier of its own."""
        return self._of(self.size, self.hashes.copy())

    @classmethod
    def _of(cls, size: int, hashes: list[bytes]) -> Frontier:
        """From what is known to fit."""
        made = cls.__new__(cls)
        made.size, made.hashes = size, hashes
        return made

    def append(self, leaf: bytes) -> list[TileNode]:
        """Add a leaf hash; what it completes of the tiles' nodes (mostly nothing)."""
        index, height, current = self.size, 0, leaf
        made: list[TileNode] = []
        while self.size >> height & 1:
            current = sha256(b"\x01" + self.hashes.pop() + current).digest()
            height += 1
            if height % TILE_HEIGHT == 0:
                made.append((height // TILE_HEIGHT, index >> height, current))
        self.hashes.append(current)
        self.size += 1
        return made

    def root(self) -> bytes:
        """RFC 9162 §2.1.1: the root of the tree as it stands."""
        if not self.hashes:
            return EMPTY_ROOT
        current = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            current = node_hash(left, current)
        return current


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


def range_root(start: int, end: int, node: Node) -> bytes:
    """The root over the leaves [start, end), for a start that RFC 9162's recursion can reach (aligned to the range's width)."""
    width = end - start
    if width <= 0 or start % (1 << (width - 1).bit_length()):
        msg = f"not a subtree: [{start}, {end})"
        raise ValueError(msg)
    parts = []
    for height in range(width.bit_length() - 1, -1, -1):
        if width >> height & 1:
            parts.append(node(height, start >> height))
            start += 1 << height
    current = parts.pop()
    while parts:
        current = node_hash(parts.pop(), current)
    return current
