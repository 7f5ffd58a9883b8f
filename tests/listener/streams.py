"""What a listener makes of a byte stream, without a network: the requests that reached the application, and the statuses.

The wire is a transport in memory, so that thousands of streams, cut anywhere, are tried in seconds and always in the same way.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.listener.connection import Connection
from gateway.listener.listener import Listener
from tests.listener.wire import App, Receive, Scope, Send, config, whole_body


class Memory(asyncio.Transport):
    """A transport whose other end is this test."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.1", 1), "sockname": ("10.0.0.2", 2), "socket": None})
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        if not self.closed:
            self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


Asked = tuple[str, str, str, bytes, tuple[tuple[bytes, bytes], ...]]


@dataclass
class Seen:
    """asked: method, path, query, body and headers of what reached the application.  closed: whether the connection ended."""

    asked: list[Asked] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    closed: bool = False


def noting(seen: Seen) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = tuple(scope["headers"])  # as they are before the body is read: that is when they are judged
        body = await whole_body(receive)
        if body is None:
            return
        seen.asked.append((scope["method"], scope["raw_path"].decode(), scope["query_string"].decode(), body, headers))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    return app


async def made_of(kind: str, pieces: Iterable[bytes]) -> Seen:
    """What a listener makes of these bytes, each piece in a segment of its own; then the client hangs up."""
    seen, wire = Seen(), Memory()
    protocol: Any
    if kind == "lean":
        protocol = Connection(Listener(noting(seen)))
    else:
        settings = config(noting(seen))
        settings.load()
        protocol = HttpToolsProtocol(settings, ServerState(), {})
    protocol.connection_made(wire)
    for piece in pieces:
        if wire.closed:
            break
        protocol.data_received(piece)
        await _settled(wire, seen)
    await _settled(wire, seen)
    seen.closed = wire.closed
    seen.statuses = [int(found) for found in re.findall(rb"HTTP/1\.1 ([2-5][0-9]{2}) ", wire.written)]
    protocol.connection_lost(None)
    await _settled(wire, seen)
    if kind == "uvicorn" and protocol.timeout_keep_alive_task is not None:
        protocol.timeout_keep_alive_task.cancel()
    return seen


async def _settled(wire: Memory, seen: Seen) -> None:
    """Until every task that can go on has gone on."""
    quiet = 0
    before = (len(wire.written), len(seen.asked))
    while quiet < 4:
        await asyncio.sleep(0)
        now = (len(wire.written), len(seen.asked))
        quiet = quiet + 1 if now == before else 0
        before = now
