"""Every way in which a store can fail a writer: refused or recovered, and never a record twice or a lost one acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from audit.model import Entry, LedgerUnavailableError, Receipt, TamperedError, Value
from audit.privacy import SealKey
from audit.reader import Ledger
from audit.signer import Signer
from audit.store import Batch, Head, StoredLeaf, StoreError, Turn
from audit.store_connect import engine, parse_url, sqlite_path
from audit.store_sql import SqlStore
from audit.verify_url import verify_url
from audit.writer import Writer
from tests.held_ledger import kept_from_writing

from .conftest import ORIGIN, SEAL_KEY, SIGNING_KEY, VKEY, Open, denial, end, start, tamper


class Failing:
    """The real store, with a fault at one place of one turn."""

    def __init__(self, url: str) -> None:
        self.real = SqlStore(url)
        self.faults: dict[str, int] = {}  # where → how many more times

    def turn(self, *, may_wait: bool = False) -> AbstractContextManager[Turn]:
        return self._turn(may_wait)

    @contextlib.contextmanager
    def _turn(self, may_wait: bool) -> Iterator[Turn]:
        self._fail("before the lock")
        with self.real.turn(may_wait=may_wait) as turn:
            self._fail("under the lock")
            yield _FailingTurn(turn, self._fail)
            self._fail("before the commit")
        self._fail("after the commit")

    def _fail(self, where: str) -> None:
        if self.faults.get(where, 0) > 0:
            self.faults[where] -= 1
            raise StoreError(where)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class _FailingTurn:
    def __init__(self, real: Turn, fail: Callable[[str], None]) -> None:
        self._real = real
        self._fail = fail

    @property
    def head(self) -> Head:
        return self._real.head

    def existing(self, ids: list[str]) -> dict[str, StoredLeaf]:
        self._fail("while looking")
        return self._real.existing(ids)

    def write(self, batch: Batch, size: int, frontier: bytes) -> None:
        self._fail("before writing")
        self._real.write(batch, size, frontier)
        self._fail("after writing")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def store(url: str) -> Iterator[Failing]:
    failing = Failing(url)
    failing.claim(ORIGIN, VKEY)
    yield failing
    failing.close()


@pytest.fixture
def writer(store: Failing) -> Writer:
    writer = Writer(store, ORIGIN, SealKey(ORIGIN, SEAL_KEY), "gw-1", lambda: 5)
    writer.write([Entry("writer.start", "boot", 5)])
    Signer(store, ORIGIN, SIGNING_KEY).sign()  # as a journal does at its start
    return writer


def in_log(url: str) -> list[str]:
    with Ledger.open(url) as ledger:
        return [record.id for record in ledger.records() if not record.kind.startswith(("writer", "key"))]


def call(name: str) -> Entry:
    return start(name, "user:corp/ann", Value("request", b"x"))


def remove(path: Path) -> None:
    path.unlink()


def move(path: Path, to: Path) -> None:
    path.replace(to)


def damage(path: Path) -> None:
    path.with_name("ledger.db.signed").write_text("{}")


def beside(path: Path) -> list[str]:
    return [file.name for file in path.parent.iterdir()]


PERSISTED = ("after the commit",)
LOST = ("before the lock", "under the lock", "before writing", "after writing", "before the commit")


@pytest.mark.parametrize("where", LOST)
def test_a_batch_that_the_store_lost_is_not_there_and_the_next_one_goes_on(
    url: str, store: Failing, writer: Writer, where: str
) -> None:
    store.faults[where] = 1
    with pytest.raises(StoreError, match=where):
        writer.write([call("lost"), denial("lost-too")])
    assert in_log(url) == []
    assert isinstance(writer.write([denial("next")])[0], Receipt)
    assert in_log(url) == ["next"]
    assert verify_url(url, VKEY).findings == []


def test_a_batch_whose_answer_was_lost_is_found_and_its_calls_are_closed(url: str, store: Failing, writer: Writer) -> None:
    store.faults["after the commit"] = 1
    with pytest.raises(StoreError):
        writer.write([call("unanswered"), denial("unanswered-too")])
    writer.write([denial("next")])
    found = in_log(url)
    assert (found[:2], found[-1]) == (["unanswered", "unanswered-too"], "next")
    with Ledger.open(url) as ledger:
        [orphan] = [record for record in ledger.records() if record.kind == "call.orphaned"]
    assert (orphan.leaf["call"], orphan.leaf["reason"]) == ("unanswered", "not acknowledged")
    report = verify_url(url, VKEY)
    assert (report.findings, report.open_calls) == ([], 0)


@pytest.mark.parametrize("where", PERSISTED + LOST)
def test_the_same_entries_again_after_any_failure_are_there_exactly_once(
    url: str, store: Failing, writer: Writer, where: str
) -> None:
    batch = [call("c1"), call("c2"), denial("d1")]
    store.faults[where] = 1
    with pytest.raises(StoreError):
        writer.write(batch)
    results = writer.write(batch)
    assert [type(result) for result in results] == [Receipt] * 3
    assert in_log(url) == ["c1", "c2", "d1"]
    writer.write([end("e1", "c1"), end("e2", "c2")])
    report = verify_url(url, VKEY)
    assert (report.findings, report.open_calls) == ([], 0)


@pytest.mark.parametrize("where", PERSISTED + LOST)
def test_two_failures_in_a_row_change_nothing_of_that(url: str, store: Failing, writer: Writer, where: str) -> None:
    store.faults[where] = 1
    store.faults["before the lock"] = store.faults.get("before the lock", 0) + 1
    for _ in range(2):
        with pytest.raises(StoreError):
            writer.write([denial("d1")])
    writer.write([denial("d1")])
    assert in_log(url) == ["d1"]
    assert verify_url(url, VKEY).findings == []


@pytest.mark.parametrize("where", [*PERSISTED, "before the commit"])
def test_a_batch_is_not_forgotten_when_the_look_for_it_fails_too(url: str, store: Failing, writer: Writer, where: str) -> None:
    store.faults |= {where: 1, "while looking": 1}
    for record in ("d1", "d2"):
        with pytest.raises(StoreError):
            writer.write([denial(record)])
    writer.write([denial("d3")])
    assert in_log(url) == (["d1", "d3"] if where in PERSISTED else ["d3"])
    assert verify_url(url, VKEY).findings == []


async def test_a_ledger_whose_file_is_removed_is_not_written_into_any_more(path: Path, open_journal: Open) -> None:
    journal = await open_journal()
    await journal.append(denial("d1"))
    remove(path)
    with pytest.raises(LedgerUnavailableError, match="gone"):
        await journal.append(denial("d2"))
    assert not journal.healthy
    assert path.name not in beside(path), "no new log is begun behind everybody's back"


async def test_a_ledger_whose_file_is_exchanged_is_not_written_into_any_more(path: Path, open_journal: Open) -> None:
    journal = await open_journal()
    await journal.append(denial("d1"))
    kept = path.with_name("kept")
    move(path, kept)
    shutil.copy(kept, path)
    with pytest.raises(LedgerUnavailableError, match="exchanged"):
        await journal.append(denial("d2"))
    move(kept, path)
    await journal.append(denial("d3"))
    assert journal.healthy


async def test_a_ledger_whose_file_gets_another_name_is_not_written_into_until_that_is_gone(
    path: Path, open_journal: Open
) -> None:
    journal = await open_journal()
    await journal.append(denial("d1"))
    path.with_name("other").hardlink_to(path)
    with pytest.raises(LedgerUnavailableError, match="hard link"):
        await journal.append(denial("d2"))
    with pytest.raises(LedgerUnavailableError, match="hard link"):
        await open_journal(writer="gw-2")
    path.with_name("other").unlink()
    await journal.append(denial("d3"))
    assert journal.healthy


async def test_a_write_ahead_log_that_is_removed_is_noticed(path: Path, open_journal: Open) -> None:
    journal = await open_journal()
    await journal.append(denial("d1"))
    remove(path.with_name(f"{path.name}-wal"))
    with pytest.raises(LedgerUnavailableError, match="gone"):
        await journal.append(denial("d2"))
    assert not journal.healthy


async def test_a_log_that_is_set_back_to_a_backup_is_not_continued(path: Path, open_journal: Open) -> None:
    journal = await open_journal()
    await journal.append(denial("d1"))
    await journal.close()
    backup = shutil.copy(path, path.with_name("backup"))
    journal = await open_journal()
    await journal.append(denial("d2"))
    await journal.close()
    shutil.copy(backup, path)
    with pytest.raises(LedgerUnavailableError, match="it was set back"):
        await open_journal()


async def test_without_the_file_of_the_last_signed_head_the_whole_log_is_read_again_and_compared(
    path: Path, open_journal: Open
) -> None:
    journal = await open_journal()
    for n in range(5):
        await journal.append(denial(f"d{n}"))
    await journal.close()
    signed = path.with_name("ledger.db.signed")
    signed.unlink()
    await (await open_journal()).close()
    assert signed.exists()
    signed.write_text("{}")
    with pytest.raises(LedgerUnavailableError, match="damaged"):
        await open_journal()
    signed.unlink()
    tamper(path, "UPDATE ledger_leaves SET data = replace(data, 'wf-1', 'wf-2') WHERE idx = 3;")
    with pytest.raises(LedgerUnavailableError, match="leaf 3 is not what was stored"):
        await open_journal()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("UPDATE ledger_leaves SET data = replace(data, 'wf-1', 'wf-2') WHERE id = 'd1';", "is not what was stored there"),
        (
            "UPDATE ledger_leaves SET data = CAST(replace(data, 'wf-1', 'wf-2') AS BLOB) WHERE id = 'd1';",
            "is not what was stored there",
        ),
        ("UPDATE ledger_leaves SET hash = randomblob(32) WHERE id = 'd1';", "is not what was stored there"),
        ("UPDATE ledger_leaves SET idx = idx + 5 WHERE id = 'd2';", "do not make up the tree"),
        ("DELETE FROM ledger_leaves WHERE id = 'd2';", "do not make up the tree"),
        ("UPDATE ledger_head SET frontier = randomblob(length(frontier));", "do not make up the tree"),
    ],
)
async def test_what_changed_between_writing_and_signing_is_never_signed(
    path: Path, open_journal: Open, script: str, why: str
) -> None:
    journal = await open_journal()
    await journal.append(denial("d1"))
    await journal.append(denial("d2"))
    tamper(path, script)
    await journal.close()
    assert why in journal.healthy.reason
    with Ledger.open(f"sqlite:///{path}") as ledger:
        newest = ledger.checkpoint()
        assert newest is not None
        assert int(newest.split("\n")[1]) < ledger.size
    with pytest.raises(LedgerUnavailableError, match=why):
        await open_journal()


async def test_a_log_that_shrinks_under_its_writer_is_not_written_any_more(path: Path, open_journal: Open) -> None:
    journal = await open_journal()
    await journal.append(denial("d1"))
    await journal.append(denial("d2"))
    tamper(path, "DELETE FROM ledger_leaves WHERE id = 'd2'; UPDATE ledger_head SET size = size - 1;")
    for _ in range(2):
        with pytest.raises(LedgerUnavailableError, match="tampered"):
            await journal.append(denial("d3"))
    assert "set back" in journal.healthy.reason


@pytest.mark.parametrize("script", ["DELETE FROM ledger_head;", "UPDATE ledger_head SET frontier = 'text', size = 1;"])
async def test_a_log_whose_head_is_gone_or_is_no_head_is_not_written_any_more(
    path: Path, open_journal: Open, script: str
) -> None:
    journal = await open_journal()
    await journal.append(denial("d1"))
    tamper(path, script)
    with pytest.raises(LedgerUnavailableError, match="tampered"):
        await journal.append(denial("d2"))
    assert not journal.healthy


async def test_a_subject_whose_stored_key_is_damaged_gets_no_records_and_others_do(path: Path, open_journal: Open) -> None:
    journal = await open_journal()
    await journal.append(start("c1", "user:corp/ann"))
    await journal.close()
    tamper(path, "UPDATE ledger_subjects SET dek = randomblob(length(dek)) WHERE pseudonym <> 'log';")
    journal = await open_journal()
    with pytest.raises(LedgerUnavailableError, match="damaged"):
        await journal.append(start("c2", "user:corp/ann"))
    await journal.append(start("c3", "user:corp/bob"))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_leaves SET data = x'00'",
        "DELETE FROM ledger_leaves",
        "INSERT OR REPLACE INTO ledger_leaves SELECT 0, id, hash, data FROM ledger_leaves WHERE idx = 1",
        "INSERT INTO ledger_leaves VALUES (999, 'x', x'00', x'00')",
        "INSERT INTO ledger_leaves VALUES (-1, 'x', x'00', x'00')",
        "UPDATE ledger_checkpoints SET note = ''",
        "DELETE FROM ledger_checkpoints",
        "UPDATE ledger_openings SET sealed = x'00'",
    ],
)
async def test_the_database_itself_refuses_to_change_what_was_written(path: Path, open_journal: Open, statement: str) -> None:
    journal = await open_journal()
    await journal.append(start("c1", "user:corp/ann", Value("request", b"x")))
    await journal.close()
    with contextlib.closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)


@pytest.mark.postgres
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_leaves SET data = ''",
        "DELETE FROM ledger_leaves",
        "TRUNCATE ledger_leaves",
        "DELETE FROM ledger_checkpoints",
        "TRUNCATE ledger_nodes",
        "UPDATE ledger_openings SET sealed = ''",
        "SET session_replication_role = replica; DELETE FROM ledger_leaves",
    ],
)
async def test_postgresql_refuses_to_change_what_was_written_even_for_a_superuser(
    postgres: Any, postgres_url: str, open_journal: Open, statement: str
) -> None:
    journal = await open_journal(postgres_url)
    await journal.append(start("c1", "user:corp/ann", Value("request", b"x")))
    await journal.close()
    database = make_url(postgres_url).database
    with postgres.connect(database) as connection, pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        connection.execute(statement)


@contextlib.contextmanager
def held(url: str) -> Iterator[None]:
    """Somebody holds the log's lock and does not let go."""
    if (path := sqlite_path(parse_url(url))) is not None:
        with kept_from_writing(path):
            yield
        return
    with engine(parse_url(url)).connect() as connection:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("UPDATE ledger_head SET size = size")
        yield
        connection.exec_driver_sql("ROLLBACK")


async def test_a_store_that_hangs_does_not_hang_its_callers_and_what_nobody_waited_for_is_closed(
    url: str, open_journal: Open
) -> None:
    journal = await open_journal(url, stall_seconds=0.1)
    with held(url):
        with pytest.raises(LedgerUnavailableError, match="does not answer"):
            await journal.append(start("c1"))
        assert not journal.healthy
        with pytest.raises(LedgerUnavailableError, match="does not answer"):
            await journal.append(denial("later"))
    while not journal.healthy or journal.queued:
        await asyncio.to_thread(in_log, url)
    await journal.append(denial("d1"))
    await journal.close()
    assert in_log(url)[0] == "c1"
    report = verify_url(url, VKEY)
    assert (report.findings, report.open_calls) == ([], 0)


async def test_a_checkpoint_that_cannot_be_signed_does_not_stop_records_and_is_reported(path: Path, open_journal: Open) -> None:
    journal = await open_journal(checkpoint_seconds=0.0)
    await journal.append(denial("d1"))
    number = 0
    while not journal.healthy.reason:
        number += 1
        damage(path)
        await journal.append(denial(f"e{number}"))
    assert journal.healthy, "records are written"
    assert "no checkpoint can be signed" in journal.healthy.reason
    remove(path.with_name("ledger.db.signed"))
    while journal.healthy.reason:
        number += 1
        await journal.append(denial(f"e{number}"))


@pytest.mark.postgres
async def test_a_server_that_restarts_refuses_meanwhile_and_the_writer_goes_on_afterwards(open_journal: Open) -> None:
    from .conftest import postgres_server

    with postgres_server.server() as own, postgres_server.database(own) as database:
        journal = await open_journal(database)
        await journal.append(start("c1"))
        own.stop()
        with pytest.raises(LedgerUnavailableError):
            await journal.append(denial("d1"))
        assert not journal.healthy
        own.start()
        await journal.append(denial("d2"))
        assert journal.healthy
        await journal.append(end("e1", "c1"))
        with pytest.raises(LedgerUnavailableError, match="another process"):
            await open_journal(database)
        await journal.close()
        assert verify_url(database, VKEY).findings == []
        assert in_log(database) == ["c1", "d2", "e1"]


@pytest.mark.postgres
async def test_a_connection_that_is_cut_is_made_anew_without_anybody_noticing(
    postgres: Any, postgres_url: str, open_journal: Open
) -> None:
    journal = await open_journal(postgres_url)
    await journal.append(denial("d1"))
    with postgres.connect() as connection:
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bailiwick-ledger'"
        connection.execute(cut)
    await journal.append(denial("d2"))
    await journal.close()
    assert in_log(postgres_url) == ["d1", "d2"]
    assert verify_url(postgres_url, VKEY).findings == []


def test_tampered_is_not_a_failure_of_the_store() -> None:
    assert not issubclass(TamperedError, StoreError)
