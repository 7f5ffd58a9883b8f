"""An A2A agent whose reasoning is a Python function: it gets the request's data and the delegation token, and returns data."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from a2a.helpers.proto_helpers import get_data_parts, new_data_part, new_task_from_user_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill
from gateway_client import Outcome, whole
from starlette.applications import Starlette

sys.path.append(str(Path(__file__).resolve().parent.parent))  # a script's own path holds its own folder only

import serving

Answer = dict[str, Any]
Script = Callable[[dict[str, Any], str], Awaitable[Answer]]
"""(request data, delegation token) → answer with at least `status`: `ok`, `refused` or `failed`."""


def ok(*calls: Outcome, **found: Any) -> Answer:
    """An answer of an agent that did what it was asked, with all its calls."""
    return {"status": "ok", **found, "calls": [call.to_dict() for call in calls]}


def gave_up(because: Outcome, *calls: Outcome) -> Answer:
    """An answer of an agent that was stopped: the refusal's code and decision id, and all calls up to there."""
    return {
        "status": because.status,
        "code": because.code,
        "decision": because.decision,
        "message": because.message or f"{because.target} did not succeed",
        "calls": [call.to_dict() for call in calls or (because,)],
    }


def misunderstood(request: Mapping[str, Any]) -> Answer:
    """An answer to a request that this agent has no script for."""
    return {"status": "failed", "message": f"unknown intent: {request.get('intent')!r}", "calls": []}


class _Scripted(AgentExecutor):
    """Runs the script once per message; the answer becomes the data artifact of a completed task."""

    def __init__(self, script: Script) -> None:
        self._script = script

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        message = context.message
        if message is None:
            return
        if context.current_task is None:
            await event_queue.enqueue_event(new_task_from_user_message(message))
        task = TaskUpdater(event_queue, context.task_id or "", context.context_id or "")
        await task.start_work()
        asked = [whole(part) for part in get_data_parts(message.parts) if isinstance(part, dict)]
        try:
            answer = await self._script(asked[0] if asked else {}, _delegation(context))
        except KeyError as missing:
            answer = {"status": "failed", "message": f"the request lacks {missing}", "calls": []}
        await task.add_artifact([new_data_part(answer, media_type="application/json")], name="answer")
        await task.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id or "", context.context_id or "").cancel()


def _delegation(context: RequestContext) -> str:
    """The token that says for whom this request is made: `Bailiwick-Delegation`, or a bearer token; "" where there is none."""
    headers: Mapping[str, str] = context.call_context.state.get("headers", {}) if context.call_context else {}
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    return headers.get("bailiwick-delegation") or (bearer.strip() if scheme.lower() == "bearer" else "")


def serve(script: Script, *, description: str, intents: tuple[str, ...]) -> None:
    """Serve the agent AGENT_ID on the socket of the command line; JSON-RPC at `/`, the card at its well-known path."""
    lacking = [name for name in ("GATEWAY_URL", "AGENT_ID", "AGENT_SECRET") if not os.environ.get(name)]
    if lacking:
        sys.exit(f"not set: {', '.join(lacking)}")
    listening = serving.listening_socket()
    card = AgentCard(
        name=os.environ["AGENT_ID"],
        description=description,
        version="1.0.0",
        supported_interfaces=[
            AgentInterface(url=f"{serving.url_of(listening)}/", protocol_binding="JSONRPC", protocol_version="1.0")
        ],
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["application/json"],
        default_output_modes=["application/json"],
        skills=[AgentSkill(id=intent, name=intent, description=f"intent {intent}", tags=["procurement"]) for intent in intents],
    )
    handler = DefaultRequestHandler(agent_executor=_Scripted(script), task_store=InMemoryTaskStore(), agent_card=card)
    app = Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")])
    serving.run(app, listening)
