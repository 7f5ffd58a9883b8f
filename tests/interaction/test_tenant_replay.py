"""Decisions of all tenants' logs made again, and asked of another bundle: one summary, and no log that hides behind another."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interaction.tenants_world import ACME, GLOBEX, Tenants
from tests.interaction.world import Peers

LOGS = {"ledger", ACME, GLOBEX}
CALLS = 3


@pytest.fixture(scope="module")
def played(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Tenants:
    """A gateway that has ended: calls of two tenants, each with one that is denied."""
    tenants = Tenants(tmp_path_factory.mktemp("tenant-replay"), upstreams)
    try:
        tenants.start()
        for person in ("paul", "mia"):
            token = tenants.token(person)
            for tool in ("desk.read", "desk.slow", "vault.open"):
                tenants.call(tool, token)
    finally:
        tenants.stop()
    return tenants


@pytest.fixture
def changed(played: Tenants, tmp_path: Path) -> Iterator[Any]:
    """Changes a database as a thief of it would; put back afterwards."""
    kept = {}

    def change(name: str, trigger: str, sql: str) -> None:
        file = played.file_of(name)
        kept[file] = shutil.copy(file, tmp_path / file.name)
        with sqlite3.connect(file) as thief:
            guard = thief.execute("SELECT sql FROM sqlite_master WHERE name = ?", (trigger,)).fetchone()
            thief.execute(f"DROP TRIGGER IF EXISTS {trigger}")
            assert thief.execute(sql).rowcount > 0
            thief.execute(guard[0] if guard else "SELECT 1")
        thief.close()

    yield change
    for file, copy in kept.items():
        shutil.copy(copy, file)


def asked(tenants: Tenants, *words: str, code: int) -> Any:
    ended, out, err = tenants.cli(*words, "--json")
    assert ended == code, out + err
    return json.loads(out)


def replayed(tenants: Tenants, *words: str, code: int) -> Any:
    return asked(tenants, "policy", "replay", str(tenants.folder / "policies"), "--since", "", *words, code=code)


def test_one_summary_tells_of_the_decisions_of_every_log(played: Tenants) -> None:
    again = asked(played, "audit", "reproduce", "--all-logs", code=0)
    assert set(again["logs"]) == LOGS
    assert [again["logs"][name]["decisions"] for name in (ACME, GLOBEX)] == [CALLS, CALLS]
    assert again["identical"] == again["decisions"] == sum(each["decisions"] for each in again["logs"].values())
    same = replayed(played, "--all-logs", code=0)
    assert (same["decisions"], same["same"], same["logs"][ACME]) == (
        2 * CALLS,
        2 * CALLS,
        {"decisions": CALLS, "replayed": CALLS},
    )
    alone = replayed(played, "--log", ACME, code=0)
    assert (alone["decisions"], "logs" in alone) == (CALLS, False)
    assert (
        f"log {GLOBEX}: {CALLS} decisions, {CALLS} of them replayed"
        in played.cli("policy", "replay", str(played.folder / "policies"), "--all-logs")[1]
    )
    for name in LOGS:  # and each reading is on record where it was
        assert [each.kind for each in played.log_of(name)].count("audit.read") >= 2


def test_what_one_tenant_would_gain_is_found_and_told_by_the_persons_name(played: Tenants, tmp_path: Path) -> None:
    candidate = shutil.copytree(played.folder / "policies", tmp_path / "candidate")
    with (candidate / "grants/tenants.csv").open("a") as file:
        file.write(f"p, role:staff, {GLOBEX}, vault.*, call, allow, -, -, NEW-1\n")
    found = asked(played, "policy", "replay", str(candidate), "--since", "", "--all-logs", "--names", code=1)
    granted = found["changed"]["deny->allow"]
    assert (granted["count"], [each["subject"] for each in granted["subjects"]]) == (1, ["user:dev/mia"])


def test_a_log_of_which_nothing_can_be_asked_again_does_not_pass_beside_one_that_is_well(played: Tenants, changed: Any) -> None:
    changed(GLOBEX, "none", "DELETE FROM ledger_openings")
    found = replayed(played, "--all-logs", code=1)
    assert (found["logs"][GLOBEX], found["logs"][ACME]["replayed"]) == ({"decisions": CALLS, "replayed": 0}, CALLS)
    again = asked(played, "audit", "reproduce", "--all-logs", code=1)
    assert (again["logs"][GLOBEX]["ok"], again["logs"][ACME]["ok"], again["ok"]) == (False, True, False)
    assert {each["log"] for each in again["findings"]} == {GLOBEX}


def test_attack_a_record_of_one_tenant_is_changed_and_that_log_is_named(played: Tenants, changed: Any) -> None:
    other = 'CAST(replace(data, \'"effect":"deny"\', \'"effect":"allow"\') AS BLOB)'
    changed(GLOBEX, "ledger_leaves_no_update", f"UPDATE ledger_leaves SET data = {other} WHERE instr(data, 'decision.deny') > 0")
    for words, code in ((("audit", "reproduce"), 1), (("policy", "replay", str(played.folder / "policies")), 2)):
        ended, _, err = played.cli(*words, "--since", "", "--all-logs")
        assert (ended, f"the ledger ({GLOBEX}) was changed" in err) == (code, True), err


def test_all_logs_and_one_log_are_not_asked_for_at_once_and_whoever_names_none_is_told_both(played: Tenants) -> None:
    for words in (("--all-logs", "--log", ACME), ("--all-logs", "--ledger", str(played.file_of(ACME)))):
        ended, _, err = played.cli("audit", "reproduce", *words)
        assert (ended, "--all-logs is about every log" in err) == (2, True)
    ended, _, err = played.cli("audit", "reproduce")
    assert (ended, "--all-logs" in err) == (2, True)
