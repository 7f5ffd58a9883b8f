"""Both listeners on real sockets, an application that says what it was asked, and a client that speaks raw bytes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from gateway.listener.listener import Bounds, Listener

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BOTH = ("lean", "uvicorn")


def config(app: App) -> uvicorn.Config:
    """uvicorn as `bailiwick serve` sets it up."""
    return uvicorn.Config(
        app,
        http="httptools",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )


@asynccontextmanager
async def serving(kind: str, app: App, bounds: Bounds | None = None) -> AsyncIterator[int]:
    """An application on a loopback port, behind one listener or the other."""
    sock = socket.create_server(("127.0.0.1", 0))
    port = int(sock.getsockname()[1])
    if kind == "lean":
        listener = Listener(app, bounds)
        await listener.open(sock=sock)
        try:
            yield port
        finally:
            await listener.close()
        return
    server = uvicorn.Server(config(app))
    task = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started:  # noqa: ASYNC110  uvicorn has a flag and no event
        await asyncio.sleep(0)
    try:
        yield port
    finally:
        server.should_exit = True
        await task


@dataclass
class Reply:
    """One answer; `body` without its framing.  `whole`: not cut short."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    whole: bool = True

    def header(self, name: bytes) -> bytes | None:
        found = [value for each, value in self.headers if each == name]
        assert len(found) < 2, found
        return found[0] if found else None

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Client:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    sent: list[bytes] = field(default_factory=list)

    async def send(self, *pieces: bytes) -> None:
        """Each piece in a segment of its own."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            for _ in range(3):
                await asyncio.sleep(0)

    async def head(self) -> Reply:
        """The next answer's head."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        line, *fields = raw[:-4].split(b"\r\n")
        version, status, _ = line.split(b" ", 2)
        assert version == b"HTTP/1.1"
        pairs = [each.split(b": ", 1) for each in fields]
        return Reply(int(status), [(name.lower(), value) for name, value in pairs])

    async def reply(self, method: str = "GET") -> Reply:
        """The next whole answer."""
        reply = await self.head()
        length, coding = reply.header(b"content-length"), reply.header(b"transfer-encoding")
        assert length is None or coding is None, "an answer has one length"
        try:
            if method == "HEAD" or reply.status in (100, 204, 304):
                pass
            elif coding is not None:
                assert coding == b"chunked"
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    reply.body += await self.reader.readexactly(size)
                    assert await self.reader.readexactly(2) == b"\r\n"
                assert await self.reader.readexactly(2) == b"\r\n"
            elif length is not None:
                reply.body = await self.reader.readexactly(int(length))
            else:
                reply.body = await self.reader.read()
        except asyncio.IncompleteReadError as cut:
            reply.body += cut.partial
            reply.whole = False
        return reply

    async def chunk(self) -> bytes:
        """The next chunk of a streamed answer, as soon as it is there."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def ended(self) -> bytes:
        """Whatever still comes until the server ends the connection."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def whole_body(receive: Receive) -> bytes | None:
    """The request's body; None where the client hung up before it was whole."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message["body"]
        if not message["more_body"]:
            return bytes(body)


def asked(scope: Scope, body: bytes) -> dict[str, Any]:
    """What an application was asked, as JSON says it."""
    return {
        "method": scope["method"],
        "path": scope["path"],
        "raw_path": scope["raw_path"].decode(),
        "query": scope["query_string"].decode(),
        "version": scope["http_version"],
        "scheme": scope["scheme"],
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
        "body": body.decode("latin-1"),
    }


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Says what it was asked."""
    body = await whole_body(receive)
    if body is None:
        return
    text = json.dumps(asked(scope, body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


async def answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], *parts: bytes) -> None:
    """Says this, each part in a message of its own."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for part in parts[:-1]:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": parts[-1] if parts else b""})


def answering(status: int, headers: list[tuple[bytes, bytes]], *parts: bytes) -> App:
    """Always says this."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        await answer(send, status, headers, *parts)

    return app


def request(method: str = "GET", target: str = "/", *fields: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """A well-formed request; `Content-Length` where there is a body."""
    lines = [f"{method} {target} HTTP/{version}", "Host: a", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
