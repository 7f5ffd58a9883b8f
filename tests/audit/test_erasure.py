"""Erasing a person leaves every proof as it was, and nothing of them that anybody could read, in either database."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from audit.erasure import Sweeper
from audit.model import Entry, HeldError, Value
from audit.proof import verify_inclusion
from audit.reader import Ledger, Shredded
from audit.store import StoreError
from audit.verify_url import verify_url

from .conftest import NOON, SEAL_KEY, VKEY, Open, start, tamper

SECRET = b"what ann asked, 4711-kestrel"
ANN, BOB = "user:corp/ann-kestrel", "user:corp/bob"


def files(url: str, postgres_folder: Path | None) -> Iterator[tuple[Path, bytes]]:
    """Everything that the store keeps on disk: of PostgreSQL, heaps, indexes and what is too long for a row."""
    if postgres_folder is None:
        folder = Path(make_url(url).database or "").parent
        found = [file for file in folder.rglob("*") if file.is_file()]
    else:
        rows(url, "CHECKPOINT")  # pages go to their files
        ((number,),) = rows(url, "SELECT oid FROM pg_database WHERE datname = current_database()")
        found = [file for file in (postgres_folder / "data" / "base" / str(number)).iterdir() if file.is_file()]
    for file in found:
        yield file, file.read_bytes()


def holding(needle: bytes, url: str, postgres_folder: Path | None) -> list[str]:
    return [file.name for file, data in files(url, postgres_folder) if needle in data]


@pytest.fixture
def postgres_folder(url: str, request: pytest.FixtureRequest) -> Path | None:
    return None if url.startswith("sqlite") else request.getfixturevalue("postgres").folder


def rows(url: str, statement: str) -> list[Any]:
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        done = connection.exec_driver_sql(statement)
        found = done.all() if done.returns_rows else []
    return [tuple(bytes(each) if isinstance(each, memoryview) else each for each in row) for row in found]


async def test_nothing_of_an_erased_person_is_left_in_any_file_and_every_proof_stays_valid(
    url: str, open_journal: Open, postgres_folder: Path | None
) -> None:
    journal, other = await open_journal(url), await open_journal(url, writer="gw-2")
    receipt = await journal.append(start("c1", ANN, Value("request", SECRET), Value("facts", SECRET * 200)))
    await other.append(start("c2", BOB, Value("request", b"bob's own")))
    with Ledger.open(url, SEAL_KEY) as log:
        pseudonym = log.pseudonym(ANN)
        proof, size = log.inclusion(receipt.index, log.size), log.size
        root = verify_url(url, VKEY).root
    (row,) = rows(url, f"SELECT lookup, dek, name FROM ledger_subjects WHERE pseudonym = '{pseudonym}'")
    sealed = [each[0] for each in rows(url, f"SELECT sealed FROM ledger_openings WHERE idx = {receipt.index}")]
    assert all(holding(part, url, postgres_folder) for part in row)  # the search finds what is there
    assert all(holding(part[:200], url, postgres_folder) for part in sealed)  # PostgreSQL keeps a long one in pieces
    assert len(sealed) == 2
    await journal.shred(ANN, request="r-1", approver="user:corp/dpo")
    sweeper = Sweeper(url)
    assert sweeper.pending() == [pseudonym]
    assert await asyncio.to_thread(sweeper.sweep) == 2
    assert sweeper.pending() == []
    assert await asyncio.to_thread(sweeper.sweep) == 0
    sweeper.close()
    assert [part for part in row if holding(part, url, postgres_folder)] == []
    for plain in (SECRET, ANN.encode(), b"kestrel", SEAL_KEY, b"user:corp/dpo"):
        assert holding(plain, url, postgres_folder) == []
    assert [part for part in sealed if holding(part[:200], url, postgres_folder)] == []
    assert rows(url, f"SELECT count(*) FROM ledger_openings WHERE idx = {receipt.index}") == [(0,)]
    with Ledger.open(url, SEAL_KEY) as log:
        found = log.get("c1")
        assert found is not None
        assert verify_inclusion(receipt.index, size, found.hash, proof, base64.b64decode(root))
        assert log.open_value(found, "request") == Shredded(str(pseudonym))
        assert log.subject_name(str(pseudonym)) == Shredded(str(pseudonym))
        theirs = log.get("c2")
        assert theirs is not None
        assert log.open_value(theirs, "request") == b"bob's own"
    await other.append(start("c3", ANN, Value("request", b"back again")))  # under another pseudonym
    report = verify_url(url, VKEY)
    assert report.findings == []
    with Ledger.open(url, SEAL_KEY) as log:
        assert log.pseudonym(ANN) not in {None, pseudonym}


async def test_a_sweep_that_was_cut_off_goes_on_where_it_was(
    path: Path, open_journal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit.erasure.CHUNK", 3)
    url = f"sqlite:///{path}"
    journal = await open_journal(url)
    for n in range(9):
        await journal.append(Entry("decision.deny", f"d{n}", NOON, ANN, {}, (Value("request", SECRET),)))
    await journal.shred(ANN, request="r-1", approver="os:op")

    def stop(done: int, _of: int) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    first = Sweeper(url)
    with pytest.raises(KeyboardInterrupt):
        first.sweep(stop)
    assert len(rows(url, "SELECT * FROM ledger_openings")) not in {0, 9}
    assert verify_url(url, VKEY).findings == []
    again: list[int] = []
    second = Sweeper(url)
    second.sweep(lambda done, _of: again.append(done))
    assert again[0] > 6  # what was looked through is not looked through again
    assert rows(url, "SELECT * FROM ledger_openings") == []
    for sweeper in (first, second):
        sweeper.close()


async def test_while_a_reader_keeps_the_write_ahead_log_the_erasure_is_not_called_done(path: Path, open_journal: Open) -> None:
    journal = await open_journal(f"sqlite:///{path}")
    await journal.append(start("c1", ANN, Value("request", SECRET)))
    sweeper = Sweeper(f"sqlite:///{path}")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM ledger_leaves").fetchone()
        await journal.shred(ANN, request="r-1", approver="os:op")
        with pytest.raises(StoreError, match="somebody reads the ledger"):
            sweeper.sweep()
        assert len(sweeper.pending()) == 1
        reader.execute("COMMIT")
    sweeper.sweep()
    assert sweeper.pending() == []
    sweeper.close()


async def test_a_legal_hold_refuses_erasure_until_it_is_cleared(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    await journal.append(start("c1", ANN, Value("request", SECRET)))
    reason = (Value("reason", b"case 12/34"),)
    await journal.append(Entry("hold.set", "h1", NOON, "user:corp/dpo", {}, reason, {"target": ANN}))
    with pytest.raises(HeldError) as refused:
        await journal.shred(ANN, request="r-1", approver="os:op")
    assert refused.value.hold == "h1"
    with Ledger.open(url, SEAL_KEY) as log:
        assert log.holds() == [("h1", log.pseudonym(ANN))]
        found = log.get("c1")
        assert found is not None
        assert log.open_value(found, "request") == SECRET
    await journal.append(Entry("hold.set", "h2", NOON, "user:corp/dpo", {"target": "log"}, reason))  # on everybody
    await journal.append(Entry("hold.clear", "x1", NOON, "user:corp/dpo", {"hold": "h1"}))
    with pytest.raises(HeldError, match="h2"):
        await journal.shred(ANN, request="r-1", approver="os:op")
    with pytest.raises(LookupError, match="no legal hold"):
        await journal.append(Entry("hold.clear", "x2", NOON, "user:corp/dpo", {"hold": "h1"}))
    together = await asyncio.gather(  # a hold that came first, in one batch with the wish
        journal.append(Entry("hold.clear", "x3", NOON, "user:corp/dpo", {"hold": "h2"})),
        journal.append(Entry("hold.set", "h3", NOON, "user:corp/dpo", {}, reason, {"target": ANN})),
        journal.shred(ANN, request="r-1", approver="os:op"),
        return_exceptions=True,
    )
    assert isinstance(together[2], HeldError)
    assert verify_url(url, VKEY).findings == []
    await journal.append(Entry("hold.clear", "x4", NOON, None, {"hold": "h3"}))
    await journal.shred(ANN, request="r-1", approver="os:op")
    assert verify_url(url, VKEY).findings == []


async def test_a_hold_that_somebody_takes_out_of_the_database_is_missed(path: Path, open_journal: Open) -> None:
    journal = await open_journal(f"sqlite:///{path}")
    await journal.append(start("c1", ANN, Value("request", SECRET)))
    await journal.append(Entry("hold.set", "h1", NOON, None, {}, (), {"target": ANN}))
    tamper(path, "DELETE FROM ledger_holds")
    assert [f.message for f in verify_url(f"sqlite:///{path}", VKEY).findings] == [
        "the list of legal holds and the records differ"
    ]
    await journal.shred(ANN, request="r-1", approver="os:op")  # the insider's aim
    messages = "\n".join(map(str, verify_url(f"sqlite:///{path}", VKEY).findings))
    assert "the key of the subject was destroyed under a legal hold" in messages


async def test_what_is_about_two_people_stands_in_an_envelope_for_each(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    values = (Value("request", b"whole: ann and bob"), Value("question", b"about bob", BOB))
    await journal.append(Entry("decision.evaluate", "q1", NOON, ANN, {}, values, {"about": BOB}))
    with Ledger.open(url, SEAL_KEY) as log:
        found = log.get("q1")
        assert found is not None
        bob = log.pseudonym(BOB)
        assert (found.leaf["about"], found.owner("question"), found.owner("request")) == (bob, bob, log.pseudonym(ANN))
        assert [log.open_value(found, name) for name in ("request", "question")] == [b"whole: ann and bob", b"about bob"]
    await journal.shred(BOB, request="r-1", approver="user:corp/dpo")
    sweeper = Sweeper(url)
    assert await asyncio.to_thread(sweeper.sweep) == 1
    sweeper.close()
    with Ledger.open(url, SEAL_KEY) as log:
        found = log.get("q1")
        assert found is not None
        assert log.open_value(found, "request") == b"whole: ann and bob"
        assert isinstance(log.open_value(found, "question"), Shredded)
        (opened,) = log.opened(["decision.evaluate"], ["request", "question"])
        assert (opened.values["request"], opened.values["question"]) == (b"whole: ann and bob", Shredded(str(bob)))
    assert verify_url(url, VKEY).findings == []


async def test_a_leaf_never_names_the_people_that_its_entry_names(path: Path, open_journal: Open) -> None:
    journal = await open_journal(f"sqlite:///{path}")
    await journal.append(start("c1", ANN))
    await journal.append(Entry("erasure.ask", "e1", NOON, "user:corp/dpo", {}, (Value("reason", b"asked to"),), {"target": ANN}))
    await journal.shred(ANN, request="e1", approver="user:corp/second")
    leaves = b"".join(row[0] for row in rows(f"sqlite:///{path}", "SELECT data FROM ledger_leaves"))
    assert b'"approver":"s_' in leaves
    assert not any(name in leaves for name in (b"kestrel", b"corp/dpo", b"corp/second"))
