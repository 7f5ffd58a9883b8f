"""Servers that say what a test has them say, and streams as a client of no library sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.mcp.world import World, modern_body, modern_headers
from tests.upstream.wire import Reader, Script, Upstream, Writer

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
FORM_QUESTION: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": "q-1",
    "method": "elicitation/create",
    "params": {
        "message": "What is your name?",
        "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}},
    },
}
ELICITS = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
TASKS = {
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}},
}


def where(there: Upstream) -> str:
    return f"http://127.0.0.1:{there.port}/mcp"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(message: Any, name: str = "", retry: int = 0) -> bytes:
    head = (f"id: {name}\n" if name else "") + (f"retry: {retry}\n" if retry else "")
    data = b"" if message is None else json.dumps(message).encode()
    return chunk(head.encode() + b"data: " + data + b"\n\n")


def done(rpc_id: Any, text: str = "went on") -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": rpc_id, "result": {"content": [{"type": "text", "text": text}]}}


def whole(message: Any, *headers: bytes) -> bytes:
    body = json.dumps(message).encode()
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n%s" % (lines, len(body), body)


ACCEPTED = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"


def simple(body: dict[str, Any]) -> bytes:
    """A handshake, and nothing to everything else."""
    if body.get("method") != "initialize":
        return ACCEPTED if "id" not in body or "method" not in body else whole({"jsonrpc": "2.0", "id": body["id"], "result": {}})
    capabilities = {"tools": {}, "resources": {}, "prompts": {}}
    result = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": {"name": "s", "version": "1"}}
    return whole({"jsonrpc": "2.0", "id": body["id"], "result": result}, b"mcp-session-id: s-1")


Say = Callable[[Upstream, dict[str, Any], bytes, Writer], Awaitable[None]]


def scripted(say: Say) -> Script:
    """`say` answers tool calls, GETs and DELETEs (whose head it gets); the rest is answered as `simple` has it."""

    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while request := await there.request(reader):
            head, _, content = request.partition(b"\r\n\r\n")
            body = json.loads(content or b"{}")
            if head.startswith((b"GET", b"DELETE")) or body.get("method") in {"tools/call", "subscriptions/listen"}:
                await say(there, body, head, writer)
            else:
                writer.write(simple(body))

    return script


def saying_json(message: Any) -> Script:
    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        writer.write(whole({**message, "id": body["id"]}))

    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while request := await there.request(reader):
            body = json.loads(request.partition(b"\r\n\r\n")[2] or b"{}")
            if body.get("method") in {"tools/call", "prompts/get", "resources/read"}:
                await say(there, body, b"", writer)
            else:
                writer.write(simple(body))

    return script


def asking(question: dict[str, Any], answered: asyncio.Queue[dict[str, Any]]) -> Script:
    """Asks during a tool call, waits for what it is told, and goes on."""
    told = asyncio.Event()

    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while request := await there.request(reader):
            body = json.loads(request.partition(b"\r\n\r\n")[2] or b"{}")
            if body.get("method") == "tools/call":
                writer.write(SSE + event(question))
                await told.wait()
                writer.write(event(done(body["id"])) + END)
            else:
                if "method" not in body:
                    answered.put_nowait(body)
                    told.set()
                writer.write(simple(body))

    return script


# --- streams as they come


def in_session(session: str) -> dict[str, str]:
    return {"mcp-protocol-version": "2025-11-25", "mcp-session-id": session}


@asynccontextmanager
async def streamed(world: World, session: str, method: str, person: str = "anna", **params: Any) -> AsyncIterator[Any]:
    """A legacy request whose answer is read as it comes."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    async with opened(world, "POST", person, in_session(session), body) as lines:
        yield lines


@asynccontextmanager
async def listening(
    world: World, person: str = "anna", rpc_id: Any = "l-1", meta: Any = None, **wanted: Any
) -> AsyncIterator[Any]:
    """A `subscriptions/listen`, read as it comes."""
    body = modern_body("subscriptions/listen", rpc_id, meta, notifications=wanted)
    async with opened(world, "POST", person, modern_headers("subscriptions/listen"), body) as lines:
        yield lines


@asynccontextmanager
async def opened(
    world: World, method: str, person: str, headers: dict[str, str], body: dict[str, Any] | None = None
) -> AsyncIterator[Any]:
    sent = {"accept": "application/json, text/event-stream"} | world.token(person) | headers
    sent |= {"content-type": "application/json"} if body is not None else {}
    content = None if body is None else json.dumps(body).encode()
    async with world.client.stream(method, "/mcp/ref", content=content, headers=sent) as response:
        assert response.status_code == 200, await response.aread()
        yield Lines(response, response.aiter_lines())


class Lines:
    """The lines of an event stream."""

    def __init__(self, response: Any, lines: AsyncIterator[str]) -> None:
        self.response = response
        self.lines = lines
        self.comments = 0
        self.last_id = ""
        self.retry = 0


async def next_message(lines: Lines, seconds: float = 15) -> Any:
    """The next message; StopAsyncIteration at the end."""
    while (message := await next_event(lines, seconds)) is None:
        pass
    return message


async def next_event(lines: Lines, seconds: float = 15) -> Any:
    """The next message; None for an event without data, StopAsyncIteration at the end."""
    async with asyncio.timeout(seconds):
        async for line in lines.lines:
            if line.startswith(":"):
                lines.comments += 1
            elif line.startswith("id: "):
                lines.last_id = line[4:]
            elif line.startswith("retry: "):
                lines.retry = int(line[7:])
            elif line.startswith("data:"):
                data = line[5:].strip()
                return json.loads(data) if data else None
    raise StopAsyncIteration


async def next_comment(lines: Lines, seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        async for line in lines.lines:
            if line.startswith(":"):
                return
    raise StopAsyncIteration
