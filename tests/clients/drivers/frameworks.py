"""FastMCP and the OpenAI Agents SDK, both on the SDK's second line."""

from __future__ import annotations

import json
import logging
from typing import Any

from agents import RunContextWrapper
from agents.mcp import MCPServerStreamableHttp, MCPUtil
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport
from fastmcp.exceptions import ToolError
from task import DENIED, PERMITTED, PROMPT, RESOURCE, answer, raised

logging.disable(logging.CRITICAL)


async def fastmcp(target: dict[str, Any], report: dict[str, Any]) -> None:
    """FastMCP's client."""
    prefix, seen = target["prefix"], []

    async def progress(at: float, total: float | None, message: str | None) -> None:
        seen.append(at)

    async with Client(StreamableHttpTransport(target["url"], headers=target["headers"]), timeout=30) as client:
        report["tools"] = sorted(tool.name for tool in await client.list_tools())
        report["structured"] = (await client.call_tool(f"{prefix}gw_structured", {})).structured_content
        report["permitted"] = (await client.call_tool(f"{prefix}gw_big", PERMITTED)).content[0].text
        try:
            refused = await client.call_tool(f"{prefix}gw_big", DENIED)
            report["denied"] = {"how": "value", "error": refused.is_error, "text": refused.content[0].text[:400]}
        except ToolError as error:
            report["denied"] = {"how": "ToolError", "error": True, "text": str(error)}
        report["hidden"] = await raised(client.call_tool(f"{prefix}gw_sleep", {}))
        await client.call_tool(f"{prefix}test_tool_with_progress", {}, progress_handler=progress)
        report["progress"] = seen
        report["resource"] = (await client.read_resource(RESOURCE))[0].text
        report["resources"] = sorted(str(one.uri) for one in await client.list_resources())
        report["prompt"] = (await client.get_prompt(f"{prefix}{PROMPT}")).messages[0].content.text
        report["others"] = [(await client.call_tool(name, {})).content[0].text for name in target["others"]]


async def agents(target: dict[str, Any], report: dict[str, Any]) -> None:
    """The OpenAI Agents SDK: what a model would be given."""
    prefix = target["prefix"]
    params = {"url": target["url"], "headers": target["headers"], "timeout": 30}
    async with MCPServerStreamableHttp(params, client_session_timeout_seconds=30) as server:
        tools = {tool.name: tool for tool in await server.list_tools()}
        report["tools"] = sorted(tools)
        report["structured"] = (await server.call_tool(f"{prefix}gw_structured", {})).structured_content
        report["permitted"] = (await server.call_tool(f"{prefix}gw_big", PERMITTED)).content[0].text
        big = tools[f"{prefix}gw_big"]
        told = await MCPUtil.invoke_mcp_tool(server, big, RunContextWrapper(None), json.dumps(DENIED))
        report["denied"] = {"how": "text", "error": True, "text": told["text"][:400]}
        report["hidden"] = await raised(server.call_tool(f"{prefix}gw_sleep", {}))
        report["resource"] = (await server.read_resource(RESOURCE)).contents[0].text
        report["resources"] = sorted(str(one.uri) for one in (await server.list_resources()).resources)
        report["prompt"] = (await server.get_prompt(f"{prefix}{PROMPT}")).messages[0].content.text
        report["others"] = [(await server.call_tool(name, {})).content[0].text for name in target["others"]]


answer({"fastmcp": fastmcp, "openai-agents": agents})
