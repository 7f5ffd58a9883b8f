"""`bailiwick audit search` and `tail -f`: what was recorded, found again, and seen as it comes."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from audit.journal import Journal
from audit.model import Entry
from gateway.configuration import load
from gateway.identity.keyfiles import ledger_key, seal_key
from gateway.model import wall_clock
from gateway.stores import ledger_url_of

from .conftest import Run

SETTINGS = "tenant: acme\npolicies: policies\n"


def record(config: Path, *entries: Entry) -> None:
    """Have a gateway of these settings record something."""
    settings = load(config, {})
    settings.data.mkdir(exist_ok=True)

    async def write() -> None:
        journal = await Journal.open(
            url=ledger_url_of(settings),
            origin=settings.ledger.origin,
            signing_key=ledger_key(settings.data, None, {}),
            seal_key=seal_key(settings.data, None, {}),
            writer="gw-1",
            clock=wall_clock,
        )
        for entry in entries:
            await journal.append(entry)
        await journal.close()

    asyncio.run(write())


def denial(name: str, agent: str) -> Entry:
    fields = {"workflow": "wf-1", "chain": [["user", "@subject"], ["agent", agent]], "resource": "erp.pay", "target": "erp"}
    return Entry("decision.deny", name, 1_763_800_000_000_000, "user:corp/ann", fields)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    place = tmp_path / "bailiwick.yaml"
    place.write_text(SETTINGS)
    record(place, denial("d1", "agent:a"), denial("d2", "agent:b"))
    return place


def test_a_search_lists_counts_checks_and_says_what_it_cannot_read(run: Run, config: Path) -> None:
    found = run("audit", "search", "kind:decision.deny", "agent:agent:b", "--reason", "a test", "--json", "--config", config).json
    assert [row["id"] for row in found["records"]] == ["d2"]
    assert found["older"] is None
    assert found["size"] >= 3
    assert "user:corp/ann > agent:b" in found["records"][0]["who"]
    listed = run("audit", "search", "subject:user:corp/ann", "-n", "1", "--config", config)
    assert "d2" in listed.out
    assert "--before" in listed.out
    counted = run("audit", "search", "effect:deny", "--count-by", "agent", "--json", "--config", config).json
    assert counted == {"by": "agent", "counts": [{"value": "agent:a", "count": 1}, {"value": "agent:b", "count": 1}]}
    assert run("audit", "search", "--check", "--json", "--config", config).json["agrees"] is True
    assert (config.parent / "data" / "ledger-index.db").exists()
    for words, said in ((("kynd:x",), "did you mean"), (("--count-by", "colour"), "there are:")):
        wrong = run("audit", "search", *words, "--config", config)
        assert wrong.code == 2
        assert said in wrong.err


def test_a_copy_is_searched_without_a_file_beside_it(run: Run, config: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    (copy / "copy.db").write_bytes((config.parent / "data" / "ledger.db").read_bytes())
    found = run("audit", "search", "id:d1", "--ledger", copy / "copy.db", "--json", "--config", config).json
    assert [row["id"] for row in found["records"]] == ["d1"]
    assert not list(copy.glob("*index*"))


def test_an_index_that_was_changed_ends_the_search_with_a_finding(run: Run, config: Path) -> None:

    run("audit", "search", "--config", config)
    rows = sqlite3.connect(config.parent / "data" / "ledger-index.db")
    rows.execute("UPDATE index_records SET agent = 'agent:z' WHERE id = 'd1'")
    rows.commit()
    rows.close()
    lied = run("audit", "search", "agent:agent:z", "--config", config)
    assert lied.code == 1
    assert "--rebuild" in lied.err
    assert run("audit", "search", "--check", "--config", config).code == 1
    assert run("audit", "search", "--rebuild", "--check", "--config", config).code == 0


def test_a_follower_whose_reader_left_stops_at_the_next_record(config: Path) -> None:
    command = [sys.executable, "-m", "gateway.cli", "audit", "tail", "-f", "-n", "1", "--json", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        follower.stdout.readline()
        follower.stdout.close()
        number = 0
        while follower.poll() is None:
            number += 1
            record(config, denial(f"late-{number}", "agent:c"))
        assert (follower.returncode, follower.stderr.read()) == (0, "")


def test_a_follower_sees_what_is_recorded_while_it_looks(config: Path) -> None:
    command = [sys.executable, "-m", "gateway.cli", "audit", "tail", "-f", "-n", "1", "--json", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        first = json.loads(follower.stdout.readline())
        record(config, denial("d3", "agent:c"))
        seen = [first]
        while seen[-1]["id"] != "d3":
            seen.append(json.loads(follower.stdout.readline()))
        follower.terminate()  # Ctrl-C is ignored by what is started in the background
        follower.wait(30)
    assert [row["index"] for row in seen] == list(range(first["index"], first["index"] + len(seen)))


def test_a_workflow_is_written_as_a_page_for_its_owner_alone(run: Run, config: Path, tmp_path: Path) -> None:
    place = tmp_path / "story.html"
    told = run("audit", "trace", "wf-1", "--html", place, "--config", config)
    assert (told.code, told.out) == (0, "")
    assert "denied" in place.read_text()
    assert place.stat().st_mode & 0o077 == 0
    wrong = run("audit", "trace", "wf-1", "--html", tmp_path / "gone" / "story.html", "--config", config)
    assert wrong.code == 2
    assert "cannot be written" in wrong.err
