"""A thousand writers that were killed, or whose disk or connection failed, at every commit point.

Nothing was executed without a durable start, nothing released without a durable end, nothing acknowledged and lost.
(Ten thousand: `python -m bench.crashes`.)
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bench.crash_faults import filters, names
from bench.crash_round import SPOOL_PLANTS, planted

pytestmark = pytest.mark.timeout(900)  # for a busy machine; alone it takes a minute

ROOT = Path(__file__).resolve().parents[2]
SPOOL_ROUNDS = {"sqlite": 200, "postgresql": 125}
ROUNDS = {"sqlite": 650, "postgresql": 400}
STORES = ("sqlite", pytest.param("postgresql", marks=pytest.mark.postgres))


def campaign(folder: Path, store: str, *more: str) -> dict[str, Any]:
    """Run it in a process of its own, as it forks; what it found."""
    out = folder / f"{store}.json"
    command = [sys.executable, "-m", "bench.crashes", "--store", store, "--json", str(out), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert out.exists(), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found | {"code": done.returncode}


@pytest.fixture(scope="module")
def campaigns(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Both stores' at the same time."""
    folder = tmp_path_factory.mktemp("campaigns")
    request.getfixturevalue("postgres")  # says so where there is no server to be had
    with ThreadPoolExecutor(2) as pool:
        running = {store: pool.submit(campaign, folder, store, "--rounds", str(rounds)) for store, rounds in ROUNDS.items()}
        yield {store: each.result() for store, each in running.items()}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.postgres
def test_whatever_a_writer_dies_of_the_ledger_says_what_was_executed_released_and_acknowledged(
    campaigns: dict[str, Any], store: str
) -> None:
    [run] = campaigns[store]["runs"]
    assert run["amiss"] == []
    rounds = ROUNDS[store]
    assert run["rounds"] == rounds
    assert run["ends"]["killed"] > rounds // 4
    assert filters(), "writes and syncs are made to fail by a filter of system calls"
    assert set(run["faults"]) == set(names(store))
    assert min(run["executed"], run["released"]) > rounds
    assert run["overlapping"] > rounds // 10
    assert run["verified"] == rounds // 25


@pytest.mark.postgres
def test_eight_writers_of_one_log_some_of_whom_are_killed_leave_no_gap_and_write_nothing_twice(tmp_path: Path) -> None:
    found = campaign(tmp_path, "postgresql", "--writers", "8", "--rounds", "12")
    [run] = found["runs"]
    assert run["amiss"] == []
    assert sum(run["ends"].values()) == 8 * 12
    assert run["ends"]["killed"] >= 6
    assert run["ends"]["went on to its end"] > 40
    assert run["acknowledged"] > 500


@pytest.mark.parametrize("store", STORES)
def test_the_campaign_notices_each_planted_bug(tmp_path: Path, store: str) -> None:
    found = campaign(tmp_path, store, "--plants", "--rounds", "600")
    assert {run["plant"]: bool(run["amiss"]) for run in found["runs"]} == dict.fromkeys(planted(store), True)
    assert found["code"] == 0


@pytest.mark.parametrize("store", STORES)
def test_nothing_is_lost_where_the_store_goes_away_and_calls_go_on_in_the_spool(tmp_path: Path, store: str) -> None:
    """Each round the store goes away for a while, also in the middle of a commit; most processes are killed then."""
    [run] = campaign(tmp_path, store, "--spool", "--rounds", str(SPOOL_ROUNDS[store]))["runs"]
    assert run["amiss"] == []
    assert run["rounds"] == SPOOL_ROUNDS[store]
    assert run["ends"]["killed"] > SPOOL_ROUNDS[store] // 10
    assert min(run["spooled"], run["executed"], run["released"]) > SPOOL_ROUNDS[store] // 2


@pytest.mark.parametrize("store", STORES)
def test_the_campaign_notices_each_bug_that_is_planted_in_the_spool(tmp_path: Path, store: str) -> None:
    found = campaign(tmp_path, store, "--spool", "--plants", "--rounds", "600")
    assert {run["plant"]: bool(run["amiss"]) for run in found["runs"]} == dict.fromkeys(SPOOL_PLANTS, True)
    assert found["code"] == 0
