"""`bailiwick policy status`, `reload`, `rollback`: what people see of policy that changes, and how the commands end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.bundle import load_texts
from tests.gateway.policy.live import ASKED_ONLY, Live, live, texts, write
from tests.interaction.world import ROOT, Peers, free_port

SEAL = "p, role:buyer, acme, desk.seal, call, allow, -, -, BUY-9\n"
FIRST, SECOND = texts(), texts(more=SEAL)


@pytest.fixture(scope="module")
def running(policy_upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("verbs"), policy_upstreams, FIRST, **ASKED_ONLY) as made:
        yield made


def command(running: Live, *words: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BAILIWICK_")}
    environment |= {"NO_COLOR": "1"} | ({"BAILIWICK_TOKEN": token} if token is not None else {})
    run = [sys.executable, "-m", "gateway.cli", "policy", *words, "--config", str(running.gateway.config)]
    return subprocess.run(run, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=ROOT)


def test_the_way_of_a_change_as_its_operator_sees_it(running: Live) -> None:
    old, new, admin = load_texts(FIRST).digest, load_texts(SECOND).digest, running.admin
    shown = command(running, "status", token=admin)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"active: {old}" in shown.stdout
    write(running.folder, SECOND)
    done = command(running, "reload", token=admin)
    assert (done.returncode, done.stdout) == (0, f"active: activated, {new} is in force\n")
    write(running.folder, texts(more="p, role:byer\n"))
    refused = command(running, "reload", token=admin)
    assert refused.returncode == 1
    assert f"active: rejected, {new} is in force" in refused.stdout
    assert "grants/more.csv:1:1: the line has 2 columns" in refused.stderr
    stale = command(running, "status", "--json", token=admin)
    assert stale.returncode == 1
    assert json.loads(stale.stdout)["rejected"]["active"]["findings"][0]["location"] == "grants/more.csv:1:1"
    back = command(running, "rollback", old[7:17], "--json", token=admin)
    assert (back.returncode, json.loads(back.stdout)) == (0, {"active": {"result": "activated", "digest": old}})


def test_a_token_that_does_not_hold_and_a_place_that_is_no_url_are_told_what_to_do(running: Live) -> None:
    stranger = command(running, "status", token="of-nobody")
    assert (stranger.returncode, stranger.stdout) == (2, "")
    assert "help: BAILIWICK_TOKEN holds a token that is not (or no longer) good here" in stranger.stderr
    nowhere = command(running, "status", "--url", "localhost:1", token=running.admin)
    assert (nowhere.returncode, "help: as http://127.0.0.1:8080" in nowhere.stderr) == (2, True)


def test_the_ledger_lists_which_bundle_came_into_force_and_why(running: Live) -> None:
    run = [sys.executable, "-m", "gateway.cli", "audit", "tail", "-n", "100", "--json", "--config", str(running.gateway.config)]
    rows = json.loads(subprocess.run(run, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT).stdout)["records"]
    first = next(row for row in rows if row["kind"] == "policy.activate")
    assert first["what"] == f"{load_texts(FIRST).digest[:19]} active start"


def test_who_may_not_is_told_so_and_the_command_ends_with_1(running: Live) -> None:
    for words in (("status",), ("reload",), ("rollback", "1")):
        ended = command(running, *words, token=running.gateway.token("mia"))
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "403 user-lacks-right" in ended.stderr


def test_misuse_ends_with_2_and_says_what_to_do(running: Live, tmp_path: Path) -> None:
    for words, token, says in (
        (("status",), None, "BAILIWICK_TOKEN holds no access token"),
        (("status",), "x\ny", "BAILIWICK_TOKEN holds no access token"),
        (("status",), "nonsense", "401 invalid-credential"),
        (("reload", "--url", f"http://127.0.0.1:{free_port()}"), running.admin, "does not answer"),
        (("reload", "--url", "nonsense"), running.admin, "is no URL"),
        (("rollback", ""), running.admin, "422"),
    ):
        ended = command(running, *words, token=token)
        assert (ended.returncode, ended.stdout) == (2, ""), ended
        assert says in ended.stderr
        assert running.admin not in ended.stderr


def test_a_bundle_that_nobody_kept_ends_with_1(running: Live) -> None:
    ended = command(running, "rollback", "deadbeef", token=running.admin)
    assert ended.returncode == 1
    assert "404 not-archived" in ended.stderr
