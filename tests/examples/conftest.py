"""The example world, started once, and a stand-in for the gateway that relays, scripts refusals and remembers who called.

With a `gateway` behind it, it is none: what agents send goes there unchanged.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

PROCUREMENT = Path(__file__).resolve().parents[2] / "examples" / "procurement"
HOP_BY_HOP = {"host", "content-length", "connection", "accept-encoding", "transfer-encoding", "content-encoding"}
NOT_RELAYED = {"host", "authorization", "bailiwick-delegation", "content-length", "connection", "accept-encoding"}


def load(path: Path) -> ModuleType:
    """A module of the example by its file, as the demonstration loads it."""
    spec = importlib.util.spec_from_file_location(f"procurement_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@dataclass
class StandIn:
    """Relays to the world, unless `refusals` answers, by `server.tool`, `mcp:server`, `a2a:agent` or `card:agent`."""

    world: Any = None
    url: str = ""
    gateway: str = ""
    """URL of a real gateway, to which all calls of the agents go instead."""
    shown: dict[str, str] = field(default_factory=dict)
    """By agent: the bearer token of the last message that came for it through `/tap/<agent>/`."""
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    """(target, caller, delegation token) of each tools/call and SendMessage."""
    refusals: dict[str, Callable[[Any], Response]] = field(default_factory=dict)
    sandbox: Callable[[str], dict[str, Any]] = lambda code: {"stdout": "", "reason": "error", "code": code}

    @contextmanager
    def refusing(self, what: str, how: Callable[[Any], Response]) -> Iterator[None]:
        self.refusals[what] = how
        try:
            yield
        finally:
            del self.refusals[what]

    async def tap(self, request: Request) -> Response:
        """Between a real gateway and an agent: looks at the delegation that the agent is given, and passes all on."""
        agent, rest = request.path_params["agent"], request.path_params["rest"]
        self.shown[agent] = request.headers.get("authorization", "").removeprefix("Bearer ")
        return await passed_on(request, self.world.agent_urls[agent] + rest)

    async def mcp(self, request: Request) -> Response:
        if self.gateway:
            return await passed_on(request, self.gateway + request.url.path)
        server, body = request.path_params["server"], await request.body()
        message = json.loads(body or b"{}")
        target = f"mcp:{server}"
        if message.get("method") == "tools/call":
            target = f"{server}.{message['params']['name']}"
            self.note(target, request)
        if refusal := self.refusals.get(f"mcp:{server}") or self.refusals.get(target):
            return decided(refusal(message["id"]))
        if server == "sandbox":
            return decided(self.built_in(message))
        headers = {"Authorization": f"Bearer {self.world.server_secrets[server]}"}
        return await relay(request, self.world.server_urls[server], body, headers)

    async def a2a(self, request: Request) -> Response:
        if self.gateway:
            return await passed_on(request, self.gateway + request.url.path)
        agent, body = request.path_params["agent"], await request.body()
        self.note(f"a2a:{agent}", request)
        if refusal := self.refusals.get(f"a2a:{agent}"):
            return decided(refusal(json.loads(body)["id"]))
        chain = f"{request.headers.get('bailiwick-delegation', 'nobody')}>{agent}"
        return await relay(request, self.world.agent_urls[agent], body, {"Authorization": f"Bearer {chain}"})

    async def card(self, request: Request) -> Response:
        if self.gateway:
            return await passed_on(request, self.gateway + request.url.path)
        agent = request.path_params["agent"]
        if refusal := self.refusals.get(f"card:{agent}"):
            return decided(refusal(None))
        async with httpx.AsyncClient() as http:
            card = (await http.get(f"{self.world.agent_urls[agent]}.well-known/agent-card.json")).json()
        card["supportedInterfaces"][0]["url"] = f"{self.url}/a2a/{agent}/"
        return decided(JSONResponse(card))

    def note(self, target: str, request: Request) -> None:
        secret = request.headers.get("authorization", "").removeprefix("Bearer ")
        known = {value: name for name, value in self.world.agent_secrets.items()}
        self.calls.append((target, known.get(secret, secret), request.headers.get("bailiwick-delegation", "")))

    def built_in(self, message: dict[str, Any]) -> Response:
        """The gateway's own `sandbox` server, with a scripted result in the place of a run."""
        results: dict[str, Any] = {
            "server/discover": {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}},
            "tools/list": {"tools": [{"name": "run_python", "inputSchema": {"type": "object"}}]},
        }
        result = results.get(message["method"], {}) | {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
        if message["method"] == "tools/call":
            run = self.sandbox(message["params"]["arguments"]["code"])
            result = {"resultType": "complete", "content": [], "structuredContent": run}
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "result": result})


def decided(response: Response) -> Response:
    response.headers["Bailiwick-Decision"] = "decision-1"
    return response


async def relay(request: Request, url: str, body: bytes, headers: dict[str, str]) -> Response:
    kept = {key: value for key, value in request.headers.items() if key not in NOT_RELAYED}
    async with httpx.AsyncClient(timeout=30) as http:
        answer = await http.request(request.method, url, content=body, headers=kept | headers)
    return decided(Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type")))


async def passed_on(request: Request, url: str) -> Response:
    """The request as it came, and the answer as it was given."""
    kept = {key: value for key, value in request.headers.items() if key not in HOP_BY_HOP}
    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
        answer = await http.request(request.method, url, content=await request.body(), headers=kept)
    named = {key: value for key, value in answer.headers.items() if key not in HOP_BY_HOP}
    return Response(answer.content, answer.status_code, named)


@pytest.fixture(scope="session")
def stand_in() -> Iterator[StandIn]:
    """On a thread of its own, so that the tests' event loops come and go without it."""
    gateway = StandIn()
    app = Starlette(
        routes=[
            Route("/mcp/{server}", gateway.mcp, methods=["POST", "GET", "DELETE"]),
            Route("/a2a/{agent}/.well-known/agent-card.json", gateway.card),
            Route("/a2a/{agent}/", gateway.a2a, methods=["POST"]),
            Route("/tap/{agent}/{rest:path}", gateway.tap, methods=["GET", "POST"]),
        ]
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        gateway.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield gateway
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def world(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    world = load(PROCUREMENT / "world.py").World(stand_in.url, tmp_path_factory.mktemp("world"))
    stand_in.world = world
    try:
        asyncio.run(world.start())
        yield world
    finally:
        asyncio.run(world.stop())


@pytest.fixture(scope="session")
def client_module() -> ModuleType:
    return load(PROCUREMENT / "agents" / "gateway_client.py")


@pytest.fixture
def client(world: Any, stand_in: StandIn, client_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The agents' own way of calling, used by a person's program; `stand_in.calls` starts empty."""
    monkeypatch.setenv("GATEWAY_URL", stand_in.url)
    monkeypatch.setenv("AGENT_SECRET", "persons-program")
    stand_in.calls.clear()
    return client_module
