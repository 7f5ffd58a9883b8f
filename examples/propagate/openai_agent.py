"""An agent on the OpenAI Agents SDK whose tools are an MCP server's, through the gateway."""

from __future__ import annotations

import os
from functools import partial

import httpx2
from agents import Agent, Model, Runner
from agents.mcp import MCPServerStreamableHttp
from face import serve

from gateway.propagate import Carrier

GATEWAY = os.environ["GATEWAY_URL"]
carrier = Carrier(GATEWAY, os.environ["AGENT_SECRET"])
model: str | Model = os.environ.get("MODEL", "gpt-5")


async def answer(text: str) -> str:
    """What the run comes to.  The session with the server is this request's own, and ends with it."""
    clients = partial(httpx2.AsyncClient, event_hooks=carrier.hooks)
    async with MCPServerStreamableHttp({"url": f"{GATEWAY}/mcp/desk", "httpx_client_factory": clients}) as desk:
        run = await Runner.run(Agent("clerk", model=model, mcp_servers=[desk]), text)
    return str(run.final_output)


if __name__ == "__main__":
    serve("openai-agents", answer)
