"""An agent on the official A2A SDK that does what it is told: the message is a plan, the answer is what came of it.

Every call goes through the gateway, with the official clients.  Steps of a plan, each an object with one of these keys:
`agent` (and `binding`, `streams`, `plan`), `tool` (as `server.name`, and `args`), `list` (tools of a server), `card` (its name),
`directory` (of agents), `heard` (the trace of the request), `together` (steps at the same time).  `shows` says how the calls of a
plan are made: `token` by `gateway.propagate`; `trace`, as an agent that knows nothing but its secret and traces what it does;
`nothing`, with the secret alone; `stranger`, with the trace alone.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import grpc.aio
import httpx
import httpx2
import uvicorn
from a2a.client import A2ACardResolver, ClientCallContext, ClientConfig, ClientFactory
from a2a.client.errors import A2AClientError
from a2a.helpers.proto_helpers import get_data_parts, new_data_message, new_data_part, new_task_from_user_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.request_handlers.grpc_handler import GrpcHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Role, SendMessageRequest
from a2a.types.a2a_pb2_grpc import add_A2AServiceServicer_to_server
from a2a.utils.errors import A2AError
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from starlette.applications import Starlette

from gateway.propagate import Carrier, Delegation, DelegationMiddleware, NoDelegationError, served, serving

GATEWAY = os.environ["GATEWAY_URL"]
NAME, SECRET = os.environ["AGENT_ID"], os.environ["AGENT_SECRET"]
SECONDS = 60
CARRIER = Carrier(GATEWAY, SECRET, more=os.environ["GATEWAY_GRPC"].split())


def options(shows: str) -> dict[str, Any]:
    """Of an httpx client, by what it shows."""
    common: dict[str, Any] = {"timeout": SECONDS, "trust_env": False}
    if shows == "token":
        return common | {"event_hooks": CARRIER.hooks}
    heard = served()
    trace = {"traceparent": heard.traceparent} if heard is not None and shows in {"trace", "stranger"} else {}
    own = {} if shows == "stranger" else {"authorization": f"Bearer {SECRET}"}
    return common | {"headers": own | trace}


async def carry_out(plan: dict[str, Any]) -> list[Any]:
    """The outcome of every step, in the order of the plan."""
    shows = plan.get("shows", "token")
    return [await step(each, shows) for each in plan.get("do", [])]


async def step(said: dict[str, Any], shows: str) -> Any:
    """What came of one step; a refusal as `{"refused": what the client says}`."""
    try:
        if "together" in said:
            return list(await asyncio.gather(*(step(each, shows) for each in said["together"])))
        if "agent" in said:
            return await ask(said, shows)
        if "heard" in said:
            request = served()
            return request.traceparent if request is not None else ""
        if "directory" in said:
            async with httpx.AsyncClient(**options(shows)) as http:
                found = (await http.get(f"{GATEWAY}/a2a/")).raise_for_status().json()
                return sorted(each["id"] for each in found["agents"])
        if "card" in said:
            async with httpx.AsyncClient(**options(shows)) as http:
                return (await A2ACardResolver(http, f"{GATEWAY}/a2a/{said['card']}").get_agent_card()).name
        return await tool(said, shows)
    except BaseExceptionGroup as group:
        return {"refused": repr(group.exceptions[0])}
    except (A2AError, A2AClientError, MCPError, NoDelegationError, httpx.HTTPError, httpx2.HTTPError) as error:
        return {"refused": repr(error)}


async def ask(said: dict[str, Any], shows: str) -> Any:
    binding, parts, context = said.get("binding", "JSONRPC"), [], None
    async with httpx.AsyncClient(**options(shows)) as http:
        card = await A2ACardResolver(http, f"{GATEWAY}/a2a/{said['agent']}").get_agent_card()
        config = ClientConfig(
            httpx_client=http,
            streaming=said.get("streams", False),
            supported_protocol_bindings=[binding],
            grpc_channel_factory=grpc.aio.insecure_channel,
        )
        if binding == "GRPC":
            (target,) = (each.url for each in card.supported_interfaces if each.protocol_binding == "GRPC")
            context = ClientCallContext(service_parameters=CARRIER.headers(f"http://{target}"))
        request = SendMessageRequest(message=new_data_message(said.get("plan", {}), role=Role.ROLE_USER))
        async with ClientFactory(config).create(card) as client:
            async for reply in client.send_message(request, context=context):
                for artifact in (*reply.task.artifacts, reply.artifact_update.artifact):
                    parts += artifact.parts
    return get_data_parts(parts)[-1]


async def tool(said: dict[str, Any], shows: str) -> Any:
    server, _, name = said.get("tool", said.get("list", "")).partition(".")
    async with (
        httpx2.AsyncClient(**options(shows)) as http,
        Client(streamable_http_client(f"{GATEWAY}/mcp/{server}", http_client=http), cache=None) as client,
    ):
        if "list" in said:
            return sorted(each.name for each in (await client.list_tools()).tools)
        result = await client.call_tool(name, said.get("args", {}))
    text = " ".join(block.text for block in result.content if block.type == "text")
    return {"refused": text} if result.is_error else text


class Told(AgentExecutor):
    """Carries out the plan of a message."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.message is not None
        await event_queue.enqueue_event(new_task_from_user_message(context.message))
        task = TaskUpdater(event_queue, context.task_id or "", context.context_id or "")
        plan = (get_data_parts(context.message.parts) or [{}])[0]
        call = context.call_context.state.get("grpc_context") if context.call_context is not None else None
        if call is None:
            outcomes = await carry_out(plan)
        else:
            with serving(Delegation.of(call.invocation_metadata())):
                outcomes = await carry_out(plan)
        await task.add_artifact([new_data_part({"by": NAME, "outcomes": outcomes})], name="answer")
        await task.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id or "", context.context_id or "").cancel()


async def main() -> None:
    """Serve on any loopback port, and over gRPC on another, and say which."""
    listening, calls = socket.create_server(("127.0.0.1", 0)), grpc.aio.server()
    port, grpc_port = listening.getsockname()[1], calls.add_insecure_port("127.0.0.1:0")
    url = f"http://127.0.0.1:{port}/"
    card = AgentCard(
        name=NAME,
        description="does what it is told",
        version="1.0.0",
        supported_interfaces=[AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")],
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["application/json"],
        default_output_modes=["application/json"],
        skills=[AgentSkill(id="plan", name="plan", description="carries out a plan", tags=["plan"])],
    )
    handler = DefaultRequestHandler(agent_executor=Told(), task_store=InMemoryTaskStore(), agent_card=card)
    add_A2AServiceServicer_to_server(GrpcHandler(handler), calls)
    await calls.start()
    app = Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")])
    print("ready", port, grpc_port, flush=True)
    try:
        await uvicorn.Server(uvicorn.Config(DelegationMiddleware(app), log_level="warning")).serve(sockets=[listening])
    finally:
        await calls.stop(0)


if __name__ == "__main__":
    asyncio.run(main())
