"""The report of a period: what it counts is there, and what is missing is said."""

from __future__ import annotations

import itertools
from pathlib import Path

from audit.controls import CONTROLS
from audit.leaf import KINDS
from audit.model import Entry
from audit.reader import Ledger
from audit.report import Report, describe, report

from .conftest import NOON, Open, denial, end, start

DAY = 86_400_000_000


def made(url: str, since: int = 0, until: int = 2**53) -> Report:
    with Ledger.open(url) as ledger:
        return report(ledger.origin, ledger.records(), size=ledger.size, since=since, until=until)


async def test_a_period_is_counted_and_what_has_no_end_is_said(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    await journal.append(start("c1", resource="erp.read", decision={"effect": "allow"}))
    await journal.append(end("e1", "c1"))
    await journal.append(start("c2", "user:corp/bob", resource="erp.pay"))
    await journal.append(denial("d1"))
    await journal.append(Entry("audit.review", "r1", NOON, "user:corp/eve", {"wanted": "all of it: fine"}))
    found = made(url)
    assert found.counts["kinds"]["call.start"] == 2
    assert found.counts["agents"] == {"agent:planner": 2}
    assert found.counts["effects"] == {"allow": 1, "deny": 1}
    assert found.persons == 3
    assert [point.id for point in found.open] == ["c2"]
    await journal.append(
        Entry("audit.export", "x1", NOON, None, {"by": "os:eve", "scope": "complete", "records": 6, "first": 0, "stop": 6})
    )
    found = made(url)
    [reviewed, exported] = found.audits
    assert (reviewed.kind, reviewed.what) == ("audit.review", "all of it: fine")
    assert (reviewed.who[:2], exported.what, exported.who) == ("s_", "complete: 6 of records 0 to 6", "os:eve")
    assert not found.complete
    told = describe(found)
    assert "LOOK: call.start c2 erp.pay has no end" in told
    assert f"audit.review all of it: fine by {reviewed.who}" in told
    assert "audit.export complete: 6 of records 0 to 6 by os:eve" in told
    await journal.append(end("e2", "c2"))
    await journal.close()
    after = made(url)
    assert after.complete
    assert [boot.stopped for boot in after.writers] == [True]
    assert "nothing looks as if it were missing" in describe(after)


async def test_an_end_after_the_period_is_an_end_and_nothing_else_counts(path: Path, open_journal: Open) -> None:
    clock = itertools.count(NOON + 10 * DAY)
    journal = await open_journal(f"sqlite:///{path}", clock=lambda: next(clock))
    await journal.append(start("c1"))
    await journal.append(later(end("e1", "c1"), NOON + DAY))
    await journal.close()
    found = made(f"sqlite:///{path}", NOON, NOON + 2)
    assert found.counts["kinds"]["call.start"] == 1
    assert found.open == []
    assert made(f"sqlite:///{path}", 1, 2).to_dict()["records"] == 0


def later(entry: Entry, at: int) -> Entry:
    return Entry(entry.kind, entry.id, at, entry.subject, entry.fields, entry.values)


async def test_a_missing_record_a_clock_that_went_back_and_a_silent_writer_are_gaps(path: Path, open_journal: Open) -> None:
    url = f"sqlite:///{path}"
    journal = await open_journal(url)
    await journal.append(later(denial("d1"), NOON + 500_000_000))
    await journal.append(later(denial("d2"), NOON + 100_000_000))
    await journal.append(later(denial("d3"), NOON + 900_000_000))
    await journal.close()
    with Ledger.open(url) as ledger:
        records = list(ledger.records())
    found = report("log", records[:2] + records[3:], size=len(records), since=0, until=2**53)
    assert any("records 2 to 2 are missing" in gap for gap in found.gaps)
    assert any("went back" in gap for gap in report("log", records, size=len(records), since=0, until=2**53).gaps)
    beating = [record for record in records if record.leaf["kind"] != "writer.stop"]
    for record in beating:
        if record.id == "d1":
            record.leaf["kind"] = "writer.heartbeat"
    gaps = report("log", beating, size=len(records), since=0, until=2**53).gaps
    assert any("said nothing for" in gap for gap in gaps)


async def test_orphans_are_told_apart_from_what_is_open(path: Path, open_journal: Open) -> None:
    url = f"sqlite:///{path}"
    journal = await open_journal(url)
    await journal.append(start("c1"))
    await journal.close()
    await (await open_journal(url)).close()
    found = made(url)
    assert found.open == []
    assert len(found.orphaned) == 1
    assert not found.complete


def test_every_control_names_what_records_have() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "records.md").read_text()
    named = {name for control in CONTROLS for name in control.fields}
    kinds = {name for name in named if "." in name}
    assert kinds <= KINDS
    assert [name for name in named - kinds if f"`{name.partition('.')[0]}`" not in page] == []
