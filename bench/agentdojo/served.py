"""AgentDojo's environments as MCP servers, each suite at a path of its own; run by the interpreter that has AgentDojo.

    python served.py PORT

`POST /begin` puts a fresh environment in place and says which calls solve the tasks, `POST /judge` asks AgentDojo's own checks.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import uvicorn
from agentdojo.agent_pipeline.tool_execution import tool_result_to_str
from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime
from agentdojo.task_suite.load_suites import get_suites
from agentdojo.types import text_content_block_from_string
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

VERSION = "v1.2.2"
SUITES = get_suites(VERSION)


@dataclass
class Episode:
    """One environment, and what was done to it."""

    before: Any
    now: Any
    user: Any
    injection: Any
    calls: list[FunctionCall] = field(default_factory=list)


EPISODES: dict[str, Episode] = {}


def manager_of(name: str) -> StreamableHTTPSessionManager:
    """A suite's tools as they are described by AgentDojo, over the environment that was begun last."""
    suite, server = SUITES[name], Server(f"agentdojo-{name}")
    runtime = FunctionsRuntime(suite.tools)

    @server.list_tools()
    async def tools() -> list[types.Tool]:
        return [
            types.Tool(name=tool.name, description=tool.description, inputSchema=tool.parameters.model_json_schema())
            for tool in suite.tools
        ]

    @server.call_tool(validate_input=False)
    async def call(tool: str, arguments: dict[str, Any]) -> list[types.TextContent]:
        episode = EPISODES[name]
        result, error = runtime.run_function(episode.now, tool, arguments)
        episode.calls.append(FunctionCall(function=tool, args=arguments))
        if error is not None:
            raise ValueError(error)
        return [types.TextContent(type="text", text=tool_result_to_str(result))]

    return StreamableHTTPSessionManager(server, json_response=True, stateless=True)


def calls_of(task: Any, environment: Any) -> list[dict[str, Any]]:
    """The calls that solve a task."""
    return [{"tool": call.function, "args": dict(call.args)} for call in task.ground_truth(environment)]


@lru_cache
def _read(name: str, text: str) -> Any:
    injections = dict.fromkeys(SUITES[name].get_injection_vector_defaults(), text) if text else {}
    return SUITES[name].load_and_inject_default_environment(injections)


def fresh(name: str, text: str) -> Any:
    """An environment that nobody else has; reading its file takes far longer than a copy."""
    return _read(name, text).model_copy(deep=True)


async def begin(request: Request) -> JSONResponse:
    """A fresh environment, with a text in all places that an attacker can write to."""
    said = await request.json()
    suite = SUITES[said["suite"]]
    made = [fresh(suite.name, said.get("text", "")) for _ in "ab"]
    user = suite.user_tasks[said["user"]]
    made = [user.init_environment(each) for each in made]
    injection = suite.injection_tasks[said["injection"]] if said.get("injection") else None
    EPISODES[suite.name] = Episode(made[0], made[1], user, injection)
    calls = {"user": calls_of(user, made[0]), "injection": calls_of(injection, made[0]) if injection else []}
    return JSONResponse(json.loads(json.dumps(calls, default=str)))


async def judge(request: Request) -> JSONResponse:
    """Whether the user's task is done, and whether the attacker's is."""
    suite = SUITES[(await request.json())["suite"]]
    episode = EPISODES[suite.name]
    found = {}
    for kind, task in (("utility", episode.user), ("attack", episode.injection)):
        if task is not None:
            output = [text_content_block_from_string(task.GROUND_TRUTH_OUTPUT)]
            found[kind] = bool(suite._check_task_result(task, output, episode.before, episode.now, episode.calls))
    return JSONResponse(found)


async def tasks(_request: Request) -> JSONResponse:
    """What there is: tasks by suite, each tool's arguments as its schema has them, and the text of the clean environment."""
    return JSONResponse(
        {
            name: {
                "user": list(suite.user_tasks),
                "injection": list(suite.injection_tasks),
                "tools": {tool.name: tool.parameters.model_json_schema() for tool in suite.tools},
                "environment": suite.load_and_inject_default_environment({}).model_dump_json(),
            }
            for name, suite in SUITES.items()
        }
    )


def app() -> Starlette:
    """All of it."""
    managers = {name: manager_of(name) for name in SUITES}

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for manager in managers.values():
                await stack.enter_async_context(manager.run())
            yield

    doors = [Mount(f"/{name}", app=manager.handle_request) for name, manager in managers.items()]
    control = [Route("/begin", begin, methods=["POST"]), Route("/judge", judge, methods=["POST"]), Route("/tasks", tasks)]
    return Starlette(routes=[*control, *doors], lifespan=lifespan)


if __name__ == "__main__":
    uvicorn.run(app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
