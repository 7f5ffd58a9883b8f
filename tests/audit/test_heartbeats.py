"""Signs of life: what a writer promised and did not give is found, and what it left open is closed by others while they run."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.model import Entry, LedgerUnavailableError, Receipt
from audit.opening import left_open
from audit.privacy import SealKey
from audit.pulse import Pulse
from audit.reader import Ledger, Record
from audit.signer import Signer
from audit.store_sql import SqlStore
from audit.verify_url import verify_url
from audit.writer import Writer, orphaned

from .conftest import NOON, ORIGIN, SEAL_KEY, SIGNING_KEY, VKEY, Open, denial, end, start

MINUTE = 60_000_000


def move(path: Path, to: Path) -> None:
    path.replace(to)


def records(url: str) -> list[Record]:
    with Ledger.open(url) as ledger:
        return list(ledger.records())


class Told:
    """A writer whose own clock is ours to move."""

    def __init__(self, url: str, name: str = "gw-1") -> None:
        self.now = 5
        self.store = SqlStore(url)
        self.store.claim(ORIGIN, VKEY)
        self.pulse = Pulse(lambda: NOON + self.now, lambda: self.now, 60)
        self.writer = Writer(self.store, ORIGIN, SealKey(ORIGIN, SEAL_KEY), name, lambda: self.now)
        self.writer.write([Entry("writer.start", f"start-{self.writer.boot}", NOON, None, self.pulse.promise)])
        Signer(self.store, ORIGIN, SIGNING_KEY).sign()

    def pass_time(self, seconds: int, *, beat: bool = True) -> None:
        self.now += seconds * 1_000_000
        if beat:
            self.writer.write(self.pulse.beat())

    def sign(self) -> None:
        Signer(self.store, ORIGIN, SIGNING_KEY).sign()


@pytest.fixture
def told(path: Path) -> Iterator[Told]:
    made = Told(f"sqlite:///{path}")
    yield made
    made.store.close()


async def test_a_writer_gives_a_sign_of_life_as_often_as_it_promised(url: str, open_journal: Open) -> None:
    journal = await open_journal(url, heartbeat_seconds=0.01)
    while [record.kind for record in await asyncio.to_thread(records, url)].count("writer.heartbeat") < 3:
        await journal.append(denial(f"d{journal.queued}-{id(object())}"))
    await journal.close()
    first = records(url)[0]
    assert (first.kind, first.leaf["heartbeat_us"]) == ("writer.start", 10_000)


@pytest.mark.parametrize("silent", [(60, 60, 60), (60, 85, 60)])
def test_a_log_with_its_heartbeats_has_nothing_to_be_found(path: Path, told: Told, silent: tuple[int, ...]) -> None:
    for seconds in silent:
        told.pass_time(seconds)
    told.sign()
    assert verify_url(f"sqlite:///{path}", VKEY).findings == []


def test_a_heartbeat_that_is_missing_is_found_though_the_writer_went_on_writing(path: Path, told: Told) -> None:
    told.pass_time(60)
    for _ in range(4):
        told.pass_time(30, beat=False)
        told.writer.write([denial(f"d{told.now}")])
    told.pass_time(0)
    told.sign()
    [found] = verify_url(f"sqlite:///{path}", VKEY).findings
    assert "said nothing for 120 seconds" in str(found)


def test_a_writer_that_gave_no_heartbeat_to_the_end_is_found(path: Path, told: Told) -> None:
    told.pass_time(95, beat=False)
    told.writer.write([denial("d1")])
    told.sign()
    [found] = verify_url(f"sqlite:///{path}", VKEY).findings
    assert "none of the heartbeats it had promised" in str(found)


def test_a_store_that_could_not_be_written_excuses_silence_and_the_log_says_for_how_long(path: Path, told: Told) -> None:
    told.pass_time(60)
    told.pulse.failing()
    told.pass_time(300, beat=False)
    assert told.pulse.works()
    told.pass_time(0)
    told.sign()
    url = f"sqlite:///{path}"
    assert verify_url(url, VKEY).findings == []
    assert records(url)[-1].leaf["failed_us"] == 5 * MINUTE


def test_a_clock_that_was_set_is_on_record_with_how_far() -> None:
    wall, mono = itertools.chain([NOON, NOON + MINUTE, NOON - 3600 * 1_000_000]), itertools.count(0, MINUTE)
    pulse = Pulse(lambda: next(wall), lambda: next(mono), 60)
    assert [entry.kind for entry in pulse.beat()] == ["writer.heartbeat"]
    step, beat = pulse.beat()
    assert (step.kind, beat.kind) == ("clock.step", "writer.heartbeat")
    assert step.fields == {"by_us": -(3600 * 1_000_000 + 2 * MINUTE)}


DIES = """
import asyncio, os, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from audit.journal import Journal
from audit.model import Entry

async def main(url):
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    journal = await Journal.open(url=url, origin="example.org/ledger", signing_key=key, seal_key=bytes(range(32, 64)),
                                 writer="gw-2", clock=lambda: 5)
    for kind in ("call.start", "egress.start", "sandbox.start"):
        await journal.append(Entry(kind, kind, 5, "user:corp/ann", {"workflow": "wf-1"}))
    os._exit(9)

asyncio.run(main(sys.argv[1]))
"""


async def test_what_a_replica_left_open_when_it_was_killed_is_closed_by_another_that_runs(url: str, open_journal: Open) -> None:
    journal = await open_journal(url, heartbeat_seconds=0.02)
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", DIES, url], capture_output=True, check=False)
    assert done.returncode == 9, done.stderr
    closed: list[Record] = []
    while len(closed) < 3:
        closed = [record for record in await asyncio.to_thread(records, url) if record.kind == "call.orphaned"]
    said = {str(record.leaf["call"]): record.leaf.get("of") for record in closed}
    assert said == {"call.start": None, "egress.start": "egress.start", "sandbox.start": "sandbox.start"}
    assert {record.leaf["reason"] for record in closed} == {"the writer ended"}
    await journal.close()
    report = verify_url(url, VKEY)
    assert (report.open_calls, [note for note in report.notes if "no end yet" in note]) == (0, [])


def test_a_run_and_a_connection_that_ended_are_not_open_and_can_be_closed_once_more(url: str) -> None:
    told = Told(url)
    told.writer.write([Entry("egress.start", "e1", NOON), Entry("sandbox.start", "s1", NOON)])
    assert [call.id for call in told.store.open_calls()] == ["e1", "s1"]
    told.writer.write(
        [Entry("egress.end", "e2", NOON, None, {"call": "e1"}), Entry("sandbox.end", "s2", NOON, None, {"start": "s1"})]
    )
    assert told.store.open_calls() == []
    [result] = told.writer.write([Entry("sandbox.end", "s3", NOON, None, {"start": "s1"})])
    assert isinstance(result, Receipt)
    told.sign()
    told.store.close()
    assert verify_url(url, VKEY).findings == []


def test_of_two_who_close_the_same_call_one_does_and_the_end_that_comes_too_late_is_refused(url: str) -> None:
    lost, other = Told(url, "gw-1"), Told(url, "gw-2")
    lost.writer.write([start("c1"), start("c2")])
    stale = [orphaned(call.id, call.index, {}, NOON, "the writer ended") for call in other.store.open_calls()]
    again = [orphaned(call.id, call.index, {}, NOON, "the writer ended") for call in other.store.open_calls()]
    other.writer.write(stale[:1])
    assert [type(result) for result in other.writer.write(again)] == [LedgerUnavailableError, Receipt]
    results = lost.writer.write([end("e1", "c1"), denial("d1")])
    assert [type(result) for result in results] == [LedgerUnavailableError, Receipt]
    other.sign()
    for each in (lost, other):
        each.store.close()
    report = verify_url(url, VKEY)
    assert (report.findings, report.open_calls) == ([], 0)


def test_a_call_that_is_open_after_its_writer_began_anew_is_found(path: Path, told: Told) -> None:
    told.writer.write([start("c1")])
    again = Told(f"sqlite:///{path}")
    assert [entry.fields["call"] for entry in left_open(again.store, again.writer, NOON)] == ["c1"]
    again.store.close()
    [found] = verify_url(f"sqlite:///{path}", VKEY).findings
    assert "(c1): it is open, although its writer has begun anew" in str(found)


async def test_whoever_looks_after_the_gateway_hears_when_records_cannot_be_written_and_when_they_can(
    path: Path, open_journal: Open
) -> None:
    heard: list[str] = []
    journal = await open_journal(alarm=heard.append)
    kept = path.with_name("kept")
    move(path, kept)
    for record in ("d1", "d2"):
        with pytest.raises(LedgerUnavailableError):
            await journal.append(denial(record))
    move(kept, path)
    while not journal.healthy:
        await asyncio.to_thread(path.stat)
    await journal.append(denial("d3"))
    assert [bool(each) for each in heard] == [True, False]
    assert "gone" in heard[0]
    await journal.close()
    beats = [record for record in records(f"sqlite:///{path}") if record.kind == "writer.heartbeat"]
    assert [isinstance(beat.leaf["failed_us"], int) for beat in beats] == [True]


async def test_a_journal_that_is_closed_in_good_order_raises_no_alarm(open_journal: Open) -> None:
    heard: list[str] = []
    journal = await open_journal(alarm=heard.append)
    await journal.append(denial("d1"))
    await journal.close()
    said: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(said.set_result, None)  # after whatever the writer said last
    await said
    assert heard == []
