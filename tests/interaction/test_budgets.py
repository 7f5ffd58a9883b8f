"""`budget` as a duty, through whole gateways: what is spent is refused, what failed is given back, and a race has one winner."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.interaction.test_workflow_histories import settled
from tests.interaction.workflow_world import AGENTS, FILES, TOOLS, DataPeers, Play, code_of, told, workflow_gateway
from tests.interaction.world import Gateway, Heard, done
from tests.interaction.world import peers as scripted
from tests.postgres_server import database, server

DUTIES = """
money-call: {type: budget, sum: amount, max: 100, per: day}
money-send: {type: budget, sum: amount, max: 100, per: day}
mine:     {type: budget, sum: amount, max: 60.5, per: [subject, day, tool]}
thrice:   {type: budget, count: 3, per: [workflow, tool]}
one-only: {type: budget, count: 1, per: [agent, day, tool]}
"""
LINES = """\
p, *, acme, <order>, call, require, -, money-DO, BUD-1
p, *, acme, <order>, call, require, -, mine,     BUD-2
p, *, acme, <score>, call, require, -, thrice,   BUD-3
p, *, acme, <find>,  call, require, -, one-only, BUD-4
"""


def budgeting(folder: Path, peers: DataPeers, **more: Any) -> Gateway:
    gateway = workflow_gateway(folder, peers, {}, **more)
    policies = folder / "policies"
    (policies / "obligations.yaml").write_text(FILES["obligations.yaml"] + DUTIES)
    lines = ""
    for names, action in ((TOOLS, "call"), (AGENTS, "send")):
        found = LINES.replace("call,", f"{action},").replace("BUD", f"BUD-{action}").replace("-DO", f"-{action}")
        for step, name in names.items():
            found = found.replace(f"<{step}>", name)
        lines += found
    (policies / "grants" / "budgets.csv").write_text(lines)
    return gateway


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, DataPeers]]:
    with scripted(DataPeers()) as peers:
        assert isinstance(peers, DataPeers)
        gateway = budgeting(tmp_path_factory.mktemp("budgets"), peers)
        try:
            yield gateway.start(), peers
        finally:
            gateway.kill()


@pytest.mark.parametrize("names", [TOOLS, AGENTS], ids=["mcp", "a2a"])
def test_the_least_that_any_budget_has_left_counts_for_a_person_and_for_all(
    world: tuple[Gateway, DataPeers], names: dict[str, str]
) -> None:
    gateway, peers = world
    order = names["order"]
    paul, again, fiona = Play(gateway, peers, ""), Play(gateway, peers, ""), Play(gateway, peers, "")
    assert code_of(paul.does("paul:lead", order, {"amount": 40})) == ""
    assert code_of(again.does("paul:lead", order, {"amount": 20.5})) == ""  # another workflow of the same person
    before = len(peers.heard)
    refused = again.does("paul:lead", order, {"amount": 0.01})
    assert code_of(refused) == "budget-spent"
    assert "begins anew with the next day" in told(refused)
    assert code_of(fiona.does("fiona:lead", order, {"amount": 40})) == "budget-spent"  # money has 39.5 left for all
    assert code_of(fiona.does("fiona:lead", order, {"amount": "39"})) == "budget-spent"  # no number, nothing to count
    assert code_of(fiona.does("fiona:lead", order, {})) == "budget-spent"
    assert code_of(fiona.does("fiona:lead", order, {"amount": -5})) == "budget-spent"
    assert len(peers.heard) == before
    assert code_of(fiona.does("fiona:lead", order, {"amount": 39.5})) == ""
    denied = gateway.records(kind="decision.deny", resource=order)
    said = denied[0].leaf["decision"]["workflow"]
    assert {name for name, _ in said["held"]} == {f"duty:money-{'call' if names is TOOLS else 'send'}", "duty:mine"}
    assert said["refused"][0]["rule"].startswith("mine obligations.yaml:")


@pytest.mark.parametrize("names", [TOOLS, AGENTS], ids=["mcp", "a2a"])
def test_what_failed_gives_back_and_what_runs_counts(world: tuple[Gateway, DataPeers], names: dict[str, str]) -> None:
    gateway, peers = world
    score = names["score"]
    story = Play(gateway, peers, "")
    peers.says = {score: "TASK_STATE_FAILED"}
    peers.tools[score] = lambda _: done("no") | {"isError": True}
    if names is TOOLS:
        for _ in range(4):
            story.does("paul:lead", score, {})
        assert len([heard for heard in peers.heard if heard.message["params"].get("name") == "score"]) == 4
    peers.says = {}
    begun, go_on = threading.Event(), threading.Event()

    def wait(_: Heard) -> Any:
        begun.set()
        assert go_on.wait(60)
        return done("done") if names is TOOLS else "done"

    peers.tools[score] = peers.agents["courier"] = wait
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(story.does, "paul:lead", score, {})
        assert begun.wait(60)
        other = Play(gateway, peers, "", tokens=story.tokens)
        peers.tools.pop(score), peers.agents.pop("courier")
        codes = [code_of(_quiet(other, "paul:lead", score)) for _ in range(3)]
        go_on.set()
        assert code_of(running.result()) == ""
    assert codes == ["", "", "budget-spent"]
    assert code_of(Play(gateway, peers, "").does("paul:lead", score, {})) == ""  # a workflow of its own


def _quiet(play: Play, who: str, resource: str) -> Any:
    """Over a connection of its own: the other one waits."""
    twin = Play(play.gateway.twin("same"), play.peers, "", tokens=play.tokens)
    twin.gateway.url = play.gateway.url
    with twin.gateway.http:
        return twin.does(who, resource, {})


def test_the_state_store_and_the_ledger_agree_on_it_and_it_is_counted_anew_from_the_ledger(
    world: tuple[Gateway, DataPeers],
) -> None:
    gateway, peers = world
    story = Play(gateway, peers, "")
    for _ in range(3):
        assert code_of(story.call("mia:lead", "desk.score", {})) == ""
    assert settled(gateway)["differences"] == []
    gateway.stop()
    words = ("workflows", "rebuild", "--config", str(gateway.config), "--json")
    assert json.loads(_cli(*words))["differences"] == []
    gateway.start()
    assert code_of(story.call("mia:lead", "desk.score", {})) == "budget-spent"


def _cli(*words: str) -> str:
    ran = subprocess.run([sys.executable, "-m", "gateway.cli", *words], capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout, ran.stderr
    return ran.stdout


def test_looks_at_a_task_draw_on_nothing(world: tuple[Gateway, DataPeers]) -> None:
    gateway, peers = world
    story = Play(gateway, peers, "")
    sent = story.send("mia:lead", "a2a:courier", {})
    task = sent.json()["result"]["task"]["id"]
    secret, delegation = story.frame("mia:lead")
    for _ in range(4):
        look = gateway.ask("courier", "GetTask", {"id": task}, secret, **{"Bailiwick-Delegation": delegation})
        assert "result" in look.json(), look.text
    assert code_of(story.send("mia:lead", "a2a:courier", {})) == ""


@pytest.mark.postgres
def test_of_calls_that_race_for_the_last_unit_on_two_replicas_one_wins(tmp_path: Path) -> None:
    with ExitStack() as stack:
        peers = stack.enter_context(scripted(DataPeers()))
        url = stack.enter_context(database(stack.enter_context(server())))
        assert isinstance(peers, DataPeers)
        one = budgeting(tmp_path, peers, state={"url": url}, ledger={"url": url, "origin": "test.invalid/acme"})
        stack.callback(one.kill)
        two = one.start().twin("two")
        stack.callback(two.kill)
        two.start()
        stories = [Play(one, peers, ""), Play(two, peers, "")]
        for story in stories:
            story.begun("paul")
        for resource in (TOOLS["find"], AGENTS["find"]):
            with ThreadPoolExecutor(2) as pool:
                asked = [pool.submit(story.does, "paul:lead", resource, {}) for story in stories]
                assert sorted(code_of(answer.result()) for answer in asked) == ["", "budget-spent"]
    assert sorted(heard.path for heard in peers.heard) == ["/agents/clerk", "/mcp/desk"]
