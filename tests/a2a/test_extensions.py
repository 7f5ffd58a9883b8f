"""Extensions: active where the caller asks, the settings allow and the card offers; of any other nothing passes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from a2a.types import a2a_pb2 as pb

from gateway.a2a.extensions import Declared
from tests.a2a.agents import Agent, Answering, Request, scripted, task
from tests.a2a.world import World, gateway

Opened = Callable[..., AbstractAsyncContextManager[tuple[World, Agent]]]
AP2, TRACE, OTHER = "https://ap2.example/v1", "urn:example:trace", "https://other.example/v1"
ALLOWED = {"extensions": frozenset({AP2, TRACE}), "versions": ("1.0", "0.3")}
OLD_TASK = {"kind": "task", "id": "t-1", "contextId": "c-1", "status": {"state": "completed"}}


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    @asynccontextmanager
    async def open_(script: Answering, **options: Any) -> AsyncIterator[tuple[World, Agent]]:
        async with scripted(script) as (url, agent), gateway(tmp_path, {"ref": url}, peers={"ref": ALLOWED}, **options) as world:
            yield world, agent

    return open_


async def completed(request: Request) -> None:
    """An agent that activates whatever it is asked for, and what it was never asked for."""
    asked = request.headers.get("a2a-extensions") or request.headers.get("x-a2a-extensions", "")
    request.extra = (("a2a-extensions", f"{asked}, {OTHER}" if asked else OTHER),)
    await request.result(OLD_TASK if "/" in request.rpc["method"] else task("COMPLETED"))


def params(**message: Any) -> dict[str, Any]:
    return {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}], **message}}


@pytest.mark.parametrize("header", [f"{AP2}, {OTHER}", f"{OTHER},{AP2},{AP2}", f"{OTHER},,{AP2}"])
async def test_what_is_asked_for_and_allowed_goes_on_and_comes_back(opened: Opened, header: str) -> None:
    async with opened(completed) as (world, agent):
        answer = await world.rpc("paul", "SendMessage", params(), a2a_extensions=header)
        assert agent.requests[0].headers["a2a-extensions"] == AP2
        assert answer.headers["a2a-extensions"] == AP2


async def test_without_the_header_no_extension_is_active(opened: Opened) -> None:
    async with opened(completed) as (world, agent):
        answer = await world.rpc("paul", "SendMessage", params(extensions=[AP2]))
        assert "a2a-extensions" not in agent.requests[0].headers
        assert "extensions" not in agent.requests[0].rpc["params"]["message"]
        assert "a2a-extensions" not in answer.headers


async def test_by_http_and_json_and_in_streams_it_is_the_same(opened: Opened) -> None:
    async def script(request: Request) -> None:
        request.extra = (("a2a-extensions", AP2),)
        if request.rpc["method"] == "SendMessage":
            await request.result(task("COMPLETED"))
            return
        await request.event(task("COMPLETED"))
        await request.end()

    async with opened(script) as (world, agent):
        headers = world.token("paul") | {"a2a-version": "1.0", "a2a-extensions": f"{AP2},{OTHER}"}
        answer = await world.client.post("/a2a/ref/rest/message:send", json=params(), headers=headers)
        assert answer.headers["a2a-extensions"] == AP2
        body = {"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage", "params": params()}
        async with world.client.stream("POST", "/a2a/ref/", json=body, headers=headers) as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            assert stream.headers["a2a-extensions"] == AP2
        assert {request.headers["a2a-extensions"] for request in agent.requests} == {AP2}


async def test_in_0_3_the_header_has_its_older_name(opened: Opened) -> None:
    async with opened(completed) as (world, agent):
        message = {"messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "hi"}], "extensions": [AP2, OTHER]}
        body = {"jsonrpc": "2.0", "id": "1", "method": "message/send", "params": {"message": message}}
        headers = world.token("paul") | {"x-a2a-extensions": f"{AP2}, {OTHER}"}
        answer = await world.client.post("/a2a/ref/", json=body, headers=headers)
        assert "result" in answer.json()
        (got,) = agent.requests
        assert got.headers["x-a2a-extensions"] == answer.headers["x-a2a-extensions"] == AP2
        assert "a2a-extensions" not in got.headers
        assert got.rpc["params"]["message"]["extensions"] == [AP2]
        ignored = await world.rpc("paul", "SendMessage", params(), x_a2a_extensions=AP2)  # 1.0 has one name for it
        assert "result" in ignored.json()
        assert "x-a2a-extensions" not in agent.requests[1].headers


async def test_what_a_message_says_of_other_extensions_stays_behind(opened: Opened) -> None:
    said = {
        f"{AP2}/mandate": 1,
        "ap2.example/v1": 2,
        AP2: 3,
        "plain": 4,
        "reply-to": 5,
        "note: to self": 6,
        f"{OTHER}/x": "no",
        "https://ap2.example/v10": "no",
        "https://ap2.example": "no",
        "HTTPS://evil.example/": "no",
        "github.com/evil/ext": "no",
        "urn:example:other": "no",
        TRACE: "no: it was not asked for",
    }
    kept = {key: value for key, value in said.items() if isinstance(value, int)}
    async with opened(completed) as (world, agent):
        message = params(metadata=said, extensions=[OTHER, AP2, TRACE], parts=[{"text": "hi", "metadata": said}])
        await world.rpc("paul", "SendMessage", message | {"metadata": said}, a2a_extensions=AP2)
        await world.rpc("paul", "CancelTask", {"id": "t-1", "metadata": said}, a2a_extensions=AP2)
        sent, cancelled = (request.rpc["params"] for request in agent.requests)
        assert sent["metadata"] == sent["message"]["metadata"] == sent["message"]["parts"][0]["metadata"] == kept
        assert sent["message"]["extensions"] == [AP2]
        assert cancelled["metadata"] == kept


@pytest.mark.parametrize("header", ["no uri", "https://a.example/\tb", ",".join(f"urn:e:{n}" for n in range(33)), "x" * 600])
async def test_a_header_that_names_no_extensions_is_refused(opened: Opened, header: str) -> None:
    async with opened(completed) as (world, agent):
        answer = await world.rpc("paul", "SendMessage", params(), a2a_extensions=header)
        assert answer.json()["error"]["code"] == -32600
        assert agent.requests == []


async def test_a_card_that_does_not_offer_an_extension_keeps_it_from_being_active(opened: Opened) -> None:
    async with opened(completed, declaring=lambda _: Declared(frozenset({TRACE}), frozenset())) as (world, agent):
        await world.rpc("paul", "SendMessage", params(), a2a_extensions=f"{AP2},{TRACE}")
        assert agent.requests[0].headers["a2a-extensions"] == TRACE


async def test_what_an_agent_requires_is_demanded_before_anything_is_sent(opened: Opened) -> None:
    card = pb.AgentCard(
        capabilities=pb.AgentCapabilities(extensions=[pb.AgentExtension(uri=AP2, required=True), pb.AgentExtension(uri=TRACE)])
    )
    async with opened(completed, declaring=lambda _: Declared.by(card)) as (world, agent):
        by_rpc = (await world.rpc("paul", "SendMessage", params(), a2a_extensions=TRACE)).json()["error"]
        assert by_rpc["code"] == -32008
        assert by_rpc["data"][0]["reason"] == "EXTENSION_SUPPORT_REQUIRED"
        headers = world.token("paul") | {"a2a-version": "1.0"}
        by_rest = await world.client.post("/a2a/ref/rest/message:send", json=params(), headers=headers)
        assert by_rest.status_code == 400
        assert by_rest.json()["error"]["status"] == "FAILED_PRECONDITION"
        message = {"messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "hi"}]}
        body = {"jsonrpc": "2.0", "id": "1", "method": "message/send", "params": {"message": message}}
        old = await world.client.post("/a2a/ref/", json=body, headers=world.token("paul"))
        assert old.json()["error"]["code"] == -32600
        assert agent.requests == []
        assert "result" in (await world.rpc("paul", "SendMessage", params(), a2a_extensions=AP2)).json()


async def test_policy_is_told_what_a_message_brings(opened: Opened) -> None:
    parts = [
        {"text": "hi", "mediaType": "text/Plain"},
        {"raw": "AAAA", "mediaType": "image/png"},
        {"url": "https://Files.example/a.txt"},
        {"url": "http://2130706433/latest"},
        {"url": "file:///etc/passwd"},
    ]
    async with opened(completed) as (world, _):
        await world.rpc("paul", "SendMessage", params(parts=parts), a2a_extensions=f"{AP2},{OTHER}")
        await world.rpc("paul", "GetTask", {"id": "t-1"})
        starts = [entry for entry in world.ledger.entries if entry.kind == "call.start"]
        said = [json.loads(next(value.data for value in entry.values if value.name == "facts")) for entry in starts]
    ctx = said[0]["context"]["ctx"]
    assert ctx["extensions"] == [AP2]
    assert ctx["media_types"] == ["image/png", "text/plain"]
    assert ctx["url_hosts"] == ["", "files.example"]
    assert ctx["raw_bytes"] == 3
    assert {name: said[1]["context"]["ctx"][name] for name in ("extensions", "url_hosts", "raw_bytes")} == {
        "extensions": [], "url_hosts": [], "raw_bytes": 0,
    }  # fmt: skip


async def test_once_its_card_was_read_an_agents_own_word_counts(opened: Opened) -> None:
    offered = [{"uri": AP2, "required": True}, {"uri": OTHER}]
    card = {"name": "Agent", "description": "d", "version": "1", "capabilities": {"extensions": offered}}

    async def script(request: Request) -> None:
        if request.path.endswith("agent-card.json"):
            await request.reply(json.dumps(card).encode())
        else:
            await completed(request)

    async with opened(script) as (world, agent):
        await world.rpc("paul", "SendMessage", params(), a2a_extensions=TRACE)
        assert agent.requests[0].headers["a2a-extensions"] == TRACE  # allowed, and nothing else is known yet
        answer = await world.client.get("/a2a/ref/.well-known/agent-card.json", headers=world.token("paul"))
        assert answer.json()["capabilities"]["extensions"] == [{"uri": AP2, "required": True}]
        refused = await world.rpc("paul", "SendMessage", params(), a2a_extensions=TRACE)
        assert refused.json()["error"]["code"] == -32008
        await world.rpc("paul", "SendMessage", params(), a2a_extensions=f"{AP2},{TRACE},{OTHER}")
        assert agent.requests[-1].headers["a2a-extensions"] == AP2
