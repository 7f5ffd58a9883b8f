"""The tree of RFC 9162 and its proofs, against known vectors and against the definition itself."""

from __future__ import annotations

from functools import cache
from hashlib import sha256

import pytest

from audit import verify
from audit.proof import consistency, inclusion, inclusion_in, levels, verify_consistency, verify_inclusion
from audit.tree import EMPTY_ROOT, Frontier, leaf_hash, range_root, root_of

# The reference test data of certificate transparency (RFC 6962), hashed as RFC 9162 hashes.
INPUTS = [bytes.fromhex(text) for text in
          ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
SIZES = 200
LEAVES = [leaf_hash(str(n).encode()) for n in range(SIZES)]


@cache
def mth(start: int, end: int) -> bytes:
    """RFC 9162 §2.1.1, word for word."""
    if end - start == 0:
        return sha256(b"").digest()
    if end - start == 1:
        return LEAVES[start]
    k = 1
    while k * 2 < end - start:
        k *= 2
    return sha256(b"\x01" + mth(start, start + k) + mth(start + k, end)).digest()


def path(m: int, start: int, end: int) -> list[bytes]:
    """RFC 9162 §2.1.3.1, word for word."""
    if end - start == 1:
        return []
    k = 1
    while k * 2 < end - start:
        k *= 2
    if m < k:
        return [*path(m, start, start + k), mth(start + k, end)]
    return [*path(m - k, start + k, end), mth(start, start + k)]


def subproof(m: int, start: int, end: int, *, whole: bool) -> list[bytes]:
    """RFC 9162 §2.1.4.1, word for word."""
    if m == end - start:
        return [] if whole else [mth(start, end)]
    k = 1
    while k * 2 < end - start:
        k *= 2
    if m <= k:
        return [*subproof(m, start, start + k, whole=whole), mth(start + k, end)]
    return [*subproof(m - k, start + k, end, whole=False), mth(start, start + k)]


def node(height: int, index: int) -> bytes:
    return mth(index << height, (index + 1) << height)


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_the_reference_vectors(size: int) -> None:
    assert root_of(map(leaf_hash, INPUTS[:size])).hex() == ROOTS[size - 1]


def test_the_root_of_nothing_is_the_hash_of_nothing() -> None:
    assert root_of([]) == EMPTY_ROOT == sha256(b"").digest()


def test_appending_gives_at_every_size_the_root_of_the_definition_and_the_verifiers_own_tree_agrees() -> None:
    frontier, theirs = Frontier(), verify.Tree()
    for size in range(SIZES):
        assert frontier.root() == theirs.root() == mth(0, size)
        frontier.append(LEAVES[size])
        theirs.append(LEAVES[size])


def test_a_frontier_survives_being_stored() -> None:
    for size in range(SIZES):
        frontier = Frontier()
        for leaf in LEAVES[:size]:
            frontier.append(leaf)
        stored = Frontier.decode(size, frontier.encode())
        assert (stored.size, stored.root()) == (size, mth(0, size))


@pytest.mark.parametrize(("size", "data"), [(1, b""), (2, b"x" * 64), (3, b"x" * 32), (0, b"x" * 32), (1, b"x" * 31)])
def test_what_cannot_be_the_frontier_of_its_size_is_refused(size: int, data: bytes) -> None:
    with pytest.raises(ValueError, match="not the frontier"):
        Frontier.decode(size, data)


def test_complete_subtrees_of_tile_height_are_handed_out_once_when_they_are_complete() -> None:
    frontier, nodes = Frontier(), {}
    leaves = [leaf_hash(n.to_bytes(4, "big")) for n in range(3 * 256 + 9)]
    for leaf in leaves:
        for level, index, digest in frontier.append(leaf):
            assert (level, index) not in nodes
            nodes[level, index] = digest
    assert nodes == {(1, n): root_of(leaves[n * 256 : (n + 1) * 256]) for n in range(3)}


def test_the_nodes_of_two_levels_of_tiles_are_those_of_the_definition() -> None:
    frontier, ours, theirs = Frontier(), {}, verify.Tree()
    leaf = leaf_hash(b"x")
    for _ in range(65_536 + 300):
        theirs.append(leaf)
        ours |= {(level, index): digest for level, index, digest in frontier.append(leaf)}
    assert ours == theirs.nodes
    assert len(ours) == 257 + 1
    assert ours[2, 0] == root_of([ours[1, n] for n in range(256)])


def test_every_inclusion_proof_is_that_of_the_definition_and_holds() -> None:
    for size in range(1, SIZES + 1):
        for index in range(size):
            proof = inclusion(index, size, node)
            assert proof == path(index, 0, size)
            assert verify_inclusion(index, size, LEAVES[index], proof, mth(0, size))


def test_of_a_small_tree_whose_nodes_are_all_at_hand_root_and_every_inclusion_proof_are_those_of_the_definition() -> None:
    for size in range(1, SIZES + 1):
        tree = levels(LEAVES[:size])
        assert tree[-1] == [mth(0, size)]
        named = [[level_node.hex() for level_node in level] for level in tree]
        for index in range(size):
            proof = path(index, 0, size)
            assert inclusion_in(index, tree) == proof
            assert inclusion_in(index, named) == [step.hex() for step in proof]


def test_every_consistency_proof_is_that_of_the_definition_and_holds() -> None:
    for new in range(SIZES + 1):
        for old in range(new + 1):
            proof = consistency(old, new, node)
            assert proof == (subproof(old, 0, new, whole=True) if 0 < old < new else [])
            assert verify_consistency(old, new, mth(0, old), mth(0, new), proof)


def test_an_inclusion_proof_holds_for_nothing_else() -> None:
    for size in range(1, 40):
        root = mth(0, size)
        for index in range(size):
            proof = inclusion(index, size, node)
            for other in {index - 1, index + 1, index ^ 1, size} - {index}:
                assert not verify_inclusion(other, size, LEAVES[index], proof, root)
            assert not verify_inclusion(index, size, LEAVES[index + 1], proof, root)
            assert not verify_inclusion(index, size, LEAVES[index], [*proof, root], root)
            assert not proof or not verify_inclusion(index, size, LEAVES[index], proof[:-1], root)
            assert not verify_inclusion(index, size, LEAVES[index], proof, mth(0, size + 1))


def test_a_consistency_proof_holds_for_nothing_else() -> None:
    for new in range(1, 40):
        for old in range(1, new):
            proof = consistency(old, new, node)
            assert not verify_consistency(old, new, mth(0, old), mth(1, 2), proof)
            assert not verify_consistency(old, new, mth(1, 2), mth(0, new), proof)
            assert not verify_consistency(old, new, mth(0, old), mth(0, new), [*proof, proof[0]])
            assert not verify_consistency(old, new, mth(0, old), mth(0, new), proof[:-1])
            for at in range(len(proof)):
                changed = [*proof[:at], sha256(proof[at]).digest(), *proof[at + 1 :]]
                assert not verify_consistency(old, new, mth(0, old), mth(0, new), changed)


def test_impossible_questions_are_refused() -> None:
    for index, size in ((-1, 5), (5, 5), (0, 0)):
        with pytest.raises(ValueError, match="no leaf"):
            inclusion(index, size, node)
        assert not verify_inclusion(index, size, LEAVES[0], [], EMPTY_ROOT)
    tree = levels(LEAVES[:5])
    for index in (-1, 5):
        with pytest.raises(ValueError, match="no leaf"):
            inclusion_in(index, tree)
    with pytest.raises(ValueError, match="without leaves"):
        levels([])
    for old, new in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="begin"):
            consistency(old, new, node)
        assert not verify_consistency(old, new, EMPTY_ROOT, EMPTY_ROOT, [])
    assert not verify_consistency(0, 5, mth(0, 1), mth(0, 5), [])
    for start, end in ((1, 3), (5, 5), (4, 13)):
        with pytest.raises(ValueError, match="not a subtree"):
            range_root(start, end, node)
