"""Append is durable on return or raises; indexes are contiguous; what was never ended is closed.  On both databases."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import checkpoint
from audit.checkpoint import Vkey
from audit.journal import Journal
from audit.model import Entry, LedgerUnavailableError, Receipt, Value
from audit.proof import verify_consistency, verify_inclusion
from audit.reader import Ledger, Record
from audit.verify_url import verify_url

from .conftest import NOON, ORIGIN, SEAL_KEY, SIGNING_KEY, VKEY, Open, denial, end, start


def kinds(url: str) -> list[str]:
    with Ledger.open(url) as ledger:
        return [record.kind for record in ledger.records()]


def clean(url: str) -> bool:
    report = verify_url(url, VKEY)
    assert report.findings == []
    return report.ok


async def test_a_record_is_in_the_log_when_append_returns(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    receipt = await journal.append(start("c1", "user:corp/ann", Value("request", b'{"id":"zz"}')))
    with Ledger.open(url, SEAL_KEY) as ledger:
        record = ledger.get("c1")
        assert record is not None
        assert (receipt.log, receipt.id, receipt.index, receipt.leaf_hash) == (ORIGIN, "c1", record.index, record.hash)
        assert ledger.open_value(record, "request") == b'{"id":"zz"}'
        assert record.subject is not None
        assert ledger.subject_name(record.subject) == "user:corp/ann"
        assert record.leaf["chain"] == [["user", record.subject], ["agent", "agent:planner"]]
        assert b"corp/ann" not in record.data
        assert b"zz" not in record.data


async def test_who_waits_for_a_record_on_its_way_is_cancelled_when_it_is_durable_and_not_before(
    url: str, open_journal: Open
) -> None:
    journal = await open_journal(url)
    await journal.append(start("c1"))
    on_its_way = journal.submit(end("e1", "c1"))
    known: list[bool] = []

    async def wait() -> None:
        try:
            await on_its_way
        except asyncio.CancelledError:
            with Ledger.open(url) as ledger:
                known.append(ledger.get("e1") is not None)
            raise

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert known == [True]
    assert (await on_its_way).id == "e1"


async def test_concurrent_appends_get_contiguous_indexes_and_each_record_is_there_once(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    receipts = await asyncio.gather(*(journal.append(denial(f"d{n}")) for n in range(500)))
    first = receipts[0].index
    assert sorted(receipt.index for receipt in receipts) == list(range(first, first + 500))
    assert journal.queued == 0
    await journal.close()
    assert clean(url)
    assert kinds(url).count("decision.deny") == 500


async def test_several_writers_share_one_log_without_gaps(url: str, open_journal: Open) -> None:
    journals = [await open_journal(url, writer=f"gw-{n}") for n in range(4)]

    async def work(journal: Journal, n: int) -> list[Receipt]:
        return [await journal.append(denial(f"d{n}-{turn}-{worker}")) for turn in range(8) for worker in range(2)]

    receipts = await asyncio.gather(*(work(journal, n) for n, journal in enumerate(journals) for _ in [0]))
    more = await asyncio.gather(*(journal.append(denial(f"m{n}-{m}")) for n, journal in enumerate(journals) for m in range(60)))
    taken = [receipt.index for some in receipts for receipt in some] + [receipt.index for receipt in more]
    assert len(set(taken)) == len(taken) == 4 * (16 + 60)
    for journal in journals:
        await journal.close()
    with Ledger.open(url) as ledger:
        assert [record.index for record in ledger.records()] == list(range(ledger.size))
    assert clean(url)


async def test_an_entry_that_is_appended_again_is_written_once(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    entry = start("c1", "user:corp/ann", Value("request", b"x"))
    receipts = [await journal.append(entry), await journal.append(entry)]
    receipts += await asyncio.gather(journal.append(entry), journal.append(entry), journal.append(denial("d1")))
    assert len({(receipt.index, receipt.leaf_hash) for receipt in receipts[:4]}) == 1
    assert kinds(url).count("call.start") == 1
    await journal.append(end("e1", "c1"))
    await journal.close()
    assert clean(url)


async def test_an_id_that_belongs_to_another_kind_of_record_is_refused_and_its_neighbours_are_written(
    url: str, open_journal: Open
) -> None:
    journal = await open_journal(url)
    await journal.append(start("c1"))
    results = await asyncio.gather(
        journal.append(denial("d1")), journal.append(denial("c1")), journal.append(denial("d2")), return_exceptions=True
    )
    assert [type(result) for result in results] == [Receipt, LedgerUnavailableError, Receipt]
    await journal.append(end("e1", "c1"))
    with pytest.raises(LedgerUnavailableError, match="closed already"):
        await journal.append(start("c1"))
    assert journal.healthy


async def test_an_entry_that_is_none_raises_at_once_and_leaves_no_trace(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    with pytest.raises(ValueError, match="not a kind"):
        await journal.append(Entry("call.begin", "x", NOON))
    assert kinds(url) == ["writer.start", "key.create"]


async def test_a_full_queue_refuses_at_once(url: str, open_journal: Open) -> None:
    journal = await open_journal(url, queue=3)
    results = await asyncio.gather(*(journal.append(denial(f"d{n}")) for n in range(10)), return_exceptions=True)
    assert [type(result) for result in results] == [Receipt] * 3 + [LedgerUnavailableError] * 7
    assert await journal.append(denial("later"))


async def test_what_waits_is_bounded_in_bytes_too(open_journal: Open) -> None:
    journal = await open_journal(stall_seconds=120.0)
    large = Value("response", bytes(40 * 1024 * 1024))
    entries = [Entry("decision.deny", f"d{n}", NOON, "user:corp/ann", {}, (large,)) for n in range(3)]
    results = await asyncio.gather(*map(journal.append, entries), return_exceptions=True)
    assert [type(result) for result in results] == [Receipt, Receipt, LedgerUnavailableError]


async def test_the_subjects_pseudonym_stays_the_same_across_records_writers_and_restarts(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    await asyncio.gather(*(journal.append(denial(f"a{n}")) for n in range(5)))
    other = await open_journal(url, writer="gw-2")
    await other.append(denial("b1"))
    await journal.close()
    journal = await open_journal(url)
    await journal.append(denial("c1"))
    with Ledger.open(url) as ledger:
        denied = [record for record in ledger.records() if record.kind == "decision.deny"]
        assert len({record.subject for record in denied}) == 1
    assert kinds(url).count("key.create") == 2, "the log's own, and one person's"


async def test_two_writers_that_meet_the_same_stranger_at_once_agree_on_the_pseudonym(url: str, open_journal: Open) -> None:
    journals = [await open_journal(url, writer=f"gw-{n}") for n in range(3)]
    await asyncio.gather(*(journal.append(denial(f"d{n}-{m}")) for m in range(20) for n, journal in enumerate(journals)))
    with Ledger.open(url) as ledger:
        assert len({record.subject for record in ledger.records() if record.kind == "decision.deny"}) == 1


async def test_records_about_nobody_have_values_too(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    await journal.append(Entry("auth.refused", "r1", NOON, None, {"peer": "127.0.0.1"}, (Value("request", b"who?"),)))
    with Ledger.open(url, SEAL_KEY) as ledger:
        record = ledger.get("r1")
        assert record is not None
        assert record.subject is None
        assert ledger.open_value(record, "request") == b"who?"


async def test_a_destroyed_key_is_the_end_of_what_it_sealed_and_the_log_verifies(url: str, open_journal: Open) -> None:
    journal, other = await open_journal(url), await open_journal(url, writer="gw-2")
    await journal.append(start("c1", "user:corp/ann", Value("request", b"about ann")))
    await journal.append(start("c2", "user:corp/bob", Value("request", b"about bob")))
    await other.append(denial("d1"))
    await journal.shred("user:corp/ann", request="REQ-1", approver="user:corp/dpo")
    await asyncio.gather(journal.append(end("e1", "c1")), other.append(denial("d2")), other.append(end("e2", "c2")))
    with Ledger.open(url, SEAL_KEY) as ledger:
        records = {record.id: record for record in ledger.records()}
        ann = records["c1"].subject
        assert ann is not None
        assert str(ledger.open_value(records["c1"], "request")) == str(ledger.subject_name(ann)) == "[erased]"
        assert ledger.open_value(records["c2"], "request") == b"about bob"
        new = records["d2"].subject
        assert new is not None
        assert new != ann, "who comes back is somebody else, for every writer"
        assert ledger.subject_name(new) == "user:corp/ann"
        assert records["e1"].subject == new
    await journal.close()
    await other.close()
    assert clean(url)


async def test_a_key_can_be_destroyed_in_the_batch_that_made_it(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    await asyncio.gather(
        journal.append(Entry("decision.deny", "first", NOON, "user:corp/eve", {}, (Value("request", b"x"),))),
        journal.append(Entry("decision.deny", "second", NOON, "user:corp/eve", {}, (Value("request", b"x"),))),
        journal.shred("user:corp/eve", request="r", approver="a"),
        journal.append(Entry("decision.deny", "third", NOON, "user:corp/eve", {}, (Value("request", b"y"),))),
    )
    with Ledger.open(url, SEAL_KEY) as ledger:
        found: dict[str, Record] = {record.id: record for record in ledger.records()}
        assert str(ledger.open_value(found["second"], "request")) == "[erased]"
        assert ledger.open_value(found["third"], "request") == b"y"
    await journal.close()
    assert clean(url)


async def test_a_person_whom_the_log_does_not_know_cannot_be_shredded(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    with pytest.raises(LookupError):
        await journal.shred("user:corp/nobody", request="r", approver="a")


async def test_checkpoints_are_signed_while_writing_and_at_the_end_and_each_continues_the_one_before(
    url: str, open_journal: Open
) -> None:
    journal = await open_journal(url, checkpoint_seconds=0.0)
    notes = set()
    for n in range(40):
        await journal.append(denial(f"d{n}"))
        notes.add(journal.checkpoint())
    await journal.close()
    last = journal.checkpoint()
    assert last is not None
    vkey = Vkey.parse(journal.vkey)
    newest = checkpoint.verify(last, vkey)
    with Ledger.open(url) as ledger:
        assert ledger.checkpoint() == last
        assert newest.size == ledger.size
        for note in notes - {None}:
            older = checkpoint.verify(str(note), vkey)
            proof = ledger.consistency(older.size, newest.size)
            assert verify_consistency(older.size, newest.size, older.root, newest.root, proof)


async def test_any_record_is_proven_to_be_under_the_checkpoint(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    receipts = await asyncio.gather(*(journal.append(denial(f"d{n}")) for n in range(700)))
    await journal.close()
    signed = checkpoint.verify(str(journal.checkpoint()), Vkey.parse(VKEY))
    with Ledger.open(url) as ledger:
        for receipt in receipts[::97] + receipts[-3:]:
            proof = ledger.inclusion(receipt.index, signed.size)
            assert verify_inclusion(receipt.index, signed.size, receipt.leaf_hash, proof, signed.root)


async def test_the_log_begins_and_ends_with_its_writers_records(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    await journal.append(denial("d1"))
    await journal.close()
    await journal.close()
    found = kinds(url)
    assert (found[0], found[-1]) == ("writer.start", "writer.stop")
    assert not journal.healthy
    with pytest.raises(LedgerUnavailableError, match="closed"):
        await journal.append(denial("d2"))


async def test_closing_writes_what_was_still_waiting(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    waiting = [asyncio.create_task(journal.append(denial(f"d{n}"))) for n in range(50)]
    await asyncio.wait(waiting, timeout=0)
    await journal.close()
    assert [type(task.result()) for task in waiting] == [Receipt] * 50
    assert clean(url)


async def test_a_start_whose_caller_went_away_is_closed_without_a_restart(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    task = asyncio.create_task(journal.append(start("c1")))
    await asyncio.wait([task], timeout=0)
    task.cancel()
    await asyncio.wait([task])
    await journal.append(denial("d1"))
    await journal.close()
    with Ledger.open(url) as ledger:
        closed = [record.leaf["call"] for record in ledger.workflow("wf-1") if record.kind == "call.orphaned"]
    assert closed == ["c1"]
    assert clean(url)


async def test_a_name_that_a_live_writer_holds_is_not_given_out_again(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    await journal.append(start("c1"))
    with pytest.raises(LedgerUnavailableError, match="another process writes as gw-1"):
        await open_journal(url)
    other = await open_journal(url, writer="gw-2")
    await other.close()
    assert "call.orphaned" not in kinds(url), "the calls of a writer that lives are its own"
    await journal.append(end("e1", "c1"))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"signing_key": Ed25519PrivateKey.generate()}, "this is the log of"),
        ({"origin": "example.org/other"}, "this is the log of"),
        ({"seal_key": b"x" * 32}, "the seal does not open"),
    ],
)
async def test_a_log_is_not_continued_under_another_name_or_key(
    url: str, open_journal: Open, changed: dict[str, Any], why: str
) -> None:
    await (await open_journal(url)).close()
    before = kinds(url)
    with pytest.raises(LedgerUnavailableError, match=why):
        await open_journal(url, **changed)
    assert kinds(url) == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "sqlite:///:memory:"},
        {"url": "sqlite://"},
        {"url": "mysql://localhost/x"},
        {"url": "postgresql://localhost/x"},
        {"url": "sqlite:////tmp/x.db?mode=memory"},
        {"url": "not a url"},
        {"origin": "with space"},
        {"seal_key": b"short"},
        {"writer": ""},
        {"writer": "ü"},
        {"queue": 0},
    ],
)
async def test_arguments_that_can_never_be_right_are_refused(open_journal: Open, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        await open_journal(**wrong)


async def test_no_secret_stands_in_a_message_about_a_bad_url(open_journal: Open) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        await open_journal("postgres://u:hunter2@[::1/x")
    assert "hunter2" not in str(caught.value)


async def test_a_folder_that_cannot_be_made_is_a_clean_refusal(tmp_path: Path, open_journal: Open) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerUnavailableError):
        await open_journal(f"sqlite:///{tmp_path}/file/ledger.db")


def strangers_view(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of every file."""
    return {file.name: (file.stat().st_mode & 0o777, file.read_bytes()) for file in folder.iterdir()}


async def test_neither_the_keys_nor_what_they_seal_are_in_the_files(path: Path, open_journal: Open) -> None:
    journal = await open_journal()
    await journal.append(start("c1", "user:corp/annabel", Value("request", b"the secret of annabel")))
    await journal.close()
    for name, (mode, data) in strangers_view(path.parent).items():
        assert mode == 0o600, name
        assert not any(secret in data for secret in (b"annabel", SEAL_KEY, SIGNING_KEY.private_bytes_raw())), name


async def test_a_journal_without_descriptors_left_says_so_and_lets_its_store_go(
    open_journal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pipe", none_left)
        with pytest.raises(LedgerUnavailableError, match="Too many open files"):
            await open_journal()
    journal = await open_journal()  # the writer's name and the file are free again
    assert journal.healthy
