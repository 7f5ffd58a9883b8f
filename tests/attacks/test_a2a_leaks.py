"""Two people share one agent through the gateway; mia tries everything to reach paul's task and conversation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.a2a.world import World, gateway, reference_agent

ZERO = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def agent_url() -> Iterator[str]:
    with reference_agent() as url:
        yield url


@pytest.fixture
async def world(tmp_path: Path, agent_url: str) -> AsyncIterator[World]:
    async with gateway(tmp_path, {"ref": agent_url, "other": agent_url}) as running:
        yield running


@pytest.fixture
async def task(world: World) -> dict[str, Any]:
    """paul's task: waiting for input, so that a follow-up message could continue it."""
    answer = await world.send("paul", "tck-input-required-1", "paul's secret")
    found: dict[str, Any] = answer["result"]["task"]
    return found


def message(**fields: Any) -> dict[str, Any]:
    return {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}], **fields}}


def assert_same(answer: httpx.Response, unknown: httpx.Response) -> None:
    """Byte for byte what is answered for something that never was."""
    assert answer.status_code == unknown.status_code == 200
    assert answer.content == unknown.content
    assert answer.json()["error"]["code"] == -32001
    varying = {"date", "bailiwick-decision", "bailiwick-workflow"}
    shown, hidden = ({k: v for k, v in r.headers.items() if k not in varying} for r in (answer, unknown))
    assert shown == hidden


async def never_sent(world: World, before: int) -> None:
    assert "call.start" not in [entry.kind for entry in world.ledger.entries[before:]]


async def test_an_unknown_task_is_answered_as_the_agent_itself_would(world: World, agent_url: str) -> None:
    body = {"jsonrpc": "2.0", "id": "1", "method": "GetTask", "params": {"id": ZERO}}
    async with httpx.AsyncClient(trust_env=False, verify=False) as direct:
        said = (await direct.post(agent_url, json=body, headers={"a2a-version": "1.0"})).json()
    assert (await world.rpc("mia", "GetTask", {"id": ZERO})).json() == said


async def test_a_task_of_one_agent_is_unknown_at_another(world: World, task: dict[str, Any]) -> None:
    answer = await world.rpc("paul", "GetTask", {"id": task["id"]}, agent="other")
    assert_same(answer, await world.rpc("paul", "GetTask", {"id": ZERO}, agent="other"))


async def test_a_task_made_behind_the_gateways_back_is_unknown(world: World, agent_url: str) -> None:
    body = {"jsonrpc": "2.0", "id": "1", "method": "SendMessage", "params": message(messageId="tck-input-required-9")}
    async with httpx.AsyncClient(trust_env=False, verify=False) as direct:
        made = (await direct.post(agent_url, json=body, headers={"a2a-version": "1.0"})).json()["result"]["task"]["id"]
    assert_same(await world.rpc("mia", "GetTask", {"id": made}), await world.rpc("mia", "GetTask", {"id": ZERO}))


@pytest.mark.parametrize("name", ["contextId", "context_id"])
async def test_somebody_elses_context_cannot_be_entered(world: World, task: dict[str, Any], name: str) -> None:
    """Whoever says it begins a conversation of their own, of which the agent hears by another id."""
    answer = (await world.rpc("mia", "SendMessage", message(messageId="gw-message-4", **{name: task["contextId"]}))).json()
    seen = json.loads(answer["result"]["message"]["parts"][0]["text"])
    assert seen["contextId"] != task["contextId"]
    assert (await world.send("mia", "plain-1", **{name: task["contextId"]}))["result"]["task"]["contextId"] == task["contextId"]
    listed = {
        who: (await world.rpc(who, "ListTasks", {"contextId": task["contextId"]})).json()["result"] for who in ("paul", "mia")
    }
    assert [each["id"] for each in listed["paul"]["tasks"]] == [task["id"]]
    assert task["id"] not in str(listed["mia"])


async def test_where_settings_say_so_a_context_belongs_to_whoever_used_it_first(tmp_path: Path, agent_url: str) -> None:
    async with gateway(tmp_path, {"ref": agent_url}, peers={"ref": {"contexts": "claim"}}) as world:
        first = await world.send("paul", "plain-1", contextId="our-talk")
        assert first["result"]["task"]["contextId"] == "our-talk"
        before = len(world.ledger.entries)
        assert (await world.send("mia", "plain-2", contextId="our-talk"))["error"]["code"] == -32602
        await never_sent(world, before)
        assert "result" in await world.send("paul", "plain-3", contextId="our-talk")
        answers = await asyncio.gather(*(world.send(who, f"plain-{who}", contextId="race") for who in ("paul", "mia")))
        assert sorted("result" in answer for answer in answers) == [False, True]


async def test_where_settings_say_so_no_client_makes_up_a_context(tmp_path: Path, agent_url: str) -> None:
    async with gateway(tmp_path, {"ref": agent_url}, peers={"ref": {"contexts": "refuse"}}) as world:
        before = len(world.ledger.entries)
        for method in ("SendMessage", "SendStreamingMessage"):
            unknown = (await world.rpc("mia", method, message(contextId="made-up"))).json()
            assert unknown["error"]["code"] == -32602
        await never_sent(world, before)
        told = (await world.send("paul", "tck-input-required-1"))["result"]["task"]["contextId"]
        assert "result" in await world.send("paul", "plain", contextId=told)
        theirs = (await world.rpc("mia", "SendMessage", message(contextId=told))).json()
        assert theirs["error"] == unknown["error"]


async def test_two_who_say_the_same_at_once_have_a_context_each(world: World) -> None:
    people = ("paul", "mia", "paul", "mia")
    answers = await asyncio.gather(*(world.send(who, f"gw-message-{n}", contextId="race") for n, who in enumerate(people)))
    seen = [json.loads(answer["result"]["message"]["parts"][0]["text"])["contextId"] for answer in answers]
    assert seen[:2] == seen[2:]
    assert len(set(seen)) == 2


async def test_the_callers_tenant_never_reaches_the_agent(world: World) -> None:
    params = {"tenant": "somebody", **message(messageId="gw-message-1")}
    answer = (await world.rpc("mia", "SendMessage", params)).json()
    assert json.loads(answer["result"]["message"]["parts"][0]["text"])["tenant"] == ""


async def test_metadata_that_claims_an_identity_never_reaches_the_agent(world: World) -> None:
    claims = {"bailiwick/subject": "user:dev/paul", "X-Bailiwick-User": "paul", "actorChain": [], "colour": "blue"}
    claims |= dict.fromkeys(("actor_chain", "ACTOR-CHAIN", "Txn-Token", "txn_token", " authorization", "ａｃｔｏｒChain"), "paul")
    claims |= {"secure_passport": {}, "ba\u200biliwick": 1}
    params = message(messageId="gw-message-2", metadata=claims, parts=[{"text": "x", "metadata": claims}])
    answer = (await world.rpc("mia", "SendMessage", {**params, "metadata": claims})).json()
    seen = json.loads(answer["result"]["message"]["parts"][0]["text"])
    assert seen["metadata"] == seen["parts"][0]["metadata"] == {"colour": "blue"}


async def test_unknown_members_never_reach_the_agent(world: World) -> None:
    answer = (await world.rpc("mia", "SendMessage", message(messageId="gw-message-3", kind="message", subject="paul"))).json()
    seen = json.loads(answer["result"]["message"]["parts"][0]["text"])
    assert {"kind", "subject"}.isdisjoint(seen)


async def test_a_push_configuration_cannot_make_the_agent_call_out(world: World) -> None:
    config = {"taskPushNotificationConfig": {"url": "http://169.254.169.254/"}}
    before = len(world.ledger.entries)
    answer = (await world.rpc("mia", "SendMessage", {**message(), "configuration": config})).json()
    assert answer["error"]["code"] == -32003
    await never_sent(world, before)


async def test_a_hidden_agent_is_answered_exactly_as_one_that_does_not_exist(world: World) -> None:
    from tests.a2a.world import HIDDEN

    world.verdicts["*", "a2a:other"] = HIDDEN
    for request in ("card", "send", "malformed", "unknown-method", "path"):
        hidden, unknown = [await knock(world, request, agent) for agent in ("other", "nowhere")]
        assert hidden.status_code == unknown.status_code
        assert masked(hidden) == masked(unknown), request


async def knock(world: World, request: str, agent: str) -> httpx.Response:
    if request == "card":
        return await world.client.get(f"/a2a/{agent}/.well-known/agent-card.json", headers=world.token("mia"))
    if request == "path":
        return await world.client.get(f"/a2a/{agent}/tasks", headers=world.token("mia"))
    if request == "malformed":
        return await world.raw("mia", b"{", agent=agent)
    return await world.rpc("mia", "Nothing" if request == "unknown-method" else "SendMessage", message(), agent=agent)


def masked(answer: httpx.Response) -> str:
    decision = answer.headers["bailiwick-decision"]
    return answer.text.replace(decision, "ID")
