"""Retention: what is old goes into an archive and later out of the log, and what is left proves all of it."""

from __future__ import annotations

import asyncio
import base64
import itertools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.archive import ArchiveError, FolderArchive
from audit.index import Index
from audit.journal import Journal
from audit.model import Entry, Receipt, TamperedError, Value
from audit.query import parse
from audit.reader import Ledger
from audit.retention import DAY, FLOORS, Retention, Rule, verify_segment
from audit.store_segments import Segments
from audit.verify import Ahead, Check, Trust
from audit.verify_url import rows_of, verify_url

from .conftest import NOON, ORIGIN, SEAL_KEY, VKEY, Open, end, start, tamper

GONE = "".join(
    f"DELETE FROM {table} WHERE idx < (SELECT stop FROM ledger_segments);" for table in ("ledger_leaves", "ledger_openings")
)
LATER = NOON + 8 * 365 * DAY


class Bench:
    """A log of some hundred records, an archive, and a retention that writes through the log's own journal."""

    def __init__(self, url: str, journal: Journal, folder: Path) -> None:
        self.url = url
        self.journal = journal
        self.archive = FolderArchive(folder)
        self.folder = folder
        self.now = NOON
        self.loop = asyncio.get_running_loop()

    def _append(self, entry: Entry) -> Receipt:
        return asyncio.run_coroutine_threadsafe(self.journal.append(entry), self.loop).result()

    def retention(self, rule: Rule | None = None) -> Retention:
        return Retention(self.url, self.archive, rule or Rule(), self._append, lambda: self.now)

    async def seal(self, rule: Rule | None = None) -> Any:
        return await asyncio.to_thread(self.retention(rule).seal, NOON + DAY)

    async def retire(self, rule: Rule | None = None) -> Any:
        return await asyncio.to_thread(self.retention(rule).retire, "user:corp/eve", "their time has come")

    def report(self, kept: str | None = None) -> Any:
        return verify_url(self.url, VKEY, kept)


@pytest.fixture
async def make(open_journal: Open, tmp_path: Path) -> Callable[..., Any]:
    clock = itertools.count(NOON)

    async def bench(url: str, pairs: int = 300) -> Bench:
        journal = await open_journal(url, clock=lambda: next(clock), checkpoint_seconds=0.01)
        work = []
        for n in range(pairs):
            work.append(journal.append(start(f"c{n}", f"user:corp/p{n % 7}", Value("request", b"ask %d" % n))))
            work.append(journal.append(end(f"e{n}", f"c{n}")) if n % 50 else asyncio.sleep(0))
        await asyncio.gather(*work)
        while (note := await asyncio.to_thread(journal.checkpoint)) is None or int(note.split("\n")[1]) < 512:
            await journal.append(Entry("audit.verify", f"v{next(clock)}", next(clock)))
        return Bench(url, journal, tmp_path / "archive")

    return bench


async def test_sealed_and_retired_records_are_gone_and_the_rest_verifies_from_there(url: str, make: Callable[..., Any]) -> None:
    bench = await make(url)
    manifest = await bench.seal()
    assert (manifest.start, manifest.stop % 256, manifest.stop >= 512) == (0, 0, True)
    assert verify_segment(bench.archive, manifest.name, VKEY)[0] == []
    assert bench.report().ok
    gone, held = await bench.retire()
    assert gone == []
    assert "kept until" in held[0].why
    bench.now = LATER
    gone, held = await bench.retire()
    assert ([each.stop for each in gone], held) == ([manifest.stop], [])
    report = bench.report()
    assert report.ok, report.findings
    assert report.first == manifest.stop
    assert any("were retired" in note for note in report.notes)
    await bench.journal.append(start("after"))
    await bench.journal.close()
    assert bench.report().ok
    with Ledger.open(url, SEAL_KEY) as ledger:
        assert ledger.first == manifest.stop
        assert ledger.get("c1") is None
        newest = next(ledger.records(manifest.stop))
        assert len(ledger.inclusion(newest.index, ledger.size)) > 0
        assert len(ledger.consistency(manifest.stop, ledger.size)) > 0
        with Index(ledger, None) as index:
            assert index.search(parse("id:after", NOON)).records[0].id == "after"


async def test_a_second_segment_continues_the_first_and_goes_after_it(url: str, make: Callable[..., Any]) -> None:
    bench = await make(url)
    first = await bench.seal()
    await asyncio.gather(*(bench.journal.append(start(f"x{n}")) for n in range(400)))
    while int((await asyncio.to_thread(bench.journal.checkpoint)).split("\n")[1]) < first.stop + 300:
        await bench.journal.append(Entry("audit.verify", f"w{bench.now}", NOON))
        bench.now += 1
    second = await bench.seal()
    assert second.start == first.stop
    carried = bench.archive.get(f"{first.name}/carry-out.json")
    assert verify_segment(bench.archive, second.name, VKEY, carried)[0] == []
    assert verify_segment(bench.archive, second.name, VKEY, b"{}")[0] == ["it does not continue the segment before it"]
    bench.now = LATER
    gone, _ = await bench.retire()
    assert [each.stop for each in gone] == [first.stop, second.stop]
    assert bench.report().ok
    assert bench.report().first == second.stop


async def test_checks_that_go_on_from_any_record_come_to_the_same(path: Path, open_journal: Open) -> None:
    journal = await open_journal()
    await journal.append(start("c1", "user:corp/ann", Value("request", b"ask")))
    for kind, name in (("egress.start", "g1"), ("sandbox.start", "s1"), ("egress.start", "g2")):
        await journal.append(Entry(kind, name, NOON, "user:corp/ann", {"workflow": "wf-1", "call": "c1"}))
    await journal.append(Entry("egress.end", "ge", NOON, "user:corp/ann", {"call": "g2"}))
    await journal.append(Entry("hold.set", "h1", NOON, None, {"reason": "a suit"}, (), {"target": "user:corp/bob"}))
    await journal.append(Entry("call.orphaned", "o1", NOON, "user:corp/ann", {"call": "g1", "reason": "its writer ended"}))
    await journal.append(Entry("sandbox.end", "se", NOON, "user:corp/ann", {"call": "c1", "start": "s1"}))
    await journal.append(end("e1", "c1"))
    await journal.close()
    await (await open_journal()).close()
    with rows_of(f"sqlite:///{path}") as tables:
        leaves = list(tables.rows("ledger_leaves"))
        openings = list(tables.rows("ledger_openings"))

        def checked(first: int, carry: bytes) -> list[bytes]:
            check = Check(tables, Trust())
            check.report.origin = ORIGIN
            if carry:
                check.resume(carry)
            beside, found = Ahead(iter([row for row in openings if row[0] >= first])), [check.carry()]
            for row in leaves[first:]:
                check.leaf(row, beside)
                found.append(check.carry())
            assert check.report.findings == []
            return found

        whole = checked(0, b"")
        for at in range(1, len(leaves) + 1):
            assert checked(at, whole[at]) == whole[at:], at


async def test_a_legal_hold_keeps_what_it_is_about_and_all_that_is_newer(url: str, make: Callable[..., Any]) -> None:
    bench = await make(url)
    await bench.journal.append(Entry("hold.set", "hold-1", NOON, None, {"reason": "a suit"}, (), {"target": "user:corp/p3"}))
    await bench.seal()
    bench.now = LATER
    gone, held = await bench.retire()
    assert gone == []
    assert "hold-1" in held[0].why
    await bench.journal.append(Entry("hold.clear", "clear-1", NOON, None, {"hold": "hold-1"}))
    gone, _ = await bench.retire()
    assert len(gone) == 1
    assert bench.report().ok


async def test_what_the_archive_lost_or_changed_is_not_retired(path: Path, make: Callable[..., Any]) -> None:
    bench = await make(f"sqlite:///{path}")
    manifest = await bench.seal()
    bench.now = LATER
    place = bench.folder / manifest.name / "entries-0000000000000000.zst"
    whole = place.read_bytes()
    place.chmod(0o600)
    place.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(TamperedError, match="not what was sealed"):
        await bench.retire()
    place.unlink()
    with pytest.raises(ArchiveError, match="cannot be read"):
        await bench.retire()
    with Ledger.open(bench.url) as ledger:
        assert ledger.first == 0
    place.write_bytes(whole)
    assert len((await bench.retire())[0]) == 1


async def test_every_file_of_a_segment_is_under_its_manifest_and_every_record_under_its_root(
    path: Path, make: Callable[..., Any]
) -> None:
    bench = await make(f"sqlite:///{path}")
    manifest = await bench.seal()
    for file in sorted((bench.folder / manifest.name).iterdir()):
        whole = file.read_bytes()
        file.chmod(0o600)
        for at in range(0, len(whole), max(1, len(whole) // 7)):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            try:
                wrong, _ = verify_segment(bench.archive, manifest.name, VKEY)
            except (TamperedError, ArchiveError, ValueError, KeyError):
                continue
            assert wrong or file.name == "manifest.json"  # whose digest is in the log, (file.name, at)
        file.write_bytes(whole)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("DELETE FROM ledger_leaves WHERE idx < 256", "256 records before this one are missing"),
        (f"UPDATE ledger_segments SET retired = 'r';{GONE}", "no record says that they were retired"),
        ("UPDATE ledger_segments SET retired = 'r', carry = x'7b7d'", "cannot be read"),
    ],
)
async def test_records_that_go_without_their_record_are_missed(
    path: Path, make: Callable[..., Any], script: str, said: str
) -> None:
    bench = await make(f"sqlite:///{path}")
    await bench.seal()
    await bench.journal.close()
    tamper(path, script)
    findings = " ".join(map(str, bench.report().findings))
    assert said in findings


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("UPDATE ledger_nodes SET hash = zeroblob(32) WHERE level = 1 AND idx = 0", "kept of the retired records"),
        ("UPDATE ledger_segments SET carry = replace(carry, '\"v\":1', '\"v\":1 ')", "cannot be read"),
    ],
)
async def test_what_is_kept_of_retired_records_cannot_be_changed(
    path: Path, make: Callable[..., Any], script: str, said: str
) -> None:
    bench = await make(f"sqlite:///{path}")
    await bench.seal()
    bench.now = LATER
    await bench.retire()
    await bench.journal.close()
    assert bench.report().ok
    tamper(path, script)
    assert said in " ".join(map(str, bench.report().findings))


async def test_the_database_itself_refuses_to_let_go_of_what_is_not_retired(path: Path, make: Callable[..., Any]) -> None:
    bench = await make(f"sqlite:///{path}")
    manifest = await bench.seal()
    assert await asyncio.to_thread(bench.retention().seal, NOON) is None  # nothing is older than that
    rows = sqlite3.connect(path, isolation_level=None)
    for statement in (
        "DELETE FROM ledger_leaves WHERE idx = 0",
        "DELETE FROM ledger_segments",
        "UPDATE ledger_segments SET stop = 0",
        f"INSERT INTO ledger_segments VALUES ({manifest.stop}, {manifest.stop + 256}, 'x', '', x'00')",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            rows.execute(statement)
    rows.close()


async def test_a_deletion_that_was_cut_off_is_finished_by_the_next(path: Path, make: Callable[..., Any]) -> None:
    bench = await make(f"sqlite:///{path}")
    manifest = await bench.seal()
    bench.now = LATER

    def stop_early(_done: int, _of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await asyncio.to_thread(_retire, bench, stop_early)
    assert bench.report().ok
    segments = Segments(bench.url)
    try:
        segments.delete()
    finally:
        segments.close()
    with Ledger.open(bench.url) as ledger:
        assert ledger.first == manifest.stop


def _retire(bench: Bench, progress: Callable[[int, int], None]) -> None:
    bench.retention().retire("user:corp/eve", "their time has come", progress)


def test_no_class_is_kept_for_less_than_its_floor() -> None:
    assert Rule(("pci-dss", "eu-ai-act"), 10).keep == FLOORS["pci-dss"] * DAY
    assert Rule(("eu-ai-act",), 400).keep == 400 * DAY
    for wrong in ((), ("forever",)):
        with pytest.raises(ValueError, match="there are"):
            Rule(wrong)


async def test_a_folder_takes_a_file_once(tmp_path: Path) -> None:
    archive = FolderArchive(tmp_path)
    archive.put("a/b", b"one", 0)
    archive.put("a/b", b"one", 0)
    with pytest.raises(TamperedError, match="other contents"):
        archive.put("a/b", b"two", 0)
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o400
    assert base64.b64encode(archive.get("a/b")) == b"b25l"
