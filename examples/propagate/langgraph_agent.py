"""A LangGraph agent whose tools are an MCP server's, through the gateway, by LangChain's adapters."""

from __future__ import annotations

import os
from functools import partial

import httpx
from face import serve
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_mcp_adapters.client import MultiServerMCPClient

from gateway.propagate import Carrier

GATEWAY = os.environ["GATEWAY_URL"]
carrier = Carrier(GATEWAY, os.environ["AGENT_SECRET"])
desk = MultiServerMCPClient(
    {
        "desk": {
            "transport": "streamable_http",
            "url": f"{GATEWAY}/mcp/desk",
            "httpx_client_factory": partial(httpx.AsyncClient, event_hooks=carrier.hooks),
        }
    }
)
model: str | BaseChatModel = os.environ.get("MODEL", "openai:gpt-5")


async def answer(text: str) -> str:
    """What the graph comes to.  The tools are asked for each time: they are what this person may use here."""
    graph = create_agent(model, await desk.get_tools())
    done = await graph.ainvoke({"messages": [("user", text)]})
    return str(done["messages"][-1].text)


if __name__ == "__main__":
    serve("langgraph", answer)
