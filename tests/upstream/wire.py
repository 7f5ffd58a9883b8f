"""An upstream that says exactly the bytes it is told to, on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gateway.upstream.client import Url

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


@dataclass
class Upstream:
    """`requests` are the raw requests; `connections` counts those that were accepted; `closed` fires when a client hangs up."""

    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str = "/mcp") -> Url:
        return Url.parse(f"http://127.0.0.1:{self.port}{path}", allow_private=True)

    async def request(self, reader: Reader) -> bytes:
        """The next request on a connection; b"" when there is none."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
            return b""
        lower = head.lower()
        length = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0]) if b"content-length" in lower else 0
        whole = head + await reader.readexactly(length)
        self.requests.append(whole)
        return whole


Script = Callable[[Upstream, Reader, Writer], Awaitable[None]]


def saying(*pieces: bytes, close: bool = True) -> Script:
    """Answer every request with these pieces, each in a write of its own; then close, or wait for the next request."""

    async def script(upstream: Upstream, reader: Reader, writer: Writer) -> None:
        while await upstream.request(reader):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if close:
                return

    return script


@asynccontextmanager
async def upstream(script: Script) -> AsyncIterator[Upstream]:
    """Run `script` for every connection."""
    state = Upstream()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: Reader, writer: Writer) -> None:
        state.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(state, reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.sleep(0)
