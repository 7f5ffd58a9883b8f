"""Output as it comes, as MCP's progress: whole characters, a piece as large as the client is slow, bounded by the profile."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncGenerator
from typing import Any, Final

from gateway.model import Reply
from sandbox.runner import Stream

PIECE: Final = 16 << 10
META_STREAM: Final = "bailiwick/stream"


class Progress:
    """What was written and has not been told yet."""

    def __init__(self, token: str | int) -> None:
        self._token = token
        self._pieces: list[tuple[Stream, bytearray]] = []
        self._told = 0
        self._wake = asyncio.Event()
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {"stdout": decoder("backslashreplace"), "stderr": decoder("backslashreplace")}

    def take(self, stream: Stream, data: bytes) -> None:
        """A piece of output; returns at once."""
        if self._pieces and self._pieces[-1][0] == stream and len(self._pieces[-1][1]) + len(data) <= PIECE:
            self._pieces[-1][1].extend(data)
        else:
            self._pieces.append((stream, bytearray(data)))
        self._wake.set()

    async def until(self, work: asyncio.Future[Any]) -> AsyncGenerator[Reply, None]:
        """A notification for each piece, until the work is done and everything is told."""
        work.add_done_callback(lambda _: self._wake.set())
        while True:
            while self._pieces:
                stream, piece = self._pieces.pop(0)
                self._told += len(piece)
                text = self._decoders[stream].decode(bytes(piece))
                if text:
                    yield self._notice(stream, text)
            if work.done():
                return
            self._wake.clear()
            if not self._pieces and not work.done():
                await self._wake.wait()

    def _notice(self, stream: Stream, text: str) -> Reply:
        """`progress` counts bytes; how many there will be is not known."""
        params = {"progressToken": self._token, "progress": self._told, "message": text, "_meta": {META_STREAM: stream}}
        return Reply({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}, is_final=False)


async def gone(work: asyncio.Task[Any]) -> None:
    """Cancel the work and wait until it has ended, however impatient the caller is."""
    work.cancel()
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            cancelled = error
    if not work.cancelled():
        work.exception()  # seen
    if cancelled is not None:
        raise cancelled
