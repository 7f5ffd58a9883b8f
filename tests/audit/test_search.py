"""Searching: the index finds what the log says, can be lost, and cannot lie unnoticed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.facets import FACETS, Facets, facets
from audit.index import Index
from audit.model import TamperedError, Value
from audit.query import QueryError, Term, instant, parse
from audit.reader import Ledger
from audit.store import StoreError

from .conftest import NOON, SEAL_KEY, Open, denial, end, start

NOW = 1_764_547_200_000_000  # 2025-12-01T00:00:00Z


async def fill(open_journal: Open, url: str) -> None:
    journal = await open_journal(url)
    await journal.append(
        start("c1", "user:corp/ann", Value("request", b"ask"), resource="erp.read", decision={"effect": "allow"})
    )
    await journal.append(end("e1", "c1"))
    await journal.append(start("c2", "user:corp/bob", workflow="wf-2", target="crm", resource="crm.find_100%"))
    await journal.append(denial("d1"))
    await journal.close()


def ids(index: Index, text: str, ledger: Ledger) -> list[str]:
    return [record.id for record in index.search(parse(text, NOW).known_by(ledger.pseudonym)).records]


async def test_records_are_found_by_what_they_say_newest_first(url: str, open_journal: Open, tmp_path: Path) -> None:
    await fill(open_journal, url)
    with Ledger.open(url, SEAL_KEY) as ledger, Index(ledger, tmp_path / "index.db") as index:

        def found(text: str) -> list[str]:
            return ids(index, text, ledger)

        assert found("kind:call.start") == ["c2", "c1"]
        assert found("kind:call.start,decision.deny") == ["d1", "c2", "c1"]
        assert found("kind:call.* server:erp") == ["e1", "c1"]  # an end is found by what its beginning said
        assert found("outcome:ok agent:agent:planner tool:read") == ["e1"]
        assert found("chain:agent:planner -kind:call.end") == ["c2", "c1"]
        assert found("call:c1") == ["e1", "c1"]
        assert found("effect:deny") == ["d1"]
        assert found("subject:user:corp/ann kind:call.start") == ["c1"]
        assert found("subject:corp/ann kind:call.start") == ["c1"]
        assert found("subject:user:corp/nobody") == []
        assert found("find_100%") == ["c2"]
        assert found("find?100%") == []
        assert found("kind:call.start -workflow:wf-2") == ["c1"]
        assert found("since:2100-01-01") == []
        assert len(found("until:2100-01-01")) == ledger.size
        assert index.counts("server", parse("kind:call.start", NOW)) == [("crm", 1), ("erp", 1)]
        assert list(index.check()) == []


async def test_a_page_and_the_same_question_later_find_the_same(path: Path, open_journal: Open, tmp_path: Path) -> None:
    await fill(open_journal, f"sqlite:///{path}")
    with Ledger.open(f"sqlite:///{path}") as ledger, Index(ledger, tmp_path / "index.db") as index:
        everything = index.search(parse("", NOW))
        first = index.search(parse("", NOW), count=2)
        journal = await open_journal()
        await journal.append(start("c3"))
        await journal.close()
        assert index.search(parse("", NOW), size=everything.size).records == everything.records
        pages, before = list(first.records), first.older
        while before is not None:
            page = index.search(parse("", NOW), count=2, before=before, size=first.size)
            pages, before = pages + list(page.records), page.older
        assert tuple(pages) == everything.records
        assert index.search(parse("c3", NOW)).records[0].id == "c3"


async def test_a_lost_index_and_that_of_another_log_are_made_anew(path: Path, open_journal: Open, tmp_path: Path) -> None:
    await fill(open_journal, f"sqlite:///{path}")
    place = tmp_path / "index.db"
    with Ledger.open(f"sqlite:///{path}") as ledger:
        with Index(ledger, place) as index:
            assert index.catch_up() == ledger.size
        rows = sqlite3.connect(place)
        rows.execute("UPDATE index_state SET origin = 'example.org/other'")
        rows.commit()
        rows.close()
        with Index(ledger, place) as index:
            assert list(index.check()) == []
        place.write_bytes(b"not a database at all" * 100)
        with pytest.raises(StoreError, match="can be deleted"):
            Index(ledger, place)
        place.unlink()
        with Index(ledger, place) as index:
            assert len(index.search(parse("kind:call.start", NOW)).records) == 2
        assert place.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("change", "query"),
    [
        ("UPDATE index_records SET effect = 'allow' WHERE id = 'd1'", "effect:allow"),
        ("UPDATE index_records SET subject = 's_other' WHERE id = 'c1'", "id:c1"),
        ("UPDATE index_records SET idx = 1000 WHERE id = 'c1'", ""),
    ],
)
async def test_an_index_that_was_changed_is_noticed_when_it_is_believed(
    path: Path, open_journal: Open, tmp_path: Path, change: str, query: str
) -> None:
    await fill(open_journal, f"sqlite:///{path}")
    place = tmp_path / "index.db"
    with Ledger.open(f"sqlite:///{path}") as ledger:
        with Index(ledger, place) as index:
            index.catch_up()
        rows = sqlite3.connect(place)
        rows.execute(change)
        rows.commit()
        rows.close()
        with Index(ledger, place) as index:
            assert list(index.check())
            if query:
                with pytest.raises(TamperedError, match="--rebuild"):
                    index.search(parse(query, NOW))
            assert index.rebuild() == ledger.size
            assert list(index.check()) == []


async def test_a_record_that_the_index_hides_is_found_by_the_check(path: Path, open_journal: Open, tmp_path: Path) -> None:
    await fill(open_journal, f"sqlite:///{path}")
    with Ledger.open(f"sqlite:///{path}") as ledger:
        with Index(ledger, tmp_path / "index.db") as index:
            index.catch_up()
        rows = sqlite3.connect(tmp_path / "index.db")
        rows.execute("DELETE FROM index_records WHERE id = 'd1'")
        rows.commit()
        rows.close()
        with Index(ledger, tmp_path / "index.db") as index:
            assert any("(d1)" in line for line in index.check())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kynd:call.start", "did you mean 'kind:'"),
        ('tool:"open', "quotation mark"),
        ("since:yesterday", "is no time"),
        ("since:1h since:2h", "said once"),
        ("since:0001-01-01", "outside"),
        ("a " * 40, "at most"),
        ("a" * 2000, "at most"),
    ],
)
def test_a_query_that_asks_for_nothing_says_what_was_wrong(text: str, said: str) -> None:
    with pytest.raises(QueryError, match=said):
        parse(text, NOW)


def test_times_are_utc_unless_they_say_otherwise() -> None:
    assert instant("2025-12-01", NOW) == NOW
    assert instant("2025-12-01T01:00+01:00", NOW) == NOW
    assert instant("2h", NOW) == NOW - 7_200_000_000
    assert instant("2025-11-30T23:59:59.999999", NOW) == NOW - 1
    assert parse('tool:"two words" -x', NOW).terms == (Term("tool", ("two words",)), Term("", ("x",), without=True))


@given(
    st.dictionaries(
        st.sampled_from([*FACETS, "decision", "outcome", "refused", "chain", "target"]),
        st.none() | st.text() | st.lists(st.none() | st.text() | st.lists(st.text())) | st.dictionaries(st.text(), st.text()),
    )
)
def test_whatever_a_leaf_says_it_has_facets_and_they_are_texts(leaf: dict[str, object]) -> None:
    found = facets(leaf, Facets("x", "call.start", agent="agent:a"))
    assert all(isinstance(value, str) for value in found)
    assert found._fields == FACETS


def test_every_facet_stands_in_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "search.md").read_text()
    assert [name for name in FACETS if f"`{name}`" not in page] == []


def test_noon_of_the_tests_lies_in_the_past_of_their_now() -> None:
    assert NOON < NOW  # or since: would be tried with nothing
