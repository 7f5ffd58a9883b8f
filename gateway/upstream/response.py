"""An answer of an upstream as its reader sees it: the head first, then the body, whole or in pieces, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Protocol

from gateway.model import UpstreamError

HIGH_WATER = 256 * 1024
"""Bytes that may wait for their reader before the upstream is held back."""


class Channel(Protocol):
    """What an answer needs of the connection that it comes by."""

    def resume(self, response: HttpResponse) -> None:
        """Let the upstream send again."""

    def linger(self, response: HttpResponse) -> None:
        """Nobody reads this answer any more."""

    def abort(self, response: HttpResponse) -> None:
        """Drop the connection, if it still serves this answer."""


class HttpResponse:
    """An answer whose head has come; its body is read once, by `read` or by `chunks`.

    found  the values of each header, by lower-case name, in order of arrival.
    left   whether nobody reads it any more.
    """

    __slots__ = (
        "_chunks", "_connection", "_done", "_error", "_held", "_loop", "_waiter", "_whole", "found", "head", "left",
        "length", "status",
    )  # fmt: skip

    def __init__(self, connection: Channel, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.found: dict[bytes, list[bytes]] = {}
        self.length: int | None = None  # content-length
        self.head = False  # the head is complete
        self.left = False
        self._connection = connection
        self._loop = loop
        self._chunks: list[bytes] = []
        self._held = 0  # bytes waiting in _chunks
        self._whole = False  # read() wants everything: no back-pressure below its limit
        self._done = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """All of them; the values of one name stand together."""
        return [(name, value) for name, values in self.found.items() for value in values]

    def header(self, name: bytes) -> bytes | None:
        """The value of a header (lower-case name); a repeated one is joined by ", ", an absent one None."""
        values = self.found.get(name)
        return None if values is None else b", ".join(values)

    async def read(self, limit: int) -> bytes:
        """The whole body; `UpstreamError("too-large")` beyond `limit` bytes.  The connection is free afterwards, or gone."""
        complete = False
        try:
            if self.length is not None and self.length > limit:
                raise UpstreamError("too-large", "body")
            self._whole = True
            if not self._done:
                self._connection.resume(self)
            while not self._done:
                if self._held > limit:
                    raise UpstreamError("too-large", "body")
                await self._news()
            if self._error is not None:
                raise self._error
            if self._held > limit:
                raise UpstreamError("too-large", "body")
            complete = True
        finally:
            if not complete:
                self._drop()
        return b"".join(self._chunks)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes.  What is not consumed holds the upstream back; leaving early drops the connection."""
        try:
            while True:
                while self._chunks:
                    waiting, self._chunks = self._chunks, []
                    for chunk in waiting:
                        self._held -= len(chunk)
                        yield chunk
                if self._done:
                    if self._error is not None:
                        raise self._error
                    return
                self._connection.resume(self)
                await self._news()
        finally:
            self._drop()

    async def aclose(self) -> None:
        """Done with it; where the body was not read to its end, the connection is dropped and the upstream notices."""
        if not self._done:
            self._drop()

    def leave(self) -> None:
        """Done with it, though its end has not come: what still comes is thrown away for two seconds, then the connection is."""
        if not self._done:
            self.left = self._whole = True
            self._chunks.clear()
            self._connection.linger(self)

    async def wait_head(self) -> None:
        """Return when status and headers are here; raise where they never will be."""
        while not self.head:
            if self._error is not None:
                raise self._error
            await self._news()

    def _news(self) -> asyncio.Future[None]:
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def _drop(self) -> None:
        if not self._done and not self.left:
            self._connection.abort(self)

    # what the connection reports

    def put(self, chunk: bytes) -> bool:
        """Take a piece of body; True where the upstream should pause."""
        if self.left:
            return False
        self._chunks.append(chunk)
        self._held += len(chunk)
        return self._held > HIGH_WATER and not self._whole

    def end(self, error: UpstreamError | None = None) -> None:
        """The body is complete, or will never be."""
        if not self._done:
            self._done = True
            self._error = error

    def wake(self) -> None:
        """Something has changed: whoever waits may look."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def drained(self) -> bool:
        """Whether the upstream may go on sending."""
        return self._whole or self._held <= HIGH_WATER // 2
