"""LangChain's MCP adapters, on the SDK's first line: a session of its own for each call."""

from __future__ import annotations

from typing import Any

from langchain_mcp_adapters.callbacks import CallbackContext, Callbacks
from langchain_mcp_adapters.client import MultiServerMCPClient
from task import DENIED, PERMITTED, PROMPT, RESOURCE, answer


async def adapters(target: dict[str, Any], report: dict[str, Any]) -> None:
    """What an agent of LangChain's would be given."""
    prefix, seen = target["prefix"], []

    async def progress(at: float, total: float | None, message: str | None, context: CallbackContext) -> None:
        seen.append(at)

    connection = {"transport": "streamable_http", "url": target["url"], "headers": target["headers"]}
    client = MultiServerMCPClient({"there": connection}, callbacks=Callbacks(on_progress=progress))
    tools = {tool.name: tool for tool in await client.get_tools()}

    async def call(name: str, args: dict[str, Any], before: str = prefix) -> Any:
        return await tools[f"{before}{name}"].ainvoke({"type": "tool_call", "id": "1", "name": f"{before}{name}", "args": args})

    report["tools"] = sorted(tools)
    report["structured"] = (await call("gw_structured", {})).artifact["structured_content"]
    report["permitted"] = (await call("gw_big", PERMITTED)).content[0]["text"]
    refused = await call("gw_big", DENIED)
    report["denied"] = {"how": "text", "error": refused.status == "error", "text": refused.content[0]["text"][:400]}
    await call("test_tool_with_progress", {})
    report["progress"] = seen
    report["resource"] = (await client.get_resources("there", uris=[RESOURCE]))[0].as_string()
    report["prompt"] = (await client.get_prompt("there", f"{prefix}{PROMPT}"))[0].content
    report["others"] = [(await call(name, {}, "")).content[0]["text"] for name in target["others"]]


answer({"langchain": adapters})
