"""The official MCP client through the gateway, in both eras."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from tests.mcp.world import DENY, HIDDEN, MODERN, World, connected

ERAS = ["auto", "legacy", MODERN]


@pytest.mark.parametrize("mode", ERAS)
async def test_the_official_client_lists_and_calls(world: World, mode: str) -> None:
    async with connected(world, mode) as client:
        tools = (await client.list_tools()).tools
        result = await client.call_tool("gw_echo", {"amount": 12.5, "text": "ü"})
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else MODERN)
    assert "gw_echo" in {tool.name for tool in tools}
    assert result.structured_content["arguments"] == {"amount": 12.5, "text": "ü"}


@pytest.mark.parametrize("mode", ERAS)
async def test_progress_comes_before_the_result(world: World, mode: str) -> None:
    seen: list[float] = []

    async def progress(at: float, total: float | None, message: str | None) -> None:
        seen.append(at)

    async with connected(world, mode) as client:
        result = await client.call_tool("test_tool_with_progress", {}, progress_callback=progress)
    assert seen == [0, 50, 100]
    assert result.content[0].text == "progressed"


@pytest.mark.parametrize("mode", ERAS)
async def test_a_tools_own_error_is_a_result(world: World, mode: str) -> None:
    async with connected(world, mode) as client:
        result = await client.call_tool("test_error_handling", {})
    assert result.is_error
    assert "intentionally" in result.content[0].text


@pytest.mark.parametrize("mode", ERAS)
async def test_an_unknown_and_a_hidden_tool_raise_the_same(world: World, mode: str) -> None:
    world.verdicts["*", "ref.gw_big"] = HIDDEN
    world.verdicts["*", "ref.nothing"] = HIDDEN
    said = []
    async with connected(world, mode) as client:
        for tool in ("gw_big", "nothing"):
            with pytest.raises(MCPError) as raised:
                await client.call_tool(tool, {"n": 1})
            said.append((raised.value.error.code, raised.value.error.message.replace(tool, "?")))
        assert "gw_big" not in {tool.name for tool in (await client.list_tools()).tools}
    assert said[0] == said[1] == (-32602, "Unknown tool: ?")


@pytest.mark.parametrize("mode", ERAS)
async def test_a_denied_call_is_a_result_that_the_model_can_read(world: World, mode: str) -> None:
    world.verdicts["*", "ref.gw_big"] = DENY
    async with connected(world, mode) as client:
        result = await client.call_tool("gw_big", {"n": 1})
    assert result.is_error
    assert "user-lacks-right" in result.content[0].text
    refused = next(entry for entry in world.ledger.entries if "decision" in entry.fields and entry.kind == "decision.deny")
    assert refused.id in result.content[0].text
    assert (result.meta or {})["bailiwick/decision"] == refused.id


@pytest.mark.parametrize("mode", ERAS)
async def test_big_results_pass(world: World, mode: str) -> None:
    size = 900_000 if mode == "legacy" else 3_000_000  # there the server streams, and the client takes events of 1 MiB
    async with connected(world, mode) as client:
        result = await client.call_tool("gw_big", {"n": size})
    assert len(result.content[0].text) == size


@pytest.mark.parametrize("mode", ERAS)
async def test_many_calls_at_once_get_each_their_own_answer(world: World, mode: str) -> None:
    async with connected(world, mode) as client:
        results = await asyncio.gather(*(client.call_tool("gw_echo", {"n": n}) for n in range(40)))
    assert [result.structured_content["arguments"]["n"] for result in results] == list(range(40))


@pytest.mark.parametrize("mode", ERAS)
async def test_only_what_is_served_is_offered(world: World, mode: str) -> None:
    async with connected(world, mode) as client:
        offered = client.server_capabilities.model_dump(exclude_none=True)
    if mode in {"auto", "legacy"}:  # a client that was told the revision does not ask
        assert set(offered) - {"extensions"} == {"tools", "resources", "prompts", "completions", "logging"}
        assert ("extensions" in offered) == (mode == "auto")  # tasks are of the stateless era alone
        assert offered["resources"] == {"subscribe": True, "list_changed": True}


async def test_trace_context_reaches_the_tool_in_its_message_and_in_a_header(world: World) -> None:
    outer = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    inner = "00-1af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-01"
    for meta, trace_id in (({}, outer[3:35]), ({"traceparent": inner}, inner[3:35])):
        answer = await world.post(
            "anna",
            {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "tools/call",
                "params": {
                    "name": "gw_echo",
                    "_meta": {
                        "io.modelcontextprotocol/protocolVersion": MODERN,
                        "io.modelcontextprotocol/clientCapabilities": {},
                        **meta,
                    },
                },
            },
            headers={
                "mcp-protocol-version": MODERN,
                "mcp-method": "tools/call",
                "mcp-name": "gw_echo",
                "traceparent": outer,
            },
        )
        seen: dict[str, Any] = json.loads(_last(answer.text))["result"]["structuredContent"]
        assert seen["_meta"]["traceparent"][3:35] == trace_id
        assert seen["headers"]["traceparent"] == seen["_meta"]["traceparent"]
        assert seen["_meta"]["traceparent"][36:52] not in {outer[36:52], inner[36:52]}
        started = [entry for entry in world.ledger.entries if entry.kind == "call.start"][-1]
        assert started.fields["trace"] == trace_id
        assert started.fields["parent"] == (meta.get("traceparent") or outer)[36:52]


def _last(text: str) -> str:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return lines[-1] if lines else text
