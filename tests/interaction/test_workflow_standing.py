"""Where a workflow stands, over the API and on the command line: to its person, to whom policy grants it, and to nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.interaction.workflow_world import FILES, DataPeers, Play, code_of, workflow_gateway
from tests.interaction.world import ROOT, Gateway
from tests.interaction.world import peers as scripted

ORDERS = """\
workflow: orders
before: [{tool: desk.order, needs: desk.find, same: supplier, result: {field: risk, max: 60}}]
budget: [{tool: desk.order, count: 3, sum: amount, max: 100}]
chain: [{steps: [desk.score, "a2a:clerk"]}]
"""
CHANGED = {
    "roles.csv": FILES["roles.csv"] + "g, idp:finance-controllers, role:overseer, acme\n",
    "obligations.yaml": FILES["obligations.yaml"] + "by-staff: {type: human-approval, by: [role:staff], within: 1h}\n",
    "grants/more.csv": """\
p, role:overseer, acme, admin:workflows, read, allow, -, -, OVER-1
p, *, acme, desk.mail, call, require, -, by-staff, OVER-2
""",
}
ONE = {"supplier": "S-1", "amount": 60}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Play, dict[str, Any]]]:
    """A gateway, a story of paul's on it, and what the command line said of it."""
    folder = tmp_path_factory.mktemp("standing")
    with scripted(DataPeers()) as peers:
        assert isinstance(peers, DataPeers)
        gateway = workflow_gateway(folder, peers, {"orders": ORDERS})
        for name, text in CHANGED.items():
            (folder / "policies" / name).write_text(text)
        peers.tools["desk.find"] = lambda _: {"content": [], "structuredContent": {"risk": 12.5}}
        peers.says = {"a2a:clerk": "TASK_STATE_WORKING"}
        try:
            story = Play(gateway.start(), peers, "orders")
            for tool in ("desk.find", "desk.order", "desk.score"):
                assert code_of(story.call("paul:lead", tool, ONE)) == ""
            assert code_of(story.send("paul:lead", "a2a:clerk", {})) == ""
            assert code_of(story.call("paul:lead", "desk.mail", ONE)) == "approval-required"
            yield gateway, story, verb(gateway, "list")[1]["workflows"][0]
        finally:
            gateway.stop()


def verb(gateway: Gateway, *words: str, plain: bool = False) -> tuple[int, Any]:
    command = [sys.executable, "-m", "gateway.cli", "workflows", *words, "--config", str(gateway.config)]
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "200"}
    ran = subprocess.run(
        [*command, *([] if plain else ["--json"])],
        capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=ROOT,
    )  # fmt: skip
    assert ran.stdout, ran.stderr
    return ran.returncode, ran.stdout if plain else json.loads(ran.stdout)


def asked(gateway: Gateway, path: str, credential: str, **more: str) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {credential}", **more}
    answer = gateway.http.get(f"/api/workflows{path}", headers=headers)
    return answer.status_code, answer.json()


World = tuple[Gateway, Play, dict[str, Any]]


def test_a_person_sees_where_their_workflow_stands_what_may_come_next_and_what_it_waits_for(world: World) -> None:
    gateway, _, mine = world
    status, found = asked(gateway, f"/{mine['workflow']}", gateway.token("paul"))
    assert status == 200
    ahead = {each["step"]: each for each in found["next"]}
    order = ahead["desk.order"]
    assert (order["state"], order["when"]) == ("ready", ["with the same supplier as desk.find"])
    assert order["left"] == [{"rule": "orders/budget-1", "per": ["workflow"], "count": 2, "sum": "amount", "total": "40"}]
    states = [(step["resource"], step["state"]) for step in found["steps"]]
    done = [("desk.find", "ok"), ("desk.order", "ok"), ("desk.score", "ok")]
    assert states == [*done, ("a2a:clerk", "open"), ("desk.mail", "unsent")]
    waits = found["waits_for"]
    assert [each["resource"] for each in waits["approvals"]] == ["desk.mail"]
    assert [each["resource"] for each in waits["open"]] == ["a2a:clerk"]
    assert [each["agent"] for each in waits["tasks"]] == ["clerk"]
    assert (mine["subject"], mine["steps"], mine["open"], mine["approvals"]) == (found["subject"], 5, 1, 1)


def test_the_command_line_says_the_same_as_the_api(world: World) -> None:
    gateway, _, mine = world
    status, found = verb(gateway, "show", mine["workflow"])
    assert (status, found) == (0, asked(gateway, f"/{mine['workflow']}", gateway.token("paul"))[1])
    _, text = verb(gateway, "show", mine["workflow"], plain=True)
    assert "ready    desk.order  (left: 2 calls and 40 of amount for each workflow)" in text
    assert "somebody's yes to desk.mail, until " in text
    assert asked(gateway, "", gateway.token("paul"))[1] == {"workflows": [mine]}


def test_another_person_hears_the_same_of_a_foreign_workflow_as_of_one_that_does_not_exist(world: World) -> None:
    gateway, _, mine = world
    before = len(gateway.records(kind="decision.deny"))
    foreign = asked(gateway, f"/{mine['workflow']}", gateway.token("mia"))
    unknown = asked(gateway, "/wf-00000000000000000000000000", gateway.token("mia"))
    assert foreign == unknown
    assert (foreign[0], foreign[1]["title"]) == (404, "unknown-workflow")
    assert len(gateway.records(kind="decision.deny")) == before + 2  # that somebody asked is on record
    assert asked(gateway, "", gateway.token("mia")) == (200, {"workflows": []})
    assert asked(gateway, "?all=true", gateway.token("mia"))[0] == 403
    assert asked(gateway, f"/{mine['workflow']}", "no-token")[0] == 401


def test_whom_policy_grants_it_sees_all_of_the_tenant(world: World) -> None:
    gateway, _, mine = world
    status, found = asked(gateway, "?all=true", gateway.token("fiona"))
    assert (status, found) == (200, {"workflows": [mine]})
    assert asked(gateway, f"/{mine['workflow']}", gateway.token("fiona"))[0] == 200


def test_an_agent_is_no_oracle_of_its_own_workflow(world: World) -> None:
    gateway, story, mine = world
    secret, delegation = story.frame("paul:lead")
    frame = {"Bailiwick-Delegation": delegation}
    assert asked(gateway, f"/{mine['workflow']}", secret, **frame)[0] == 404
    assert asked(gateway, "", secret, **frame)[0] == 403


def evaluated(world: World, context: dict[str, Any], **arguments: Any) -> tuple[int, dict[str, Any]]:
    gateway, story, _ = world
    secret, delegation = story.frame("paul:lead")
    body = {
        "subject": {"type": "user", "id": "dev/paul"},
        "action": {"name": "call", "properties": {"arguments": arguments}},
        "resource": {"type": "tool", "id": "desk.order"},
        "context": context,
    }
    headers = {"Authorization": f"Bearer {secret}", "Bailiwick-Delegation": delegation}
    answer = gateway.http.post("/access/v1/evaluation", json=body, headers=headers)
    return answer.status_code, answer.json()


def test_the_decision_point_asks_the_workflow_that_is_named_and_says_so_where_it_asked_none(world: World) -> None:
    gateway, _, mine = world
    here = {"workflow": mine["workflow"]}
    for context, arguments, decision, reason, asked_of in [
        (here, {"supplier": "S-1", "amount": 40}, True, "allowed", {"asked": True, "id": mine["workflow"]}),
        (here, {"supplier": "S-1", "amount": 41}, False, "budget-spent", {"asked": True, "id": mine["workflow"]}),
        (
            here, {"supplier": "S-2", "amount": 1}, False, "step-missing",
            {"asked": True, "id": mine["workflow"], "missing": ["desk.find"]},
        ),
        ({}, {"supplier": "S-2", "amount": 1}, True, "allowed", {"asked": False}),
    ]:  # fmt: skip
        status, found = evaluated(world, context, **arguments)
        said = found["decision"], found["context"]["reason"], found["context"]["workflow"]
        assert (status, said) == (200, (decision, reason, asked_of))
    assert evaluated(world, {"workflow": "wf-00000000000000000000000000"}, supplier="S-1", amount=1)[0] == 403
    assert evaluated(world, {"workflow": "wf 1"}, supplier="S-1", amount=1)[0] == 400
    _, found = asked(gateway, f"/{mine['workflow']}", gateway.token("paul"))
    order = next(each for each in found["next"] if each["step"] == "desk.order")
    assert (order["left"][0]["count"], order["left"][0]["total"]) == (2, "40")  # nothing was drawn by asking
    reproduced = gateway.audit("reproduce", "--json")
    assert (reproduced.returncode, json.loads(reproduced.stdout)["undecidable"]) == (0, {}), reproduced.stdout


def test_a_step_that_waits_for_another_is_blocked_by_its_public_name(world: World) -> None:
    gateway, _, _ = world
    fresh = Play(gateway, world[1].peers, "orders")
    assert code_of(fresh.call("mia:lead", "desk.score", ONE)) == ""
    (mine,) = asked(gateway, "", gateway.token("mia"))[1]["workflows"]
    found = asked(gateway, f"/{mine['workflow']}", gateway.token("mia"))[1]
    ahead = {each["step"]: each for each in found["next"]}
    (blocked,) = ahead["desk.order"]["blocked_by"]
    assert (blocked["rule"], blocked["reason"], blocked["missing"]) == ("orders/before-1", "step-missing", ["desk.find"])
    assert ahead["a2a:clerk"]["state"] == "ready"
    assert verb(gateway, "show", "wf-00000000000000000000000000")[0] == 1
