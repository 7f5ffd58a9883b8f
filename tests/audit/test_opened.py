"""Many records opened at once: the same values as one by one, in the same order, and nothing that was destroyed or exchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit import reader
from audit.model import TamperedError, Value
from audit.reader import Damaged, Ledger, Opened, Shredded

from .conftest import NOON, SEAL_KEY, Open, denial, end, start, tamper

KINDS = ("call.start", "decision.deny")
NAMES = ("request", "facts")


async def fill(open_journal: Open, url: str, count: int = 40) -> None:
    journal = await open_journal(url)
    for number in range(count):
        values = (Value("request", b"ask %d" % number), Value("facts", b"{}" * number))
        await journal.append(start(f"c{number}", f"user:corp/p{number % 7}", *values[: number % 3]))
        await journal.append(end(f"e{number}", f"c{number}", Value("response", b"told")))
    await journal.append(denial("d1"))
    await journal.close()


def opened(url: str, **where: int) -> list[Opened]:
    with Ledger.open(url, SEAL_KEY) as log:
        return list(log.opened(KINDS, NAMES, **where))


@pytest.mark.parametrize(("batch", "size"), [(256, 2**23), (1, 2**23), (3, 2**23), (256, 10)])
async def test_what_is_opened_at_once_is_what_is_opened_alone(
    url: str, open_journal: Open, monkeypatch: pytest.MonkeyPatch, batch: int, size: int
) -> None:
    monkeypatch.setattr(reader, "_BATCH", batch)
    monkeypatch.setattr(reader, "_BATCH_BYTES", size)
    await fill(open_journal, url)
    found = opened(url)
    with Ledger.open(url, SEAL_KEY) as log:
        assert [each.record for each in found] == [record for record in log.records() if record.kind in KINDS]
        for each in found:
            assert each.values == {name: log.open_value(each.record, name) for name in NAMES}
            assert each.subject == log.subject_name(str(each.record.subject))
    assert any(value for each in found for value in each.values.values())


async def test_a_part_of_the_log_is_taken_by_place_and_by_time(url: str, open_journal: Open) -> None:
    await fill(open_journal, url, 10)
    everything = opened(url)
    middle = everything[4].record.index
    assert opened(url, start=middle) == everything[4:]
    assert opened(url, stop=middle) == everything[:4]
    assert opened(url, since=NOON) == everything
    assert opened(url, since=NOON + 1) == []


async def test_an_erased_person_is_said_to_be_erased_and_the_others_are_read(url: str, open_journal: Open) -> None:
    await fill(open_journal, url)
    journal = await open_journal(url)
    await journal.shred("user:corp/p3", request="R-1", approver="dpo")
    await journal.close()
    for each in opened(url):
        gone = each.record.id.startswith("c") and int(each.record.id[1:]) % 7 == 3
        assert isinstance(each.subject, Shredded) == gone
        assert {isinstance(value, Shredded) for value in each.values.values() if value is not None} <= {gone}


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("UPDATE ledger_openings SET sealed = randomblob(length(sealed))", "not the one that the leaf names"),
        ("DELETE FROM ledger_openings", "missing"),
        ("UPDATE ledger_openings SET sealed = 'text'", ""),
        ("UPDATE ledger_subjects SET dek = randomblob(length(dek)) WHERE pseudonym != 'log'", "key"),
    ],
)
async def test_what_was_exchanged_is_said_to_be_damaged_and_is_never_shown(
    path: Path, open_journal: Open, script: str, why: str
) -> None:
    await fill(open_journal, f"sqlite:///{path}")
    tamper(path, script)
    values = [value for each in opened(f"sqlite:///{path}") for value in each.values.values() if value is not None]
    assert values
    assert all(isinstance(value, Damaged) and why in value.why for value in values)


async def test_a_name_that_was_exchanged_is_damaged_and_the_values_are_not(path: Path, open_journal: Open) -> None:
    await fill(open_journal, f"sqlite:///{path}")
    tamper(path, "UPDATE ledger_subjects SET name = randomblob(length(name)) WHERE pseudonym != 'log'")
    for each in opened(f"sqlite:///{path}"):
        assert isinstance(each.subject, Damaged)
        assert not any(isinstance(value, Damaged) for value in each.values.values())


async def test_a_record_that_was_changed_stops_the_reading(path: Path, open_journal: Open) -> None:
    await fill(open_journal, f"sqlite:///{path}")
    tamper(path, "UPDATE ledger_leaves SET data = replace(data, 'planner', 'plumber') WHERE id = 'c9'")
    with pytest.raises(TamperedError):
        opened(f"sqlite:///{path}")
