"""Commitments hide and bind; openings open in their place alone; a destroyed key is the end of what it sealed."""

from __future__ import annotations

import hashlib

import pytest
from msgspec.structs import replace

from audit.privacy import LOG, SealBrokenError, SealKey, SubjectRow, commitment

SEAL = SealKey("example.org/log", b"k" * 32)


def test_a_value_opens_with_its_commitment_and_nothing_else() -> None:
    _, key = SEAL.create("user:corp/ann")
    committed, sealed = key.seal("id-1", "args", b"4711")
    assert key.open("id-1", "args", sealed, committed) == b"4711"
    other, other_sealed = key.seal("id-1", "args", b"4712")
    for record, name, box, expected in (
        ("id-2", "args", sealed, committed),
        ("id-1", "resp", sealed, committed),
        ("id-1", "args", other_sealed, committed),
        ("id-1", "args", sealed, other),
        ("id-1", "args", sealed[:-1] + b"\x00", committed),
        ("id-1", "args", b"", committed),
        ("id-1", "args", sealed, replace(committed, c=other.c)),
        ("id-1", "args", sealed, replace(committed, n=5)),
    ):
        with pytest.raises(SealBrokenError):
            key.open(record, name, box, expected)


def test_the_same_value_never_has_the_same_commitment() -> None:
    _, key = SEAL.create("user:corp/ann")
    assert len({key.seal("id", "args", b"yes")[0].c for _ in range(20)}) == 20


def test_a_commitment_is_over_salt_name_and_value_so_that_no_two_share_bytes() -> None:
    salt = b"s" * 16
    made = {commitment(salt, name, value) for name, value in (("ab", b"c"), ("a", b"bc"), ("abc", b""))}
    assert len(made) == 3
    plain = hashlib.sha256(b"bailiwick/commitment/v1\x00" + salt + b"\x02abc").hexdigest()
    assert commitment(salt, "ab", b"c") == plain


def test_the_id_of_an_opening_is_checked_without_any_key() -> None:
    _, key = SEAL.create(None)
    committed, sealed = key.seal("id", "args", b"x")
    assert committed.op == "o_" + hashlib.sha256(sealed).hexdigest()[:32]


def test_a_subject_is_stored_without_its_name_and_found_by_a_keyed_hash() -> None:
    row, key = SEAL.create("user:corp/ann")
    again = SEAL.unwrap(row)
    assert again.open_name(row.name) == "user:corp/ann"
    assert again.pseudonym == key.pseudonym == row.pseudonym
    assert row.lookup == SEAL.lookup("user:corp/ann") != SealKey("example.org/log", b"l" * 32).lookup("user:corp/ann")
    assert not any(b"ann" in part for part in (row.pseudonym.encode(), row.lookup, row.dek, row.name))


def test_a_pseudonym_says_nothing_and_is_new_each_time() -> None:
    first, second = SEAL.create("user:corp/ann")[0], SEAL.create("user:corp/ann")[0]
    assert first.pseudonym != second.pseudonym
    assert first.digest() != second.digest()


@pytest.mark.parametrize("seal", [SealKey("example.org/log", b"l" * 32), SealKey("example.org/other", b"k" * 32)])
def test_another_seal_key_or_another_log_opens_nothing(seal: SealKey) -> None:
    row, _ = SEAL.create("user:corp/ann")
    with pytest.raises(SealBrokenError):
        seal.unwrap(row)


def test_a_key_moved_to_another_subject_does_not_open() -> None:
    ann, bob = SEAL.create("user:corp/ann")[0], SEAL.create("user:corp/bob")[0]
    with pytest.raises(SealBrokenError):
        SEAL.unwrap(SubjectRow(ann.pseudonym, ann.lookup, bob.dek, ann.name))
    with pytest.raises(SealBrokenError):
        SEAL.unwrap(ann).open_name(bob.name)


def test_the_log_has_a_key_of_its_own() -> None:
    row, key = SEAL.create(None)
    assert row.pseudonym == key.pseudonym == LOG


def test_a_hostile_name_is_sealed_like_any_other() -> None:
    name = "user:\ud800\x00" + "x" * 10_000
    row, key = SEAL.create(name)
    assert key.open_name(row.name) == name


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_the_seal_key_has_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SealKey("example.org/log", bytes(size))
