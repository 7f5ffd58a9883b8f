"""Agents that do what no SDK would: each test says, event by event, what they answer."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from policies.model import NOTHING
from tests.a2a.world import serving

Answering = Callable[["Request"], Awaitable[None]]


@dataclass
class Request:
    """One call as the agent got it, and its ways to answer."""

    headers: dict[str, str]
    body: bytes
    path: str
    method: str
    target: str
    """As the request line has it."""
    _send: Any
    _receive: Any
    started: bool = False
    extra: tuple[tuple[str, str], ...] = ()
    """Further headers of the answer."""

    @property
    def rpc(self) -> Any:
        return json.loads(self.body)

    async def reply(self, body: bytes, kind: str = "application/json", status: int = 200, **headers: str) -> None:
        await self._head(kind, status, headers)
        await self._send({"type": "http.response.body", "body": body})

    async def result(self, result: Any) -> None:
        await self.reply(json.dumps({"jsonrpc": "2.0", "id": self.rpc["id"], "result": result}).encode())

    async def error(self, error: Any, status: int = 200) -> None:
        await self.reply(json.dumps({"jsonrpc": "2.0", "id": self.rpc["id"], "error": error}).encode(), status=status)

    async def event(self, result: Any, end: bytes = b"\r\n\r\n") -> None:
        data = json.dumps({"jsonrpc": "2.0", "id": self.rpc["id"], "result": result}).encode()
        await self.raw(b"data: " + data + end)

    async def raw(self, chunk: bytes) -> None:
        await self._head("text/event-stream", 200)
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    async def gone(self) -> None:
        """Return when the gateway has left."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _head(self, kind: str, status: int, more: Mapping[str, str] = NOTHING) -> None:
        if not self.started:
            self.started = True
            headers = [(b"content-type", kind.encode()), *((name.encode(), value.encode()) for name, value in self.extra)]
            await self._send({"type": "http.response.start", "status": status, "headers": headers})


@dataclass
class Agent:
    """A scripted agent; `script` answers each call."""

    script: Answering
    requests: list[Request] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    async def got(self, count: int) -> list[Request]:
        """The requests, once there are so many."""
        async with asyncio.timeout(20):
            while len(self.requests) < count:
                self.grown.clear()
                await self.grown.wait()
        return self.requests

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            part = await receive()
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        target = scope["raw_path"].decode() + (f"?{query}" if query else "")
        request = Request(headers, body, scope["path"], scope["method"], target, send, receive)
        self.requests.append(request)
        self.grown.set()
        await self.script(request)


@asynccontextmanager
async def scripted(script: Answering) -> AsyncIterator[tuple[str, Agent]]:
    """A scripted agent on a real socket, and its URL."""
    agent = Agent(script)
    sock = socket.create_server(("127.0.0.1", 0))
    async with serving(agent, sock):
        yield f"http://127.0.0.1:{sock.getsockname()[1]}", agent


def task(state: str, task_id: str = "t-1", context_id: str = "c-1") -> dict[str, Any]:
    return {"task": {"id": task_id, "contextId": context_id, "status": {"state": f"TASK_STATE_{state}"}}}


def status(state: str, task_id: str = "t-1", context_id: str = "c-1") -> dict[str, Any]:
    return {"statusUpdate": {"taskId": task_id, "contextId": context_id, "status": {"state": f"TASK_STATE_{state}"}}}
