"""What a server on stdio says beside its answers reaches whom it is for: questions, notices, streams, subscriptions."""

# ruff: noqa: SIM117  nested by what depends on what
from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.crew import Sharing
from gateway.mcp.process import Uncaged
from gateway.mcp.stdio import StdioServer
from gateway.model import Intent
from gateway.upstream.registry import McpTarget
from tests.mcp.test_conversations import FORM, SAMPLE, asked, text_of
from tests.mcp.world import MODERN, REFERENCE, World, answer_of, gateway, modern_body, modern_headers
from tests.stdio.test_eras import Peers, peer

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


@asynccontextmanager
async def reference(folder: Path) -> AsyncIterator[World]:
    """A gateway before the official server on stdio."""
    target = McpTarget("ref", "stdio", command=(sys.executable, str(REFERENCE), "--stdio"), sandbox="off")

    async def start(_intent: Intent) -> Uncaged:
        return await Uncaged.start(target)

    server = StdioServer("ref", start)
    try:
        async with gateway(folder, {"ref": target}, others={"ref": server}) as world:
            yield world
    finally:
        await server.aclose()


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_the_official_server_asks_the_official_client_on_record_and_the_answers_come_back(
    tmp_path: Path, mode: str
) -> None:
    async with reference(tmp_path) as world, asked(world, mode) as client:
        for kind in (FORM, SAMPLE):
            tool, arguments = kind[mode]
            result = await asyncio.wait_for(client.call_tool(tool, arguments), 20)
            assert "Ada" in text_of(result)
        assert client.seen[0].message.startswith("ref asks: ")  # type: ignore[attr-defined]
        kinds = [entry.fields.get("resource") for entry in world.ledger.entries if entry.kind == "question.ask"]
        assert kinds == ["elicitation:ref", "sampling:ref"]


async def test_two_people_who_are_asked_at_once_are_each_asked_by_their_own_and_answer_their_own(tmp_path: Path) -> None:
    async with peer(tmp_path, "legacy") as peers:
        async with asked(peers.world, "legacy", "anna", "Ada") as anna, asked(peers.world, "legacy", "anna", "Eve") as other:
            async with asked(peers.world, "legacy", "ben", "Bob") as ben:
                answers = await asyncio.gather(*(each.call_tool("ask", {"as": 1}) for each in (anna, other, ben)))
        told = [json.loads(text_of(answer)) for answer in answers]
        assert [each["answer"]["result"]["content"]["name"] for each in told] == ["Ada", "Eve", "Bob"]
        assert [each["answer"]["id"] for each in told] == [1, 1, 1]  # each server's own number, and of its own type
        assert len({each["pid"] for each in told}) == 3


async def test_a_server_that_several_share_or_that_nobody_answers_is_told_so(tmp_path: Path) -> None:
    async with peer(tmp_path, "legacy", legacy=Sharing.TENANT) as peers, asked(peers.world, "legacy") as client:
        told = json.loads(text_of(await client.call_tool("ask", {})))
        assert told["answer"]["error"]["code"] == -32601
        assert client.seen == []  # type: ignore[attr-defined]
    async with peer(tmp_path, "legacy") as peers:
        session = await peers.world.handshake("anna")
        answer = answer_of(await peers.world.legacy("anna", "tools/call", session=session, name="ask"))
        assert json.loads(answer["result"]["content"][0]["text"])["answer"]["error"]["code"] == -32601
        assert [entry for entry in peers.world.ledger.entries if entry.kind == "question.ask"] == []


async def opened(peers: Peers, person: str = "anna", **capabilities: Any) -> str:
    hello = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": {"name": "test", "version": "1"}}
    said = await peers.world.legacy(person, "initialize", **hello)
    return str(said.headers["mcp-session-id"])


@asynccontextmanager
async def streaming(peers: Peers, person: str, method: str = "GET", session: str = "", body: Any = None) -> AsyncIterator[Any]:
    """The messages of a stream, as they come; it stands when the body begins."""
    headers = peers.world.token(person) | {"accept": "application/json, text/event-stream"}
    if session:
        headers |= {"mcp-protocol-version": "2025-11-25", "mcp-session-id": session}
    else:
        headers |= modern_headers("subscriptions/listen")
    async with peers.world.client.stream(method, "/mcp/ref", headers=headers, json=body) as response:
        assert response.status_code == 200
        lines = response.aiter_lines()

        async def messages() -> AsyncIterator[dict[str, Any]]:
            async for line in lines:
                if line.startswith("data: "):
                    yield json.loads(line[6:])

        if session:
            assert (await anext(lines)).startswith(":")  # it stands
        yield messages()


async def tells(peers: Peers, person: str, session: str, *said: tuple[str, dict[str, Any]]) -> Any:
    return await peers.world.legacy(person, "tools/call", session=session, name="tell", arguments={"said": said})


async def test_notices_are_on_the_stream_that_their_session_holds_open_and_it_ends_with_its_process(
    tmp_path: Path,
) -> None:
    async with peer(tmp_path, "legacy") as peers:
        session = await opened(peers, elicitation={})
        async with streaming(peers, "anna", session=session) as messages:
            changed = ("tools/list_changed", {})
            await tells(peers, "anna", session, changed, ("resources/updated", {"uri": "x://a"}))
            assert [(await anext(messages))["method"] for _ in range(2)] == [
                "notifications/tools/list_changed", "notifications/resources/updated",
            ]  # fmt: skip
            log = await tells(peers, "anna", session, ("message", {"level": "info", "data": "hello"}))
            assert "hello" in log.text  # beside the answer that it was said for
            ended = await peers.world.client.delete(
                "/mcp/ref", headers=peers.world.token("anna") | {"mcp-session-id": session, "mcp-protocol-version": "2025-11-25"}
            )
            assert ended.status_code == 200
            assert [message async for message in messages] == []
        assert (await tells(peers, "anna", session)).status_code == 404
        async with asyncio.timeout(10):
            await peers.started[0].wait()


async def test_who_shares_a_process_hears_of_its_lists_of_what_they_subscribed_to_and_of_nothing_else(tmp_path: Path) -> None:
    async with peer(tmp_path, "legacy", legacy=Sharing.TENANT) as peers:
        anna, ben = await peers.world.handshake("anna"), await peers.world.handshake("ben")
        await peers.world.legacy("anna", "resources/subscribe", session=anna, uri="x://a/1")
        async with streaming(peers, "anna", session=anna) as hers, streaming(peers, "ben", session=ben) as his:
            log = await tells(
                peers, "ben", ben, ("message", {"level": "info", "data": "of somebody"}), ("resources/updated", {"uri": "x://a/1"}),
                ("tools/list_changed", {}),
            )  # fmt: skip
            assert "of somebody" not in log.text
            assert [(await anext(hers))["method"] for _ in range(2)] == [
                "notifications/resources/updated", "notifications/tools/list_changed",
            ]  # fmt: skip
            assert (await anext(his))["method"] == "notifications/tools/list_changed"
        await peers.world.legacy("ben", "resources/subscribe", session=ben, uri="x://a/1")
        await peers.world.legacy("ben", "resources/unsubscribe", session=ben, uri="x://a/1")  # not for the other one too
        seen = [method for method, _ in (await peers.who("anna", anna))["seen"]]
        assert (seen.count("resources/subscribe"), seen.count("resources/unsubscribe")) == (2, 0)


async def test_an_answer_to_nothing_that_was_asked_reaches_no_server(tmp_path: Path) -> None:
    async with peer(tmp_path, "legacy") as peers:
        session = await opened(peers, elicitation={})
        headers = {"mcp-session-id": session, "mcp-protocol-version": "2025-11-25"}
        for known in ("1", "made-up"):
            said = await peers.world.post(
                "anna", {"jsonrpc": "2.0", "id": known, "result": {"action": "accept"}}, headers=headers
            )
            assert said.status_code in {202, 400, 404}
        seen = (await peers.who("anna", session))["seen"]
        assert [method for method, _ in seen if method == ""] == []


async def test_a_subscription_outlives_the_process_and_says_what_may_have_been_missed(tmp_path: Path) -> None:
    async with peer(tmp_path, "modern") as peers:
        body = modern_body("subscriptions/listen", "mine", notifications={"toolsListChanged": True})
        async with streaming(peers, "anna", "POST", body=body) as messages:
            first = await anext(messages)
            assert first["method"] == "notifications/subscriptions/acknowledged"
            assert first["params"]["_meta"][SUBSCRIPTION] == "mine"
            await peers.who("ben", name="change")
            heard = await anext(messages)
            assert (heard["method"], heard["params"]["_meta"][SUBSCRIPTION]) == ("notifications/tools/list_changed", "mine")
            died = (await peers.world.modern("ben", "tools/call", name="crash")).json()
            assert died["error"]["code"] == -31502
            missed = await anext(messages)  # the process that came after it was asked anew
            assert (missed["method"], missed["params"]["_meta"][SUBSCRIPTION]) == ("notifications/tools/list_changed", "mine")
            await peers.who("ben", name="change")
            again = await anext(messages)
            assert again["params"]["_meta"][SUBSCRIPTION] == "mine"
        assert len(peers.started) == 2
        async with asyncio.timeout(10):
            while "notifications/cancelled" not in {method for method, _ in (await peers.who("ben"))["seen"]}:
                pass  # hanging up is told to the server
