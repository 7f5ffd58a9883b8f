"""The spool: while the store is away, records that may are kept in a file, bounded, and come into the log before anything new."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from audit.flush import Flush
from audit.journal import Journal
from audit.model import Entry, LedgerUnavailableError, Receipt, Value
from audit.privacy import SealKey
from audit.reader import Ledger
from audit.signer import Signer
from audit.spool import Spool, SpoolLimits
from audit.spooling import Spooling, replayed
from audit.verify import Key, read_receipt, verify_sqlite
from audit.verify_url import verify_url
from audit.writer import Writer
from tests.held_ledger import kept_from_writing

from .conftest import ORIGIN, SEAL_KEY, SIGNING_KEY, VKEY, Open, denial, end, postgres_server, start
from .test_journal_store_failures import Failing

ANN = "user:corp/ann"


def may(entry: Entry) -> Entry:
    """The entry of a route that is set to `spool`."""
    return replace(entry, spool=True)


def call(name: str, subject: str = ANN) -> Entry:
    return may(start(name, subject, Value("request", b"the request of " + name.encode())))


def over(name: str) -> Entry:
    return may(end(f"{name}-end", name, Value("response", b"the answer")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spools"


@pytest.fixture
def opened(open_journal: Open, path: Path, folder: Path) -> Callable[..., Awaitable[Journal]]:
    async def one(writer: str = "gw-1", url: str = f"sqlite:///{path}", **more: Any) -> Journal:
        limits = {name: more.pop(name) for name in ("bytes", "seconds") if name in more}
        return await open_journal(url, writer, spool=SpoolLimits(folder, **limits), checkpoint_seconds=0.01, **more)

    return one


class Away:
    """SQLite that takes no writes, as on a disk that was mounted read-only: at once, and for the writer alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = ExitStack()

    def go(self) -> None:
        self._held.enter_context(kept_from_writing(self._path))

    def back(self) -> None:
        self._held.close()


@pytest.fixture
def away(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Away]:
    monkeypatch.setattr("audit.store_connect._BUSY_SECONDS", 0.02)  # so that a lock is an answer at once
    monkeypatch.setattr("audit.ahead._LOCK_SECONDS", 0.02)
    monkeypatch.setattr("audit.spooling._PAUSE", 0.02)
    monkeypatch.setattr("audit.journal._PROBE_SECONDS", 0.02)
    store = Away(path)
    yield store
    store.back()


async def whole(journal: Journal) -> None:
    """Until nothing is in the spool any more."""
    async with asyncio.timeout(30):
        while journal.spooled or not journal.healthy:  # noqa: ASYNC110  another thread does it
            await asyncio.sleep(0.01)


def records(url: str) -> list[Any]:
    with Ledger.open(url) as ledger:
        return list(ledger.records())


def ours(url: str) -> list[tuple[str, bool]]:
    kept = [each for each in records(url) if not each.kind.startswith(("writer", "key", "clock"))]
    return [(each.id if each.kind != "spool.replayed" else each.kind, each.leaf.get("spooled", False)) for each in kept]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spool"))


async def test_calls_go_on_while_the_store_is_away_and_are_in_the_log_before_anything_new(
    opened: Any, away: Away, path: Path, folder: Path
) -> None:
    journal = await opened()
    await journal.append(start("before", ANN, Value("request", b"x")))
    away.go()
    told = [await journal.append(each) for each in (call("c1"), over("c1"), call("c2"))]
    assert [each.index for each in told] == [-1, -1, -1]
    assert not journal.healthy
    assert journal.spooled == 3
    [file] = files(folder)
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"the request of" not in file.read_bytes()
    away.back()
    await whole(journal)
    after = await journal.append(may(end("c2-end", "c2")))
    assert after.index > 0
    assert files(folder) == []
    await journal.append(end("before-end", "before"))
    await journal.close()
    assert ours(f"sqlite:///{path}") == [
        ("before", False), ("c1", True), ("c1-end", True), ("c2", True), ("spool.replayed", False), ("c2-end", False),
        ("before-end", False),
    ]  # fmt: skip
    report = verify_sqlite(path, VKEY)
    assert [str(each) for each in report.findings] == []
    with Ledger.open(f"sqlite:///{path}", SEAL_KEY) as ledger:
        found = ledger.get("c1")
        assert found is not None
        assert ledger.open_value(found, "request") == b"the request of c1"
        assert found.hash == told[0].leaf_hash
        [said] = [each.leaf for each in ledger.records() if each.kind == "spool.replayed"]
    assert (said["count"], said["unanswered"], said["of"]["writer"]) == (3, 0, "gw-1")
    assert said["since"] <= said["until"]


async def test_what_may_not_stand_in_the_spool_is_refused_as_ever(opened: Any, away: Away, folder: Path) -> None:
    journal = await opened()
    await journal.append(start("before", ANN, Value("request", b"x")))
    away.go()
    with pytest.raises(LedgerUnavailableError, match="keeps the log to itself"):
        await journal.append(start("strict"))
    assert files(folder) == [], "a spool begins with a record that may stand there"
    await journal.append(call("c1"))
    for entry in (start("strict", ANN), denial("d1"), end("before-end", "before")):
        with pytest.raises(LedgerUnavailableError, match="keeps the log to itself"):
            await journal.append(entry)
    assert journal.spooled == 1


async def test_a_person_whose_key_is_not_at_hand_is_refused(opened: Any, away: Away, path: Path) -> None:
    journal = await opened()
    await journal.append(start("before", ANN, Value("request", b"x")))
    away.go()
    with pytest.raises(LedgerUnavailableError, match="the key of somebody"):
        await journal.append(call("stranger", "user:corp/new"))
    await journal.append(call("c1"))
    with pytest.raises(LedgerUnavailableError, match="the key of somebody"):
        await journal.append(call("stranger", "user:corp/new"))
    away.back()
    await whole(journal)
    assert (await journal.append(call("stranger", "user:corp/new"))).index > 0
    await journal.close()
    assert [str(each) for each in verify_sqlite(path, VKEY).findings] == []


async def test_a_full_spool_takes_ends_for_a_while_and_then_nothing_and_says_so(opened: Any, away: Away, path: Path) -> None:
    alarms: list[str] = []
    journal = await opened(bytes=40_000, alarm=alarms.append)
    await journal.append(start("before", ANN, Value("request", b"x")))
    away.go()
    taken = 0
    with pytest.raises(LedgerUnavailableError):  # noqa: PT012  the loop is what ends
        for taken in itertools.count():
            await journal.append(call(f"c{taken}"))
    assert taken > 5
    await journal.append(over("c0"))
    with pytest.raises(LedgerUnavailableError):
        await journal.append(call("more"))
    ended = 1
    with pytest.raises(LedgerUnavailableError):  # noqa: PT012  the loop is what ends
        for ended in range(1, taken):
            await journal.append(may(end(f"c{ended}-end", f"c{ended}", Value("response", b"x" * 1000))))
    [file] = files(path.parent / "spools")
    assert file.stat().st_size <= 40_000
    away.back()
    await whole(journal)
    assert [each for each in alarms if each.startswith("the spool takes no new calls")] != []
    assert len([name for name, spooled in ours(f"sqlite:///{path}") if spooled]) == taken + ended
    await journal.close()
    assert [str(each) for each in verify_sqlite(path, VKEY).findings] == []


async def test_after_its_time_a_spool_takes_ends_alone(opened: Any, away: Away) -> None:
    journal = await opened(seconds=0.0)
    await journal.append(start("before", ANN, Value("request", b"x")))
    away.go()
    await journal.append(call("c1"))
    with pytest.raises(LedgerUnavailableError):
        await journal.append(call("c2"))
    assert (await journal.append(over("c1"))).index == -1
    away.back()
    await whole(journal)
    assert (await journal.append(call("c2"))).index > 0


async def left_behind(opened: Any, away: Away, *entries: Entry) -> list[Receipt]:
    """A gateway that ends while the store is away."""
    journal = await opened()
    await journal.append(start("before", ANN, Value("request", b"x")))
    away.go()
    told = [await journal.append(each) for each in entries]
    await journal.close()
    away.back()
    return told


@pytest.mark.parametrize("writer", ["gw-1", "gw-2"])
async def test_a_start_writes_what_an_earlier_process_left_whatever_its_name_was(
    opened: Any, away: Away, path: Path, folder: Path, writer: str
) -> None:
    told = await left_behind(opened, away, call("c1"), over("c1"), call("c2"))
    assert len(files(folder)) == 1
    journal = await opened(writer)
    assert files(folder) == []
    await journal.close()
    found = {each.id: each.hash for each in records(f"sqlite:///{path}")}
    assert [found[each.id] for each in told] == [each.leaf_hash for each in told]
    kinds = [each.kind for each in records(f"sqlite:///{path}")]
    again = kinds.index("writer.start", 1)
    assert kinds[again:] == ["writer.start", "spool.replayed", "call.orphaned", "call.orphaned", "writer.stop"]
    assert kinds[again - 4 : again] == ["call.start", "call.end", "call.start", "writer.stop"]
    assert [str(each) for each in verify_sqlite(path, VKEY).findings] == []


async def test_the_spool_of_a_process_that_lives_is_left_to_it(opened: Any, away: Away, folder: Path) -> None:
    first = await opened()
    await first.append(start("before", ANN, Value("request", b"x")))
    away.go()
    await first.append(call("c1"))
    away.back()
    [file] = files(folder)
    held = file.read_bytes()
    await whole(first)
    away.go()
    await first.append(call("c2"))
    [file] = files(folder)
    assert file.read_bytes() != held
    # Another process, which comes while that one still has the file.
    program = (
        "import sys; from pathlib import Path; from audit.spool import Spool, SpoolLimits\n"
        f"print(Spool(SpoolLimits(Path({str(folder)!r})), {ORIGIN!r}, 'gw-2', bytes(32)).left())"
    )
    said = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
    assert files(folder) == [file]


@pytest.mark.parametrize("cut", [1, 20, 400])
async def test_a_last_frame_that_was_cut_short_was_never_acknowledged_and_is_dropped(
    opened: Any, away: Away, path: Path, folder: Path, cut: int
) -> None:
    await left_behind(opened, away, call("c1"), call("c2"))
    [file] = files(folder)
    whole_file = file.read_bytes()
    file.write_bytes(whole_file[:-cut])
    await (await opened()).close()
    names = [name for name, spooled in ours(f"sqlite:///{path}") if spooled]
    assert names in (["c1", "c2"], ["c1"])  # of three frames (the last is the writer's stop) one or two were cut
    assert [str(each) for each in verify_sqlite(path, VKEY).findings] == []


async def test_any_flipped_bit_is_an_alarm_and_nothing_is_written_until_somebody_looked(
    opened: Any, away: Away, path: Path, folder: Path
) -> None:
    await left_behind(opened, away, call("c1"), over("c1"))
    [file] = files(folder)
    data = file.read_bytes()
    before = ours(f"sqlite:///{path}")
    from audit.privacy import SealKey
    from audit.spool import read

    key = SealKey(ORIGIN, SEAL_KEY).spool_key
    assert read(data, key, "x") is not None
    for bit in range(len(data) * 8):  # every one of them
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Exception, match="is damaged at byte"):
            read(bytes(flipped), key, "x")
    file.write_bytes(bytes(flipped))
    with pytest.raises(LedgerUnavailableError, match="is damaged at byte"):
        await opened()
    assert ours(f"sqlite:///{path}") == before
    file.write_bytes(data)
    await (await opened()).close()
    assert ("c1-end", True) in ours(f"sqlite:///{path}")


async def test_a_bit_that_flips_while_the_store_is_away_is_noticed_before_it_is_written(
    opened: Any, away: Away, path: Path, folder: Path
) -> None:
    journal = await opened()
    await journal.append(start("before", ANN, Value("request", b"x")))
    away.go()
    await journal.append(call("c1"))
    [file] = files(folder)
    with file.open("r+b") as opened_file:
        opened_file.seek(200)
        byte = opened_file.read(1)
        opened_file.seek(200)
        opened_file.write(bytes([byte[0] ^ 4]))
    away.back()
    async with asyncio.timeout(10):
        while "damaged" not in journal.healthy.reason:  # noqa: ASYNC110  another thread does it
            await asyncio.sleep(0.01)
    assert [name for name, _ in ours(f"sqlite:///{path}")] == ["before"]
    assert file.exists()


async def test_a_spool_under_another_seal_key_is_not_taken_for_ours(opened: Any, away: Away, folder: Path) -> None:
    await left_behind(opened, away, call("c1"))
    with pytest.raises(LedgerUnavailableError, match="seal key"):
        await opened(seal_key=bytes(32))
    assert len(files(folder)) == 1


async def test_frames_cannot_be_moved_left_out_or_taken_from_another_spool(opened: Any, away: Away, folder: Path) -> None:
    from audit.privacy import SealKey
    from audit.spool import read

    await left_behind(opened, away, call("c1"), call("c2"), call("c3"))
    [file] = files(folder)
    data, key = file.read_bytes(), SealKey(ORIGIN, SEAL_KEY).spool_key
    frames, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big") + 4 + 12 + 16
        frames.append(data[at : at + size])
        at += size
    assert len(frames) == 5
    for others in ([0, 2, 3, 4], [0, 2, 1, 3, 4], [1, 2], [0, 1, 1, 2], [2]):
        with pytest.raises(Exception, match="is damaged"):
            read(b"".join(frames[number] for number in others), key, "x")


async def test_a_file_that_was_removed_is_not_a_store_that_is_away(opened: Any, away: Away, path: Path, folder: Path) -> None:
    journal = await opened()
    await journal.append(start("before", ANN, Value("request", b"x")))
    path.rename(path.with_name("elsewhere"))  # noqa: ASYNC240  the test
    with pytest.raises(LedgerUnavailableError, match=r"gone|exchanged"):
        await journal.append(call("c1"))
    assert files(folder) == []
    path.with_name("elsewhere").rename(path)


async def test_receipts_of_the_spool_hold_the_log_to_what_was_recorded(opened: Any, away: Away, path: Path) -> None:
    journal = await opened()
    await journal.append(start("before", ANN, Value("request", b"x")))
    away.go()
    given = [json.loads(json.dumps(journal.vouch(await journal.append(each)))) for each in (call("c1"), over("c1"))]
    assert given[0].keys() == {"log", "record", "leaf", "spooled", "signature"}
    missing = verify_sqlite(path, VKEY, receipts=given)
    assert ["spool" in str(each) for each in missing.findings] == [True, True]
    away.back()
    await whole(journal)
    await journal.close()
    assert [str(each) for each in verify_sqlite(path, VKEY, receipts=given).findings] == []
    assert [str(each) for each in verify_sqlite(path, VKEY, receipts=given, level="full").findings] == []
    forged = {**given[0], "leaf": given[1]["leaf"]}
    with pytest.raises(ValueError, match="does not fit"):
        read_receipt(forged, Key.parse(VKEY))
    # Signed by the key, of a record that says something else: the key's own lie is found as well.
    from audit.receipt import Voucher

    lie = dict(Voucher(ORIGIN, SIGNING_KEY).vouch(Receipt(ORIGIN, "c1", -1, bytes(32))))
    for level in ("semantic", "full"):
        [finding] = verify_sqlite(path, VKEY, receipts=[lie], level=level).findings
        assert "says something else" in str(finding)


async def test_a_call_that_another_gateway_closed_meanwhile_gets_its_late_end(
    postgres_url: str, open_journal: Open, folder: Path
) -> None:
    """Its lease is gone with its connection: the other one takes it for dead."""
    with cut_off(postgres_url) as line:
        journal = await open_journal(line.url, "gw-1", spool=SpoolLimits(folder), checkpoint_seconds=0.01)
        other = await open_journal(postgres_url, "gw-2", checkpoint_seconds=0.01, heartbeat_seconds=0.05)
        await journal.append(call("c1"))
        await journal.append(may(start("c2", ANN)))
        line.cut()
        told = await eventually(journal, over("c1"))
        assert told.index == -1
        async with asyncio.timeout(20):
            while sum(each.kind == "call.orphaned" for each in records(postgres_url)) < 2:  # noqa: ASYNC110  another thread does it
                await asyncio.sleep(0.02)
        line.mend()
        await whole(journal)
        with pytest.raises(LedgerUnavailableError, match="closed already"):
            await journal.append(may(end("c2-end", "c2")))  # the store is there again: nothing is late any more
        await journal.close()
        await other.close()
    kinds = [(each.kind, each.leaf.get("call")) for each in records(postgres_url) if each.leaf.get("call") == "c1"]
    assert kinds == [("call.orphaned", "c1"), ("call.end", "c1")]
    report = verify_url(postgres_url, VKEY)
    assert [str(each) for each in report.findings if "heartbeat" not in str(each)] == []  # so many are late on a busy machine
    assert report.open_calls == 0


async def test_what_is_sealed_for_a_person_who_was_erased_meanwhile_is_not_stored(
    postgres_url: str, open_journal: Open, folder: Path
) -> None:
    with cut_off(postgres_url) as line:
        journal = await open_journal(line.url, "gw-1", spool=SpoolLimits(folder), checkpoint_seconds=0.01)
        other = await open_journal(postgres_url, "gw-2", checkpoint_seconds=0.01)
        await journal.append(may(start("c1", ANN, Value("request", b"first"))))
        line.cut()
        await eventually(journal, call("c2"))
        await other.shred(ANN, request="r1", approver="admin")
        line.mend()
        await whole(journal)
        await journal.close()
        await other.close()
    with Ledger.open(postgres_url, SEAL_KEY) as ledger:
        found = ledger.get("c2")
        assert found is not None
        assert str(ledger.open_value(found, "request")) == "[erased]"
        assert ledger.rows.openings([found.index], ["request"]) == {}
    assert [str(each) for each in verify_url(postgres_url, VKEY).findings] == []


async def eventually(journal: Journal, entry: Entry) -> Receipt:
    """A call right at the moment of the cut may still be refused."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(LedgerUnavailableError):
                return await journal.append(entry)
            await asyncio.sleep(0.02)


class Line:
    """A way to PostgreSQL's socket that can be cut: nobody comes through, and who was through is thrown out."""

    def __init__(self, url: str, folder: Path) -> None:
        real = url.rpartition("host=")[2]
        self._real, self._here = Path(real), folder / "line"
        self._here.mkdir()
        self.url = url.replace(f"host={real}", f"host={self._here}")
        self._pairs: list[socket.socket] = []
        self.mend()

    def mend(self) -> None:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self._here / ".s.PGSQL.5432"))
        self._listening.listen()
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        (self._here / ".s.PGSQL.5432").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for each in self._pairs:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listening.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self._real / ".s.PGSQL.5432"))
                self._pairs += [near, far]
                for one, two in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, two), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, two: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                two.sendall(data)
        with contextlib.suppress(OSError):
            two.shutdown(socket.SHUT_RDWR)
        one.close()


@contextlib.contextmanager
def cut_off(url: str) -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder:
        line = Line(url, Path(folder))
        try:
            yield line
        finally:
            line.cut()


async def test_a_server_that_is_stopped_and_started_again_under_load_costs_no_call_of_such_a_route(
    open_journal: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit.spooling._PAUSE", 0.05)
    with postgres_server.server() as running, postgres_server.database(running) as url:
        journal = await open_journal(url, "gw-1", spool=SpoolLimits(folder), checkpoint_seconds=0.01)
        for caller in range(8):
            await journal.append(start(f"first-{caller}", f"user:corp/{caller}", Value("request", b"x")))
        told: list[Receipt] = []
        refused: list[str] = []
        stop = asyncio.Event()

        async def caller(number: int) -> None:
            for n in itertools.count():
                if stop.is_set():
                    return
                name = f"{number}-{n}"
                for entry in (
                    may(start(name, f"user:corp/{number}", Value("request", b"x" * 200))),
                    replace(may(end(f"{name}-end", name, Value("response", b"y"))), subject=f"user:corp/{number}"),
                ):
                    try:
                        told.append(await journal.append(entry))
                    except LedgerUnavailableError as error:
                        refused.append(error.detail)
                await asyncio.sleep(0)

        callers = [asyncio.create_task(caller(number)) for number in range(8)]
        for _ in range(3):
            await until(told, 100)
            await asyncio.to_thread(running.stop)
            await until(told, 100)
            await asyncio.to_thread(running.start)
            await whole(journal)
        stop.set()
        await asyncio.gather(*callers)
        await journal.close()
        assert refused == []
        found = {each.id: each for each in records(url)}
        assert [each.id for each in told if found[each.id].hash != each.leaf_hash] == []
        assert sum(each.kind == "spool.replayed" for each in found.values()) >= 3
        assert [str(each) for each in verify_url(url, VKEY).findings] == []


async def until(told: list[Receipt], more: int) -> None:
    wanted = len(told) + more
    async with asyncio.timeout(60):
        while len(told) < wanted:  # noqa: ASYNC110  another thread does it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("where", ["after the commit", "before the commit"])
@pytest.mark.parametrize("died", [False, True])
def test_a_batch_whose_commit_was_not_answered_is_in_the_log_once_whether_the_store_had_it_or_not(
    path: Path, folder: Path, where: str, died: bool
) -> None:
    url = f"sqlite:///{path}"
    store = Failing(url)
    store.claim(ORIGIN, VKEY)
    seal = SealKey(ORIGIN, SEAL_KEY)
    writer = Writer(store, ORIGIN, seal, "gw-1", lambda: 5)
    spool = Spool(SpoolLimits(folder), ORIGIN, "gw-1", seal.spool_key)
    into = Spooling(Flush(writer, None), writer, spool)
    into.write([Entry("writer.start", "boot", 5), start("before", ANN, Value("request", b"x"))])
    store.faults |= {where: 1, "before the lock": 1}
    strict = start("strict", ANN, Value("request", b"x"))
    results, why = into.write([call("c1"), strict, may(end("before-end", "before"))])
    assert why.startswith("the store is away")
    told = [each for each in results if isinstance(each, Receipt)]
    assert [each.id for each in told] == ["c1", "before-end"]
    assert isinstance(results[1], LedgerUnavailableError)
    if died:
        spool.close()
        writer = Writer(store, ORIGIN, seal, "gw-1", lambda: 5)
        spool = Spool(SpoolLimits(folder), ORIGIN, "gw-1", seal.spool_key)
        [left] = spool.left()
        spooled = replayed(left)
        writer.write([Entry("writer.start", "boot-2", 6), spooled[0]], [spooled])
        spool.remove(left)
    else:
        into._next = 0.0
        assert into.write([])[1] == ""
    Signer(store, ORIGIN, SIGNING_KEY).sign()
    writer.write([end("c1-end", "c1")])
    spool.close()
    Signer(store, ORIGIN, SIGNING_KEY).sign()
    store.close()
    assert files(folder) == []
    found = {each.id: each for each in records(url)}
    assert [found[each.id].hash for each in told] == [each.leaf_hash for each in told]
    assert [each.leaf["call"] for each in found.values() if each.kind == "call.orphaned"] == ["strict"]
    [said] = [each.leaf for each in found.values() if each.kind == "spool.replayed"]
    assert said["unanswered"] == 3
    assert [str(each) for each in verify_sqlite(path, VKEY).findings] == []


def test_without_a_replay_that_names_it_nothing_closes_a_call_twice(path: Path) -> None:
    url = f"sqlite:///{path}"
    store = Failing(url)
    store.claim(ORIGIN, VKEY)
    writer = Writer(store, ORIGIN, SealKey(ORIGIN, SEAL_KEY), "gw-1", lambda: 5)
    other = Writer(store, ORIGIN, SealKey(ORIGIN, SEAL_KEY), "gw-2", lambda: 5)
    writer.write([Entry("writer.start", "boot", 5), start("c1"), start("c2")])
    other.write([Entry("writer.start", "boot-2", 5), Entry("call.orphaned", "o1", 6, None, {"call": "c1", "reason": "x"})])
    late = Entry("call.end", "late", 6, None, {"call": "c1"})
    with store.turn() as turn:  # a writer that lies
        draft = writer._draft(turn, [late])
        draft.add(late, None)
        draft.batch.closed.clear()
        turn.write(draft.batch, draft.frontier.size, draft.frontier.encode())
    Signer(store, ORIGIN, SIGNING_KEY).sign()
    store.close()
    said = [str(each) for each in verify_sqlite(path, VKEY).findings]
    assert [each for each in said if "c1, which another had closed, and no record says that it came out of a spool" in each]
