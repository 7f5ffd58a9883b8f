"""A writer that is killed loses nothing that it acknowledged, and leaves nothing half done."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from audit.reader import Ledger, Record
from audit.verify import verify_sqlite
from audit.verify_url import verify_url

from .conftest import VKEY, Open, copy_ledger

PROGRAM = Path(__file__).with_name("crashing_writer.py")


def run_and_kill(url: str, round_: str, lines: int) -> list[tuple[int, str, str]]:
    """Start the writer, kill it after so many acknowledged records; all that were acknowledged."""
    acknowledged = []
    with subprocess.Popen([sys.executable, str(PROGRAM), url, round_], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("\n"):
                index, record, digest = line.split()
                acknowledged.append((int(index), record, digest))
            if len(acknowledged) == lines:
                process.kill()
    assert len(acknowledged) >= lines
    return acknowledged


async def test_every_acknowledged_record_of_a_killed_writer_is_there_exactly_once_and_what_it_left_open_is_closed(
    url: str, open_journal: Open
) -> None:
    chance = random.Random(7)
    acknowledged = []
    for round_ in range(3):
        acknowledged += run_and_kill(url, f"r{round_}", chance.randrange(40, 400))
        report = verify_url(url, VKEY)
        assert report.findings == [], "the log of a dead writer is whole, only open"
    journal = await open_journal(url)
    with Ledger.open(url) as ledger:
        records = list(ledger.records())
    where: dict[str, Record] = {record.id: record for record in records}
    assert len(where) == len(records)
    for index, record, digest in acknowledged:
        assert (where[record].index, where[record].hash.hex()) == (index, digest)
    starts = {record.id for record in records if record.kind == "call.start"}
    ended = [str(record.leaf["call"]) for record in records if record.kind in {"call.end", "call.orphaned"}]
    assert sorted(ended) == sorted(starts)
    orphans = [record for record in records if record.kind == "call.orphaned"]
    assert {record.leaf["reason"] for record in orphans} <= {"the writer ended"}
    assert all(record.leaf["workflow"] == "wf" for record in orphans)
    await journal.close()
    report = verify_url(url, VKEY)
    assert (report.findings, report.open_calls) == ([], 0)


def test_the_files_that_a_killed_writer_left_are_verified_as_they_lie_and_nothing_is_written_beside_them(
    path: Path,
) -> None:
    run_and_kill(f"sqlite:///{path}", "r", 60)
    log = path.with_name(path.name + "-wal")
    assert log.exists()
    copied = copy_ledger(path, path.parent / "copy")
    copy_ledger(log, copied.parent)
    for place in (path, copied):
        before = {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in place.parent.iterdir() if file.is_file()}
        report = verify_sqlite(place, VKEY)
        after = {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in place.parent.iterdir() if file.is_file()}
        assert report.findings == []
        ahead = sum(int(note.split()[0]) for note in report.notes if "acknowledged" in note) if place == path else 0
        assert report.size + ahead > 60 or place == copied
        assert {name: seen for name, seen in after.items() if not name.endswith("-shm")} == {
            name: seen for name, seen in before.items() if not name.endswith("-shm")
        }
        assert after.keys() == before.keys()


DISK = """
import asyncio, resource, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from audit.journal import Journal
from audit.model import Entry, LedgerUnavailableError, Value

async def main(url):
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    journal = await Journal.open(url=url, origin="example.org/ledger", signing_key=key, seal_key=bytes(range(32, 64)),
                                 writer="gw-1", clock=lambda: 5, checkpoint_seconds=3600)
    written, refused = [], 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, hard))  # from here on the disk is full
    for n in range(800):
        try:
            await journal.append(Entry("call.start", f"c{n}", 5, "user:corp/ann", {}, (Value("request", bytes(20_000)),)))
            written.append(f"c{n}")
        except LedgerUnavailableError as error:
            refused += 1
            reason = error.detail
            if refused == 5:
                break
    healthy = bool(journal.healthy)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await journal.append(Entry("decision.deny", "after", 5))
    print(len(written), refused, healthy, bool(journal.healthy), reason)
    await journal.close()

asyncio.run(main(sys.argv[1]))
"""


def test_a_full_disk_refuses_cleanly_keeps_what_was_acknowledged_and_recovers(path: Path) -> None:
    command = [sys.executable, "-c", DISK, f"sqlite:///{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    written, refused, during, after, *reason = done.stdout.split(maxsplit=4)
    assert (refused, during, after) == ("5", "False", "True")
    assert reason
    assert int(written) > 10
    with Ledger.open(f"sqlite:///{path}") as ledger:
        there = {record.id for record in ledger.records()}
    assert {f"c{n}" for n in range(int(written))} | {"after"} <= there
    assert verify_sqlite(path, VKEY).findings == []
    assert path.stat().st_mode & 0o777 == 0o600
