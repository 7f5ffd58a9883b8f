"""A workflow's history is what the ledger says happened: live, after a crash, and told again from its records."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.interaction.workflow_world import DataPeers, Play, code_of, until, workflow_gateway
from tests.interaction.world import ROOT, Gateway, Heard, done
from tests.interaction.world import peers as scripted

FILES = {
    "orders": """\
workflow: orders
before: [{tool: desk.order, needs: desk.find, same: supplier, result: {field: risk, max: 60}}]
budget:
  - {tool: desk.order, count: 4, sum: amount, max: 100, per: [workflow]}
  - {tool: desk.order, count: 9, per: [subject, day]}
distinct: [{steps: [desk.order, desk.mail], of: person, same: supplier}]
""",
}
ONE = {"supplier": "S-1", "amount": 10}
FOUND = {"content": [], "structuredContent": {"risk": 12.5}}


@pytest.fixture
def upstreams() -> Iterator[DataPeers]:
    with scripted(DataPeers()) as peers:
        assert isinstance(peers, DataPeers)
        yield peers


@pytest.fixture
def world(upstreams: DataPeers, tmp_path: Path) -> Iterator[tuple[Gateway, DataPeers]]:
    gateway = workflow_gateway(tmp_path, upstreams, FILES)
    try:
        yield gateway.start(), upstreams
    finally:
        gateway.kill()


def workflows(gateway: Gateway, *words: str) -> tuple[int, dict[str, Any]]:
    """`bailiwick workflows … --json`."""
    command = [sys.executable, "-m", "gateway.cli", "workflows", *words, "--config", str(gateway.config), "--json"]
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "200"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=ROOT)
    assert ran.stdout, ran.stderr
    return ran.returncode, json.loads(ran.stdout)


def settled(gateway: Gateway) -> dict[str, Any]:
    """What a comparison of both stores says, once each knows of all calls."""
    with sqlite3.connect(gateway.folder / "data" / "state.db") as state:
        count = state.execute("SELECT count(*) FROM workflow_steps WHERE state NOT IN ('unsent', 'running')").fetchone()[0]
    status, found = workflows(gateway, "rebuild", "--check")
    assert (status, found["steps"]) == (bool(found["differences"]), count)
    return found


def busy(gateway: Gateway, peers: DataPeers) -> list[str]:
    """A mixed hour: calls that succeed, fail, hang, are refused; from several agents and persons at once."""
    answers = itertools.cycle([FOUND, done("no") | {"isError": True}])
    peers.tools["desk.find"] = lambda _: next(answers)
    stories = [Play(gateway, peers, name) for name in ("orders", "orders", "")]
    for story in stories:
        story.begun("paul"), story.begun("fiona")

    def moves(story: Play) -> list[str]:
        tools = ("desk.order", "desk.find", "desk.find", "desk.order", "desk.mail", "desk.order", "desk.score")
        made = [(f"{person}:lead", tool) for person in ("paul", "fiona") for tool in tools]
        return [code_of(story.call(who, tool, ONE)) for who, tool in made]

    with ThreadPoolExecutor(3) as pool:
        return [code for codes in pool.map(moves, stories) for code in codes]


def test_a_history_told_again_from_the_ledger_is_the_live_one(world: tuple[Gateway, DataPeers]) -> None:
    gateway, peers = world
    codes = busy(gateway, peers)
    assert {"", "step-missing"} <= set(codes)
    found = settled(gateway)
    assert found["differences"] == []
    assert found["steps"] > 20


def test_what_was_changed_in_the_store_is_found_and_told_right_again(world: tuple[Gateway, DataPeers]) -> None:
    gateway, peers = world
    busy(gateway, peers)
    assert settled(gateway)["differences"] == []
    gateway.stop()
    with sqlite3.connect(gateway.folder / "data" / "state.db") as state:
        state.execute("DELETE FROM workflow_steps WHERE call = (SELECT max(call) FROM workflow_steps WHERE state = 'ok')")
        state.execute("UPDATE workflow_steps SET state = 'ok' WHERE state = 'failed'")
        state.execute("UPDATE workflow_purses SET drawn = 0, total = '0'")
    found = until(lambda: _differing(gateway, 2))  # a step that one of the two lacks is waited for
    pairs = [[(each[side] or {}).get("state", "none") for side in ("stored", "told")] for each in found["differences"]]
    kinds = {">".join(pair) for pair in pairs}
    assert kinds == {"ok>failed", "none>ok"}
    status, found = workflows(gateway, "rebuild")
    assert (status, bool(found["differences"])) == (0, True)
    assert workflows(gateway, "rebuild", "--check") == (0, {**found, "differences": [], "changed": False})
    with sqlite3.connect(gateway.folder / "data" / "state.db") as state:
        assert state.execute("SELECT count(*) FROM workflow_purses").fetchone() == (0,)  # counted from the steps when asked for


def _differing(gateway: Gateway, kinds: int) -> dict[str, Any] | None:
    status, found = workflows(gateway, "rebuild", "--check")
    assert status == bool(found["differences"])
    return found if len({each["stored"] is None for each in found["differences"]}) == kinds else None


def test_a_budget_holds_after_its_count_was_lost(world: tuple[Gateway, DataPeers]) -> None:
    gateway, peers = world
    peers.tools["desk.find"] = lambda _: FOUND
    story = Play(gateway, peers, "orders")
    assert code_of(story.call("paul:lead", "desk.find", ONE)) == ""
    for _ in range(4):
        assert code_of(story.call("paul:lead", "desk.order", ONE)) == ""
    gateway.stop()
    with sqlite3.connect(gateway.folder / "data" / "state.db") as state:
        state.execute("DELETE FROM workflow_purses")
    gateway.start()
    assert code_of(story.call("paul:lead", "desk.order", ONE)) == "budget-spent"


def test_a_call_that_its_gateway_did_not_survive_satisfies_nothing_and_counts(world: tuple[Gateway, DataPeers]) -> None:
    gateway, peers = world
    arrived, over = threading.Event(), threading.Event()

    def hang(_heard: Heard) -> dict[str, Any]:
        arrived.set()
        over.wait(60)
        return FOUND

    peers.tools["desk.find"] = hang
    story = Play(gateway, peers, "orders")
    story.begun("paul")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(story.call, "paul:lead", "desk.find", ONE)
        assert arrived.wait(60)
        gateway.kill()
        over.set()
        assert waiting.exception() is not None
    gateway.start()
    assert code_of(story.call("paul:lead", "desk.order", ONE)) == "step-missing"
    with sqlite3.connect(gateway.folder / "data" / "state.db") as state:
        state.execute("UPDATE workflow_steps SET at = at - 120000000")  # the gateway looks for those that are a minute old
        state.commit()
    gateway.stop()
    gateway.start()

    def states() -> list[str]:
        _, found = workflows(gateway, "show", _workflow(gateway))
        return [step["state"] for step in found["steps"]]

    assert until(lambda: states() == ["uncertain"] and states())


def _workflow(gateway: Gateway) -> str:
    _, found = workflows(gateway, "list")
    (only,) = found["workflows"]
    return str(only["workflow"])


def test_a_client_that_hangs_up_leaves_a_step_that_is_settled_by_its_outcome(world: tuple[Gateway, DataPeers]) -> None:
    gateway, peers = world
    arrived, over = threading.Event(), threading.Event()

    def hang(_heard: Heard) -> dict[str, Any]:
        arrived.set()
        over.wait(60)
        return FOUND

    peers.tools["desk.find"] = hang
    story = Play(gateway, peers, "orders")
    story.begun("paul")
    gateway.http.timeout = 2
    with pytest.raises(Exception, match="timed out"):
        story.call("paul:lead", "desk.find", ONE)
    assert arrived.is_set()
    over.set()
    gateway.http.timeout = 60
    (end,) = until(lambda: gateway.records(kind="call.end"))
    done_ = end.leaf["outcome"]["step"] == "ok"  # whether the gateway saw it hang up before the answer came, is chance
    assert code_of(story.call("paul:lead", "desk.order", ONE)) == ("" if done_ else "step-missing")
    assert settled(gateway)["differences"] == []


def test_two_gateways_over_one_database_hold_one_budget(world: tuple[Gateway, DataPeers]) -> None:
    gateway, peers = world
    peers.tools["desk.find"] = lambda _: FOUND
    twin = gateway.twin("second").start()
    try:
        story = Play(gateway, peers, "orders")
        assert code_of(story.call("paul:lead", "desk.find", ONE)) == ""
        other = Play(twin, peers, "orders", tokens=story.tokens)
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(each.call, "paul:lead", "desk.order", ONE) for each in (story, other) * 6]
            codes = sorted(code_of(answer.result()) for answer in asked)
        assert codes == [""] * 4 + ["budget-spent"] * 8
        assert len([heard for heard in peers.heard if heard.message["params"]["name"] == "order"]) == 4
    finally:
        twin.stop()
