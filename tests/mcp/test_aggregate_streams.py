"""`/mcp`: notices of all servers in one stream, questions and tasks of each under the one URL."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.sealed import Sealed
from tests.mcp.aggregate_world import SHARED, Heard, asked, upstreams
from tests.mcp.world import HIDDEN, World, answer_of, control, gateway, modern_body, modern_headers

KINDS = ("toolsListChanged", "promptsListChanged", "resourcesListChanged")
TOOLS = {"method": "notifications/tools/list_changed"}
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
BOTH = ["new", "old"]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    yield from upstreams()


@pytest.fixture
async def world(tmp_path: Path, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("gateway.mcp.aggregate.listening.AGAIN_SECONDS", (0.02, 0.1))
    async with asyncio.timeout(20):
        while any([(await told(servers, server))["streams"] for server in servers]):
            pass  # of the test before
    async with gateway(tmp_path, servers) as running:
        yield running


@asynccontextmanager
async def listening(world: World, rpc_id: Any = "listen:0", person: str = "anna", **wanted: Any) -> AsyncIterator[Heard]:
    headers = modern_headers("subscriptions/listen") | world.token(person) | {"accept": "application/json, text/event-stream"}
    body = modern_body("subscriptions/listen", rpc_id, notifications=wanted)
    async with asyncio.timeout(20), world.client.stream("POST", "/mcp", json=body, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Heard(response)


async def told(servers: dict[str, str], server: str, **said: Any) -> dict[str, Any]:
    return await asyncio.to_thread(control, servers[server], **said)


@pytest.mark.parametrize("rpc_id", [0, "listen:0"])
async def test_one_stream_says_what_changes_at_every_server(world: World, servers: dict[str, str], rpc_id: Any) -> None:
    uris = ["FILE:///new.txt", "file:///old.txt", SHARED, "file:///nowhere.txt"]
    async with listening(world, rpc_id, **dict.fromkeys(KINDS, True), resourceSubscriptions=uris) as heard:
        first = await heard.next()
        assert first["method"] == "notifications/subscriptions/acknowledged"
        honoured = first["params"]["notifications"]
        assert sorted(honoured.pop("resourceSubscriptions")) == uris[:2]  # what two servers have, or none, is left out
        assert honoured == dict.fromkeys(KINDS, True)
        said = [first]
        for server, method, uri in (
            ("new", "notifications/tools/list_changed", ""),
            ("old", "notifications/prompts/list_changed", ""),
            ("new", "notifications/resources/updated", uris[0]),
            ("old", "notifications/resources/updated", uris[1]),
        ):
            own = {"uri": uri.replace("FILE", "file")} if uri else {}
            await told(servers, server, say=[{"method": method, "params": own}])
            said.append(await heard.next())
            assert said[-1]["method"] == method
            assert said[-1]["params"].get("uri", "") == uri
    assert {type(each["params"]["_meta"][SUBSCRIPTION]) for each in said} == {type(rpc_id)}
    assert {each["params"]["_meta"][SUBSCRIPTION] for each in said} == {rpc_id}


async def test_what_was_not_asked_for_is_not_said(world: World, servers: dict[str, str]) -> None:
    async with listening(world, toolsListChanged=True) as heard:
        assert (await heard.next())["params"]["notifications"] == {"toolsListChanged": True}
        for server in BOTH:
            await told(servers, server, say=[{"method": "notifications/prompts/list_changed"}, TOOLS])
            assert (await heard.next())["method"] == TOOLS["method"]


async def test_a_client_that_leaves_takes_its_streams_and_sessions_at_the_servers_along(
    world: World, servers: dict[str, str]
) -> None:
    await asked(world, "tools/list")  # what is asked beside has a session of its own
    async with asyncio.timeout(20):
        before = (await told(servers, "old"))["sessions"]
        async with listening(world, toolsListChanged=True) as heard:
            await heard.next()
            assert [(await told(servers, server))["streams"] for server in BOTH] == [1, 1]
            assert (await told(servers, "old"))["sessions"] == before + 1
        while (
            any([(await told(servers, server))["streams"] for server in BOTH])
            or (await told(servers, "old"))["sessions"] > before
        ):
            pass
    ended = [entry for entry in world.ledger.entries if entry.kind == "call.end" and entry.fields.get("outcome")]
    assert len(ended) == len([entry for entry in world.ledger.entries if entry.kind == "call.start"])


async def test_a_server_that_ends_its_stream_is_listened_to_again_and_its_lists_count_as_changed(
    world: World, servers: dict[str, str]
) -> None:
    async with listening(world, toolsListChanged=True) as heard:
        await heard.next()
        for server in BOTH:
            await told(servers, server, cut=True)
            assert (await heard.next())["method"] == TOOLS["method"]
            while not (await told(servers, server))["streams"]:
                pass
            await told(servers, server, say=[TOOLS])
            assert (await heard.next())["method"] == TOOLS["method"]


async def test_a_change_of_policy_is_a_change_of_lists_and_of_who_is_listened_to(world: World, servers: dict[str, str]) -> None:
    world.verdicts["*", "old"] = HIDDEN
    async with listening(world, toolsListChanged=True) as heard:
        await heard.next()
        assert not (await told(servers, "old"))["streams"]
        del world.verdicts["*", "old"]
        world.enforce()
        assert (await heard.next())["method"] == TOOLS["method"]
        await told(servers, "old", say=[TOOLS])
        assert (await heard.next())["method"] == TOOLS["method"]
        world.verdicts["*", "new"] = HIDDEN
        world.enforce()
        assert (await heard.next())["method"] == TOOLS["method"]
        while (await told(servers, "new"))["streams"]:
            pass


async def test_a_client_of_handshakes_hears_of_changes_at_every_server(world: World, servers: dict[str, str]) -> None:
    session = await world.handshake("anna", "")
    headers = world.token("anna") | {
        "accept": "text/event-stream",
        "mcp-session-id": session,
        "mcp-protocol-version": "2025-11-25",
    }
    async with asyncio.timeout(20), world.client.stream("GET", "/mcp", headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        heard = Heard(response)
        assert await heard.line() == ":"  # something at once, so that proxies flush
        for server in BOTH:
            await told(servers, server, say=[TOOLS])
            said = await heard.next()
            assert said == {"jsonrpc": "2.0", **TOOLS, "params": {}}
    foreign = await world.client.get("/mcp", headers=headers | world.token("bert"))
    assert foreign.status_code == 404
    assert (await world.client.get("/mcp", headers=headers | {"mcp-protocol-version": "2026-07-28"})).status_code == 405


@pytest.mark.parametrize(
    "wanted", [{"resourceSubscriptions": "x"}, {"taskIds": [1]}, {"resourceSubscriptions": ["file:///x"] * 1001}]
)
async def test_what_cannot_be_listened_to_is_refused_on_record(world: World, wanted: Any) -> None:
    answer = await world.modern("anna", "subscriptions/listen", server="", notifications=wanted)
    assert answer.json()["error"]["code"] == -32602
    assert world.ledger.entries[-1].kind == "decision.deny"


TASKS = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
FORMS = {"elicitation": {"form": {}}}


def declaring(capabilities: dict[str, Any]) -> dict[str, Any]:
    return {"io.modelcontextprotocol/clientCapabilities": capabilities}


@asynccontextmanager
async def replicas(folder: Path, server_url: str) -> AsyncIterator[tuple[World, World]]:
    """Two gateways that share their keys alone."""
    servers, sealed = {"ref": server_url, "other": server_url}, Sealed([secrets.token_bytes(32)])
    async with (
        gateway(folder, servers, sealed=sealed) as first,
        gateway(folder, servers, sealed=sealed, public_url=first.url) as second,
    ):
        yield first, second


async def test_a_question_of_a_stateless_server_goes_to_the_client_and_its_answer_back(tmp_path: Path, server_url: str) -> None:
    async with replicas(tmp_path, server_url) as (world, second):
        name, meta = "ref__test_input_required_result_elicitation", declaring(FORMS)
        asking = (await asked(world, "tools/call", meta=meta, name=name, arguments={}))["result"]
        assert asking["resultType"] == "input_required"
        (key,) = asking["inputRequests"]
        assert asking["inputRequests"][key]["params"]["message"].startswith("ref asks: ")
        answer = {key: {"action": "accept", "content": {"name": "Ada"}}}
        again = {"arguments": {}, "inputResponses": answer, "requestState": asking["requestState"]}
        done = (await asked(second, "tools/call", meta=meta, name=name, **again))["result"]
        assert done["resultType"] == "complete"
        assert "Ada" in json.dumps(done["content"])
        for person, other in (("anna", "other__test_input_required_result_elicitation"), ("anna", "ref__greet"), ("bert", name)):
            refused = await asked(world, "tools/call", person=person, meta=meta, name=other, **again)
            assert "Ada" not in json.dumps(refused.get("result", {}).get("content", "")) or other == "ref__greet", (person, other)
            assert refused.get("error", {}).get("code") == -32602, (person, other)


async def test_a_task_is_its_callers_and_is_found_at_its_server_by_any_replica(tmp_path: Path, server_url: str) -> None:
    async with replicas(tmp_path, server_url) as (world, second):
        meta = declaring(TASKS)
        assert "io.modelcontextprotocol/tasks" in (await asked(world, "server/discover"))["result"]["capabilities"]["extensions"]
        made = (await asked(world, "tools/call", meta=meta, name="ref__slow_compute", arguments={"seconds": 0}))["result"]
        assert made["resultType"] == "task"
        task = made["taskId"]

        async def got(person: str, task: str) -> dict[str, Any]:
            headers = modern_headers("tasks/get") | {"mcp-name": task}
            answer = await second.post(person, modern_body("tasks/get", 1, meta, taskId=task), server="", headers=headers)
            return answer_of(answer)

        async with asyncio.timeout(20):
            while (found := await got("anna", task))["result"]["status"] != "completed":
                pass
        assert "computed" in json.dumps(found["result"]["result"])
        assert found["result"]["taskId"] == task
        for person, other in (("bert", task), ("anna", task[:-2] + "AA"), ("anna", "t-1")):
            assert (await got(person, other))["error"]["code"] == -32602


async def test_an_answer_that_takes_long_begins_as_a_stream_that_is_never_silent(tmp_path: Path, servers: dict[str, str]) -> None:
    async with gateway(tmp_path, servers, heartbeat=0.05) as world:
        headers = (
            modern_headers("tools/call", name="new__wait")
            | world.token("anna")
            | {"accept": "application/json, text/event-stream"}
        )
        body = modern_body("tools/call", "w", name="new__wait", arguments={})
        async with asyncio.timeout(20), world.client.stream("POST", "/mcp", json=body, headers=headers) as response:
            heard = Heard(response)
            assert await heard.line() == ":"
            await told(servers, "new", hang=False)
            assert (await heard.next())["id"] == "w"
