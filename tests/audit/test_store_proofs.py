"""What others said of the log is kept beside it, in both databases: append-only, written by one replica at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.exc import DBAPIError

from audit import checkpoint as notes
from audit.checkpoint import Vkey
from audit.cosignature import WitnessKey, cosign, witnessed
from audit.proof import verify_consistency
from audit.store import StoreError
from audit.store_connect import engine, parse_url
from audit.store_proofs import Anchored, ProofStore
from audit.verify_url import verify_url
from tests.audit.conftest import ORIGIN, SIGNING_KEY, VKEY, Open, denial

LOG = Vkey.of(ORIGIN, SIGNING_KEY)
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in (7, 8)]
WITNESSES = [WitnessKey.of(f"w.example/{number}", key) for number, key in enumerate(KEYS)]


@pytest.fixture
def store_at() -> Iterator[Callable[[str], ProofStore]]:
    made: list[ProofStore] = []

    def make(url: str) -> ProofStore:
        made.append(ProofStore(url))
        return made[-1]

    yield make
    for store in made:
        store.close()


async def grown(open_journal: Open, url: str, *counts: int) -> list[notes.Checkpoint]:
    """A log that was signed after so many more records each; the heads."""
    heads, numbers = [], itertools.count()
    for count in counts:
        journal = await open_journal(url)
        for number in itertools.islice(numbers, count):
            await journal.append(denial(f"d-{number}"))
        await journal.close()
        heads.append(notes.verify(journal.checkpoint() or "", LOG))
    return heads


def say(store: ProofStore, head: notes.Checkpoint, *numbers: int) -> None:
    for number in numbers:
        said = cosign(head, WITNESSES[number].name, KEYS[number], 1_700_000_000)
        store.add_cosignature(head.size, said.witness, said.line)


async def test_cosignatures_are_verified_with_the_log_by_their_pinned_keys(
    url: str, open_journal: Open, store_at: Callable[[str], ProofStore]
) -> None:
    heads = await grown(open_journal, url, 20, 300)
    store = store_at(url)
    say(store, heads[0], 0, 1)
    say(store, heads[1], 0)
    keys = [str(witness) for witness in WITNESSES]
    both, one = verify_url(url, VKEY, None, keys, 2), verify_url(url, VKEY, None, keys[:1])
    assert (both.findings, both.witnessed) == ([], heads[0].size)
    assert (one.findings, one.witnessed, one.quorum) == ([], heads[1].size, 1)
    found = witnessed(store.cosigned(10), LOG, WITNESSES, 2)
    assert (found.size, found.last[WITNESSES[0].name][0]) == (heads[0].size, heads[1].size)
    assert store.newest_of(WITNESSES[0].name)[0] == heads[1].size  # type: ignore[index]
    assert store.newest_of("w.example/9") is None


async def test_a_cosignature_of_more_records_than_there_are_or_of_others_is_a_finding(
    url: str, open_journal: Open, store_at: Callable[[str], ProofStore]
) -> None:
    (head,) = await grown(open_journal, url, 5)
    store = store_at(url)
    forged = cosign(notes.Checkpoint(ORIGIN, head.size, bytes(32)), WITNESSES[0].name, KEYS[0], 1_700_000_000)
    store.add_cosignature(head.size, WITNESSES[0].name, forged.line)
    store.add_cosignature(1000, WITNESSES[1].name, forged.line)
    findings = [str(each) for each in verify_url(url, VKEY, None, [str(WITNESSES[0])], 0).findings]
    assert any("it saw another log, or it is forged" in each for each in findings)
    assert any("w.example/1 cosigned 1000 records" in each and "the end of the log is gone" in each for each in findings)


async def test_the_proof_between_any_two_heads_is_made_from_what_is_stored(
    url: str, open_journal: Open, store_at: Callable[[str], ProofStore]
) -> None:
    heads = await grown(open_journal, url, 3, 250, 20, 300)
    store = store_at(url)
    for at, old in enumerate(heads):
        for new in heads[at:]:
            proof = store.consistency(old.size, new.size)
            assert verify_consistency(old.size, new.size, old.root, new.root, proof)


async def test_of_replicas_one_does_the_work_and_another_takes_over_when_it_is_gone(
    url: str, open_journal: Open, store_at: Callable[[str], ProofStore]
) -> None:
    await grown(open_journal, url, 1)
    one, two = store_at(url), store_at(url)
    assert (one.lease("witnesses"), two.lease("witnesses"), one.lease("witnesses")) == (True, False, True)
    assert two.lease("anchors")
    one.close()
    while not two.lease("witnesses"):  # PostgreSQL lets go of a session's locks when it notices that the session is over
        pass


async def test_what_was_said_is_never_changed_and_an_anchors_place_is_its_newest(
    url: str, open_journal: Open, store_at: Callable[[str], ProofStore]
) -> None:
    (head,) = await grown(open_journal, url, 5)
    store = store_at(url)
    say(store, head, 0)
    store.add_cosignature(head.size, WITNESSES[0].name, "another line")  # what is there stays
    store.add_timestamp(head.size, "tsa", b"token")
    for size in (3, 5):
        store.anchor("mailbox", size, 7)
    assert store.anchored() == {"mailbox": Anchored(5, 7)}
    assert verify_url(url, VKEY, None, [str(WITNESSES[0])]).ok
    with engine(parse_url(url)).connect() as connection:
        for table, column in (("ledger_cosignatures", "line"), ("ledger_timestamps", "authority")):
            for statement in (f"UPDATE {table} SET {column} = 'x'", f"DELETE FROM {table}"):
                with pytest.raises(DBAPIError, match="append-only"):
                    connection.exec_driver_sql(statement)


def move(one: Path, other: Path) -> None:
    one.rename(other)


async def test_a_store_that_is_gone_is_said_and_used_again_when_it_is_back(
    path: Path, open_journal: Open, store_at: Callable[[str], ProofStore]
) -> None:
    await grown(open_journal, f"sqlite:///{path}", 1)
    store = store_at(f"sqlite:///{path}")
    move(path, path.with_name("away"))
    with pytest.raises(StoreError):
        store.newest()
    move(path.with_name("away"), path)
    assert store.newest() is not None


def test_a_log_that_is_not_there_is_not_made(tmp_path: Path, store_at: Callable[[str], ProofStore]) -> None:
    assert not store_at(f"sqlite:///{tmp_path / 'none.db'}").exists()
    assert list(tmp_path.iterdir()) == []
