"""Inclusion and consistency proofs (RFC 9162 §2.1.3, §2.1.4): making them from stored hashes, and checking them with nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from audit.tree import EMPTY_ROOT, Node, node_hash, range_root

T = TypeVar("T")


def inclusion(index: int, size: int, node: Node) -> list[bytes]:
    """The proof that leaf `index` is in the tree of `size` leaves, nearest hash first (RFC 9162 §2.1.3.1)."""
    if not 0 <= index < size:
        msg = f"there is no leaf {index} in a tree of {size}"
        raise ValueError(msg)
    start, end, path = 0, size, []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return [range_root(a, b, node) for a, b in reversed(path)]


def levels(leaves: list[bytes]) -> list[list[bytes]]:
    """Every node of a small tree (RFC 9162 §2.1.1), level by level, its leaf hashes first and its root last.

    What has no neighbour on its right goes up as it is: so each split leaves a power of two on the left.
    """
    if not leaves:
        msg = "a tree without leaves has no levels"
        raise ValueError(msg)
    found = [leaves]
    while len(below := found[-1]) > 1:
        above = [node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)]
        found.append(above if len(below) % 2 == 0 else [*above, below[-1]])
    return found


def inclusion_in(index: int, tree: Sequence[Sequence[T]]) -> list[T]:
    """The proof that `inclusion` makes, picked from the `levels` of its tree, or from what stands for each of their nodes."""
    if not 0 <= index < len(tree[0]):
        msg = f"there is no leaf {index} in a tree of {len(tree[0])}"
        raise ValueError(msg)
    path = []
    for level in tree:
        beside = index ^ 1
        if beside < len(level):
            path.append(level[beside])
        index >>= 1
    return path


def consistency(old: int, new: int, node: Node) -> list[bytes]:
    """The proof that the tree of `new` leaves begins with the tree of `old` (RFC 9162 §2.1.4.1); empty where old is 0 or new."""
    if not 0 <= old <= new:
        msg = f"a tree of {new} does not begin with one of {old}"
        raise ValueError(msg)
    if old in {0, new}:
        return []
    start, end, path, whole = 0, new, [], True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start, whole = middle, False
    if not whole:
        path.append((start, end))
    return [range_root(a, b, node) for a, b in reversed(path)]


def included_root(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes | None:
    """The root of `size` leaves to which the proof leads from the leaf hash at `index` (RFC 9162 §2.1.3.2).

    None where there is no such leaf, or the proof is too long or too short.
    """
    if not 0 <= index < size:
        return None
    at, last, current = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return None
        if at & 1 or at == last:
            current = node_hash(step, current)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            current = node_hash(current, step)
        at, last = at >> 1, last >> 1
    return current if last == 0 else None


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the proof shows the leaf hash at `index` under the root of `size` leaves (RFC 9162 §2.1.3.2)."""
    return included_root(index, size, leaf, proof) == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the tree of `new` leaves begins with the tree of `old` (RFC 9162 §2.1.4.2)."""
    if not 0 <= old <= new:
        return False
    if old == new:
        return not proof and old_root == new_root
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    path = list(proof)
    if old & (old - 1) == 0:  # a complete subtree stands for itself
        path.insert(0, old_root)
    if not path:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = node_hash(second, step)
        at, last = at >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root


def _split(width: int) -> int:
    """The largest power of two below `width`."""
    return 1 << (width - 1).bit_length() - 1
