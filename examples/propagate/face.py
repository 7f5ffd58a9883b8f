"""The A2A face of these examples: text comes in, an answer goes out.  One line of it is about identity: the middleware."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable

import uvicorn
from a2a.helpers.proto_helpers import get_message_text, new_text_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill
from starlette.applications import Starlette

from gateway.propagate import DelegationMiddleware

Answer = Callable[[str], Awaitable[str]]


class Asked(AgentExecutor):
    """Answers each message with one of its own."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        text = get_message_text(context.message) if context.message is not None else ""
        await event_queue.enqueue_event(new_text_message(await self._answer(text)))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Nothing goes on after the answer."""


def serve(name: str, answer: Answer) -> None:
    """Serve on loopback, at $PORT or any port."""
    listening = socket.create_server(("127.0.0.1", int(os.environ.get("PORT", "0"))))
    port = listening.getsockname()[1]
    card = AgentCard(
        name=name,
        description="an example",
        version="1.0.0",
        supported_interfaces=[
            AgentInterface(url=f"http://127.0.0.1:{port}/", protocol_binding="JSONRPC", protocol_version="1.0")
        ],
        capabilities=AgentCapabilities(),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="ask", name="ask", description="ask it something", tags=["example"])],
    )
    handler = DefaultRequestHandler(agent_executor=Asked(answer), task_store=InMemoryTaskStore(), agent_card=card)
    app = Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")])
    print("ready", port, flush=True)
    uvicorn.Server(uvicorn.Config(DelegationMiddleware(app), log_level="warning")).run(sockets=[listening])
