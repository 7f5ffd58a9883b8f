"""A `text/event-stream` answer as it is written: never silent for long, and whole or cut, never anything between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gateway.asgi import Send, encoded

HEARTBEAT_SECONDS = 15.0
_COMMENT = b":\r\n\r\n"


class EventStream:
    """A `text/event-stream` answer: begins at `start`, never silent for longer than `heartbeat` seconds, ends at `close`.

    `async with` closes it; an exception inside leaves it unfinished, so that the client sees a cut stream and not a whole one.
    """

    __slots__ = ("_beat", "_beginning", "_busy", "_ended", "_heartbeat", "_send", "_wrote", "started")

    def __init__(self, send: Send, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self._send = send
        self._heartbeat = heartbeat
        self._beat: asyncio.Task[None] | None = None
        self._beginning: asyncio.Task[None] | None = None
        self._busy = False
        self._ended = False
        self._wrote = 0.0
        self.started = False

    async def __aenter__(self) -> EventStream:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended = True
        if kind is None:
            if self.started:
                await self.close()
            return
        for task in (self._beat, self._beginning):
            if task is not None:
                task.cancel()

    async def start(self, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Send the head; from here on the answer can no longer become a plain one."""
        lines = encoded(headers)
        lines += [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        self.started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": lines})
        self._wrote = asyncio.get_running_loop().time()
        self._beat = asyncio.create_task(self._keep_alive())

    def begin(self, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Start it without waiting, with a comment: for an answer that is long in coming.  Harmless if it began or is over."""
        if not self.started and not self._ended:
            self.started = True
            self._beginning = asyncio.create_task(self._begun(headers))

    async def _begun(self, headers: Iterable[tuple[str, str]]) -> None:
        await self.start(headers)
        await self.comment()

    async def event(
        self,
        data: bytes,
        *,
        event: str = "",
        id: str = "",  # noqa: A002  the field's own name in SSE
        retry: int = 0,
    ) -> None:
        """One event; `data` may span lines.  `event` and `id` are the gateway's own words and hold no line break."""
        lines = b"\r\ndata: ".join(data.splitlines()) if b"\n" in data or b"\r" in data else data
        if self._beginning is not None and not self._beginning.done():
            await self._beginning
        await self._write(_head(event, id, retry) + b"data: " + lines + b"\r\n\r\n")

    async def comment(self) -> None:
        """An empty comment, which clients skip: keeps proxies from cutting a silent stream."""
        await self._write(_COMMENT)

    async def close(self) -> None:
        """End the answer in good order; harmless where it never started."""
        if self._beginning is not None:
            await self._beginning
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None
            await self._send({"type": "http.response.body", "body": b""})

    async def _write(self, chunk: bytes) -> None:
        self._busy = True
        try:
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            self._busy = False
            self._wrote = asyncio.get_running_loop().time()

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(self._wrote + self._heartbeat - loop.time(), 0.001))
            if not self._busy and loop.time() - self._wrote >= self._heartbeat:
                await self._write(_COMMENT)


def _head(event: str, name: str, retry: int) -> bytes:
    head = (f"event: {event}\r\n" if event else "") + (f"id: {name}\r\n" if name else "")
    return (head + (f"retry: {retry}\r\n" if retry else "")).encode()
