"""Reading: what was recorded, opened for whoever has the key, and nothing that is not what the leaf commits to."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.model import TamperedError, Value
from audit.reader import Ledger
from audit.store import StoreError

from .conftest import SEAL_KEY, VKEY, Open, denial, end, start, tamper


async def fill(open_journal: Open, url: str) -> None:
    journal = await open_journal(url)
    await journal.append(start("c1", "user:corp/ann", Value("request", b"ask"), Value("facts", b"{}")))
    await journal.append(end("e1", "c1", Value("response", b"told")))
    await journal.append(start("c2", "user:corp/bob", workflow="wf-2"))
    await journal.append(denial("d1"))
    await journal.close()


async def test_records_are_read_in_order_by_range_by_id_by_workflow_and_from_the_end(url: str, open_journal: Open) -> None:
    await fill(open_journal, url)
    with Ledger.open(url) as ledger:
        everything = list(ledger.records())
        assert [record.index for record in everything] == list(range(ledger.size))
        assert list(ledger.records(2, 5)) == everything[2:5]
        assert ledger.tail(3) == everything[-3:]
        assert ledger.tail(1000) == everything
        assert [record.id for record in ledger.workflow("wf-1")] == ["c1", "e1", "d1"]
        assert [record.id for record in ledger.workflow("wf-2")] == ["c2"]
        assert ledger.workflow('"') == []
        assert ledger.get("nothing") is None
        record = ledger.get("c1")
        assert record is not None
        assert (record.id, record.kind, record.values) == ("c1", "call.start", ("facts", "request"))
        assert ledger.vkey == VKEY


async def test_without_the_seal_key_nothing_is_opened(url: str, open_journal: Open) -> None:
    await fill(open_journal, url)
    with Ledger.open(url) as ledger:
        record = ledger.get("c1")
        assert record is not None
        assert ledger.open_value(record, "request") is None
        assert ledger.subject_name(str(record.subject)) is None


async def test_a_value_that_the_record_does_not_have_is_none(url: str, open_journal: Open) -> None:
    await fill(open_journal, url)
    with Ledger.open(url, SEAL_KEY) as ledger:
        record = ledger.get("c1")
        assert record is not None
        assert ledger.open_value(record, "response") is None
        assert ledger.open_value(record, "writer") is None


@pytest.mark.parametrize(
    "script",
    [
        "UPDATE ledger_openings SET sealed = randomblob(length(sealed))",
        "UPDATE ledger_openings SET sealed = (SELECT sealed FROM ledger_openings WHERE name = 'facts') WHERE name = 'request'",
        "DELETE FROM ledger_openings",
        "UPDATE ledger_subjects SET dek = (SELECT dek FROM ledger_subjects WHERE pseudonym = 'log')",
        "UPDATE ledger_subjects SET dek = 'text'",
    ],
)
async def test_an_opening_that_is_not_the_one_that_was_sealed_is_never_shown(path: Path, open_journal: Open, script: str) -> None:
    await fill(open_journal, f"sqlite:///{path}")
    tamper(path, script)
    with Ledger.open(f"sqlite:///{path}", SEAL_KEY) as ledger:
        record = ledger.get("c1")
        assert record is not None
        with pytest.raises(TamperedError):
            ledger.open_value(record, "request")


@pytest.mark.parametrize(
    "script",
    [
        "UPDATE ledger_leaves SET data = CAST(replace(data, 'erp', 'crm') AS BLOB) WHERE id = 'c1'",
        "UPDATE ledger_leaves SET data = CAST(data AS TEXT) WHERE id = 'c1'",
        "UPDATE ledger_leaves SET hash = (SELECT hash FROM ledger_leaves WHERE id = 'c2') WHERE id = 'c1'",
    ],
)
async def test_a_record_that_was_changed_is_never_shown(path: Path, open_journal: Open, script: str) -> None:
    await fill(open_journal, f"sqlite:///{path}")
    tamper(path, script)
    with Ledger.open(f"sqlite:///{path}", SEAL_KEY) as ledger, pytest.raises(TamperedError, match="c1"):
        ledger.get("c1")


async def test_another_seal_key_opens_nothing(url: str, open_journal: Open) -> None:
    await fill(open_journal, url)
    with Ledger.open(url, b"x" * 32) as ledger:
        record = ledger.get("c1")
        assert record is not None
        with pytest.raises(TamperedError):
            ledger.open_value(record, "request")


def test_there_is_no_ledger_where_there_is_none_and_none_is_made(path: Path) -> None:
    with pytest.raises(StoreError):
        Ledger.open(f"sqlite:///{path}")
    assert not path.exists()


async def test_a_reader_sees_what_is_written_meanwhile(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    with Ledger.open(url) as ledger:
        before = ledger.size
        await journal.append(denial("d1"))
        assert ledger.size == before + 2
