"""The file ahead of a SQLite log's tables: durable when acknowledged, in the log once, whatever happens in between."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.ahead_file import SIZE, START
from audit.model import Entry, LedgerUnavailableError, Receipt, TamperedError, Value
from audit.privacy import SealKey
from audit.reader import Ledger
from audit.signer import Signer
from audit.store import IdentityError, StoreError
from audit.store_read import SqlReader
from audit.store_sql import SqlStore
from audit.verify import verify_sqlite
from audit.verify_url import verify_url
from audit.writer import Writer, shredding

from .conftest import NOON, ORIGIN, SEAL_KEY, SIGNING_KEY, VKEY, Open, denial, end, start

ANN = "user:corp/ann"
BIT_FLIPS = 400


class Process:
    """A store with a writer whose records may wait, as one process has them; `die` leaves everything as it lies."""

    def __init__(self, path: Path, name: str = "gw-1") -> None:
        self.store = SqlStore(f"sqlite:///{path}")
        self.store.claim(ORIGIN, VKEY)
        self.writer = Writer(self.store, ORIGIN, SealKey(ORIGIN, SEAL_KEY), name, lambda: 5)
        [told] = self.writer.write([Entry("writer.start", f"boot-{self.writer.boot}", NOON)])
        assert isinstance(told, Receipt)
        self.writer.may_wait = True

    def write(self, *entries: Entry) -> list[Receipt]:
        told = self.writer.write(entries)
        return [each for each in told if isinstance(each, Receipt)]

    def die(self) -> None:
        self.store.close()


@pytest.fixture
def begin(path: Path) -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def one(name: str = "gw-1", of: Path = path) -> Process:
        made.append(Process(of, name))
        return made[-1]

    yield one
    for each in made:
        each.die()


def in_tables(path: Path) -> list[str]:
    """What somebody who looks into the database's own tables sees."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT id FROM ledger_leaves ORDER BY idx").fetchall()
    connection.close()
    return [row[0] for row in rows if not row[0].startswith("boot-") and len(row[0]) < 36]  # no keys


def verified(path: Path) -> list[str]:
    return [str(finding) for finding in verify_url(f"sqlite:///{path}", VKEY).findings if "checkpoint" not in str(finding)]


def ahead(path: Path) -> Path:
    return path.with_name(path.name + "-ahead")


def warm(process: Process) -> None:
    """Ann's key is in the tables, so that what follows may stand ahead of them."""
    process.write(denial("warm"))
    process.store.settle()


def test_what_was_acknowledged_is_in_the_log_though_its_process_died_before_it_came_into_the_tables(
    path: Path, begin: Callable[..., Process]
) -> None:
    first = begin()
    warm(first)
    told = first.write(start("c1", ANN, Value("request", b"what was asked")), denial("d1")) + first.write(end("e1", "c1"))
    assert in_tables(path) == ["warm"], "else this test shows nothing"
    first.die()
    second = begin()
    second.store.settle()
    assert in_tables(path) == ["warm", "c1", "d1", "e1"]
    with SqlReader(f"sqlite:///{path}") as reader:
        found = {leaf.id: (leaf.index, leaf.hash) for leaf in reader.leaves()}
    assert [found[each.id] for each in told] == [(each.index, each.leaf_hash) for each in told]
    assert second.store.open_calls() == []
    assert verified(path) == []


def test_a_call_that_a_dead_process_left_open_ahead_of_the_tables_is_found_open(
    path: Path, begin: Callable[..., Process]
) -> None:
    first = begin()
    warm(first)
    first.write(start("c1"), start("c2"))
    first.write(end("e2", "c2"))
    first.die()
    assert [call.id for call in begin("gw-2").store.open_calls()] == ["c1"]


def test_whoever_verifies_the_files_of_a_dead_process_hears_what_is_not_in_the_database_yet(
    path: Path, begin: Callable[..., Process]
) -> None:
    first = begin()
    warm(first)
    first.write(denial("d1"), denial("d2"))
    first.die()
    [note] = [note for note in verify_sqlite(path, VKEY).notes if "-ahead" in note]
    assert note.startswith("2 records were acknowledged")
    with SqlReader(f"sqlite:///{path}") as reader:
        assert reader.unsettled == 2
    begin().store.settle()
    assert not [note for note in verify_sqlite(path, VKEY).notes if "-ahead" in note]


def test_no_damage_of_the_file_makes_a_record_of_what_was_not_written_nor_loses_one_before_it(
    path: Path, begin: Callable[..., Process], tmp_path: Path
) -> None:
    """Cut at any byte, or any bit flipped, of the last frame: what came before it is there, and it is whole or not there."""
    first = begin()
    warm(first)
    first.write(denial("d1"))
    before = ahead(path).read_bytes()
    first.write(denial("d2"))
    after = ahead(path).read_bytes()
    [begins, *_] = (at for at in range(START, SIZE) if before[at] != after[at])
    ends = len(after.rstrip(b"\0"))
    first.die()
    chance = random.Random(7)
    for number in range(BIT_FLIPS):
        damaged = bytearray(after)
        if number % 2:
            damaged[chance.randrange(begins, ends)] ^= 1 << chance.randrange(8)
        else:
            at = chance.randrange(begins, ends)
            damaged[at:] = bytes(len(damaged) - at)
        damaged[32:40] = (99).to_bytes(8, "little")  # its page is not what counts
        with_damage = tmp_path / f"damaged-{number}" / "ledger.db"
        with_damage.parent.mkdir()
        shutil.copy(path, with_damage)
        ahead(with_damage).write_bytes(damaged)
        begin(of=with_damage).die()
        assert in_tables(with_damage) in (["warm", "d1"], ["warm", "d1", "d2"]), number
        assert in_tables(with_damage) == ["warm", "d1"] or bytes(damaged[:ends][START:]) == after[START:ends]
        shutil.rmtree(with_damage.parent)


def test_what_is_in_the_tables_never_comes_into_them_again(path: Path, begin: Callable[..., Process]) -> None:
    first = begin()
    warm(first)
    first.write(denial("d1"))
    left = ahead(path).read_bytes()
    first.store.settle()
    first.write(denial("d2"))
    first.store.settle()
    first.die()
    ahead(path).write_bytes(left)  # an older state of the file, as a backup may hold it
    second = begin()
    second.write(denial("d3"))
    second.store.settle()
    assert in_tables(path) == ["warm", "d1", "d2", "d3"]
    assert verified(path) == []


def test_a_database_that_was_set_back_below_what_waits_for_it_is_not_written(path: Path, begin: Callable[..., Process]) -> None:
    first = begin()
    warm(first)
    first.store.close()
    older = path.read_bytes()
    first = begin()
    first.write(denial("d1"))
    first.store.settle()
    first.write(denial("d2"))
    first.die()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(older)
    with pytest.raises(TamperedError, match="it was set back"):
        begin()


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("broken", ["pwrite", "fdatasync"])
def test_a_batch_of_which_the_disk_did_not_say_whether_it_took_it_is_refused_and_stands_in_one_way_alone(
    path: Path, begin: Callable[..., Process], monkeypatch: pytest.MonkeyPatch, broken: str, made: bool, dies: bool
) -> None:
    """It may be found in the file later: what is in the log, in a spool and there has to be the same bytes."""
    first = begin()
    warm(first)
    first.write(start("c1"))
    real = getattr(os, broken)

    def fails(*given: object) -> int:
        if made:
            real(*given)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, broken, fails)
        with pytest.raises(StoreError, match="Input/output error"):
            first.write(start("unsure"))
    unsure = first.writer.unanswered
    assert unsure is not None
    if dies:
        first.die()
        first = begin()
    assert [each.id for each in first.write(denial("d1"), end("e1", "c1"))] == ["d1", "e1"]
    first.store.settle()
    first.die()
    begin().store.settle()
    assert [each for each in in_tables(path) if each != "unsure"] == ["warm", "c1", "d1", "e1"]
    assert "unsure" in in_tables(path) or (dies and not (made or broken == "fdatasync"))
    with SqlReader(f"sqlite:///{path}") as reader:
        found = reader.leaf("unsure")
    assert found is None or found.hash == unsure.batch.leaves[-1][2]
    assert verified(path) == []


@pytest.mark.parametrize("how", ["removed", "exchanged", "linked"])
def test_a_file_that_is_no_longer_the_one_at_its_path_takes_no_record(
    path: Path, begin: Callable[..., Process], tmp_path: Path, how: str
) -> None:
    first = begin()
    warm(first)
    first.write(denial("d1"))
    if how == "linked":
        os.link(ahead(path), tmp_path / "another-name")
    else:
        ahead(path).rename(tmp_path / "elsewhere")
    if how == "exchanged":
        ahead(path).write_bytes((tmp_path / "elsewhere").read_bytes())
    with pytest.raises(IdentityError, match="removed or exchanged"):
        first.write(denial("d2"))


def test_a_file_with_a_second_name_is_refused_at_once_and_taken_when_that_is_gone(
    path: Path, begin: Callable[..., Process], tmp_path: Path
) -> None:
    first = begin()
    warm(first)
    os.link(ahead(path), tmp_path / "backup")
    with pytest.raises(IdentityError, match="a hard link"):
        first.write(denial("d1"))
    (tmp_path / "backup").unlink()
    assert [each.id for each in first.write(denial("d2"))] == ["d2"]


def test_what_was_acknowledged_is_never_passed_over_because_another_record_took_its_place(
    path: Path, begin: Callable[..., Process]
) -> None:
    """Somebody takes the file away, so that another process cannot see the lock."""
    first = begin()
    warm(first)
    first.write(denial("a1"))
    ahead(path).unlink()
    second = begin("gw-2")
    second.write(denial("b1"))
    second.store.settle()
    with pytest.raises(TamperedError, match="acknowledged"):
        first.store.settle()


def test_while_the_tables_take_nothing_no_more_is_acknowledged_and_readers_wait_for_it_once(
    path: Path, begin: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit.store_connect._BUSY_SECONDS", 0.02)
    monkeypatch.setattr("audit.store_read._PATIENCE", 0.02)
    first = begin()
    warm(first)
    first.write(denial("d1"))
    held = sqlite3.connect(path, isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        first.store.settle()
    with pytest.raises(StoreError, match="locked"):
        first.write(denial("d2"))
    with SqlReader(f"sqlite:///{path}") as reader:
        waited = reader._settled
        assert reader.head().size == waited - 1
        assert reader._settled == waited
    held.execute("ROLLBACK")
    assert [each.id for each in first.write(denial("d3"))] == ["d3"]
    first.store.settle()
    assert in_tables(path) == ["warm", "d1", "d3"]


def test_a_new_person_an_erasure_and_a_hold_wait_for_nothing(path: Path, begin: Callable[..., Process]) -> None:
    first = begin()
    warm(first)
    first.write(denial("d1"))
    first.write(start("c1", "user:corp/bob", Value("request", b"from somebody new")))
    assert in_tables(path) == ["warm", "d1", "c1"]
    first.write(denial("d2"))
    first.writer.write([shredding(ANN, "request-1", "user:corp/dpo", NOON)])
    with SqlReader(f"sqlite:///{path}") as reader:
        assert reader.subject_by(SealKey(ORIGIN, SEAL_KEY).lookup(ANN)) is None
    assert in_tables(path) == ["warm", "d1", "c1", "d2"]
    assert first.store.unsettled == 0
    assert ahead(path).read_bytes()[START:] == bytes(SIZE - START), "what was sealed for who was erased lies there no more"


@pytest.mark.parametrize("settles", [False, True])
def test_an_id_is_written_once_and_a_call_is_ended_once_wherever_they_stand(
    path: Path, begin: Callable[..., Process], settles: bool
) -> None:
    first = begin()
    warm(first)
    [told] = first.write(start("c1"))
    first.write(denial("zz"))
    if settles:
        first.store.settle()
    [again] = first.write(start("c1"))
    assert (again.index, again.leaf_hash) == (told.index, told.leaf_hash)
    first.write(end("e1", "c1"))
    if settles:
        first.store.settle()
    [late] = first.writer.write([end("e2", "c1")])
    assert isinstance(late, LedgerUnavailableError)
    first.store.settle()
    assert sorted(in_tables(path)) == ["c1", "e1", "warm", "zz"]


async def test_two_journals_of_one_file_take_turns_and_leave_no_gap(path: Path, open_journal: Open) -> None:
    journals = [await open_journal(writer=f"gw-{number}") for number in range(2)]
    receipts = await asyncio.gather(
        *(journal.append(denial(f"{place}-{number}")) for place, journal in enumerate(journals) for number in range(150))
    )
    indexes = sorted(receipt.index for receipt in receipts)
    assert len(set(indexes)) == 300
    for journal in journals:
        await journal.close()
    with Ledger.open(f"sqlite:///{path}") as ledger:
        there = [record.index for record in ledger.records()]
    assert there == list(range(len(there)))
    assert verify_url(f"sqlite:///{path}", VKEY).findings == []


async def test_whoever_reads_sees_what_was_acknowledged_before(path: Path, open_journal: Open) -> None:
    journal = await open_journal()
    with Ledger.open(f"sqlite:///{path}") as ledger:
        for number in range(60):
            await journal.append(denial(f"d{number}"))
            assert await asyncio.to_thread(ledger.get, f"d{number}") is not None


async def test_a_database_that_takes_nothing_stops_new_records_and_loses_none(
    path: Path, open_journal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit.store_connect._BUSY_SECONDS", 0.02)
    monkeypatch.setattr("audit.journal._PROBE_SECONDS", 0.02)
    journal = await open_journal()
    await journal.append(denial("warm"))
    with SqlReader(f"sqlite:///{path}"):
        pass
    blocking = sqlite3.connect(path, isolation_level=None)
    blocking.execute("BEGIN IMMEDIATE")
    taken = []

    async def until_refused() -> None:
        for number in range(10_000):
            taken.append((await journal.append(denial(f"d{number}"))).id)  # noqa: PERF401  kept when it ends

    with pytest.raises(LedgerUnavailableError, match="locked"):
        await until_refused()
    assert not journal.healthy
    blocking.execute("ROLLBACK")
    while not journal.healthy:
        await asyncio.to_thread(in_tables, path)
    await journal.append(denial("after"))
    await journal.close()
    assert taken
    assert in_tables(path) == ["warm", *taken, "after"]
    assert verify_url(f"sqlite:///{path}", VKEY).findings == []


STEPS = st.lists(st.sampled_from(["start", "end", "deny", "settle", "crash", "other", "person"]), min_size=4, max_size=40)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 2**16))
def test_whatever_happens_in_whatever_order_the_log_is_what_was_acknowledged(
    steps: list[str], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("law") / "ledger.db"
    chance, acknowledged, open_calls = random.Random(seed), [], []
    process = Process(path)
    others = 0
    for number, step in enumerate(steps):
        if step == "settle":
            process.store.settle()
        elif step == "crash":
            process.die()
            process = Process(path)
        elif step == "other":  # another process, once this one has put away what it has
            process.store.settle()
            others += 1
            other = Process(path, f"other-{others}")
            acknowledged += [each.id for each in other.write(denial(f"other-{number}"))]
            other.die()
        elif step == "end" and open_calls:
            call = open_calls.pop(chance.randrange(len(open_calls)))
            acknowledged += [each.id for each in process.write(end(f"end-{number}", call))]
        elif step == "start":
            acknowledged += [each.id for each in process.write(start(f"call-{number}", ANN, Value("request", b"x" * 300)))]
            open_calls.append(f"call-{number}")
        else:
            who = f"user:corp/{number}" if step == "person" else ANN
            acknowledged += [each.id for each in process.write(start(f"deny-{number}", who))]
            open_calls.append(f"deny-{number}")
    acknowledged += [each.id for each in process.write(denial("last"))]
    process.store.settle()
    there = sorted(call.id for call in process.store.open_calls())
    process.store.claim(ORIGIN, VKEY)
    Signer(process.store, ORIGIN, SIGNING_KEY).sign()
    process.die()
    assert in_tables(path) == acknowledged
    assert there == sorted(open_calls)
    assert [str(finding) for finding in verify_url(f"sqlite:///{path}", VKEY).findings] == []
