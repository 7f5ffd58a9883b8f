"""The Python SDK, opening as each era does."""

from __future__ import annotations

from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from task import DENIED, PERMITTED, PROMPT, RESOURCE, Ask, answer, raised


def opening(mode: str) -> Ask:
    """The client in this mode."""

    async def ask(target: dict[str, Any], report: dict[str, Any]) -> None:
        async with httpx2.AsyncClient(headers=target["headers"], timeout=30, trust_env=False) as http:
            transport = streamable_http_client(target["url"], http_client=http)
            async with Client(transport, mode=mode) as client:
                await steps(client, target, report)

    return ask


async def steps(client: Client, target: dict[str, Any], report: dict[str, Any]) -> None:
    """Everything a report holds, in turn."""
    prefix, seen = target["prefix"], []

    async def progress(at: float, total: float | None, message: str | None) -> None:
        seen.append(at)

    report["version"] = client.protocol_version
    report["tools"] = sorted(tool.name for tool in (await client.list_tools()).tools)
    report["structured"] = (await client.call_tool(f"{prefix}gw_structured", {})).structured_content
    report["permitted"] = (await client.call_tool(f"{prefix}gw_big", PERMITTED)).content[0].text
    refused = await client.call_tool(f"{prefix}gw_big", DENIED)
    report["denied"] = {"how": "value", "error": refused.is_error, "text": refused.content[0].text[:400]}
    report["hidden"] = await raised(client.call_tool(f"{prefix}gw_sleep", {}))
    await client.call_tool(f"{prefix}test_tool_with_progress", {}, progress_callback=progress)
    report["progress"] = seen
    report["resource"] = (await client.read_resource(RESOURCE)).contents[0].text
    report["resources"] = sorted(str(one.uri) for one in (await client.list_resources()).resources)
    report["prompt"] = (await client.get_prompt(f"{prefix}{PROMPT}")).messages[0].content.text
    report["others"] = [(await client.call_tool(name, {})).content[0].text for name in target["others"]]


answer({"mcp auto": opening("auto"), "mcp legacy": opening("legacy")})
