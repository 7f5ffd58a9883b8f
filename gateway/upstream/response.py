"""An answer of an upstream as its reader sees it: the head first, then the body, whole or in pieces, once."""

from __future__ import annotations

import asyncio
from collections import deque
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

    headers  names lower-case, in order of arrival.
    """

    __slots__ = (
        "_chunks",
        "_connection",
        "_done",
        "_error",
        "_held",
        "_left",
        "_loop",
        "_waiter",
        "_whole",
        "head",
        "headers",
        "length",
        "status",
    )

    def __init__(self, connection: Channel, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.length: int | None = None  # content-length
        self.head = False  # the head is complete
        self._connection = connection
        self._loop = loop
        self._chunks: deque[bytes] = deque()
        self._held = 0  # bytes waiting in _chunks
        self._whole = False  # read() wants everything: no back-pressure below its limit
        self._left = False
        self._done = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def header(self, name: bytes) -> bytes | None:
        """The value of a header (lower-case name); a repeated one is joined by ", ", an absent one None."""
        found = None
        for key, value in self.headers:
            if key == name:
                found = value if found is None else found + b", " + value
        return found

    async def read(self, limit: int) -> bytes:
        """The whole body; `UpstreamError("too-large")` beyond `limit` bytes.  The connection is free afterwards, or gone."""
        complete = False
        try:
            if self.length is not None and self.length > limit:
                raise UpstreamError("too-large", "body")
            self._whole = True
            self._connection.resume(self)
            while not self._done:
                if self._held > limit:
                    raise UpstreamError("too-large", "body")
                await self._more()
            if self._error is not None:
                raise self._error
            if self._held > limit:
                raise UpstreamError("too-large", "body")
            complete = True
        finally:
            if not complete:
                self._drop()
        chunks = self._chunks
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes.  What is not consumed holds the upstream back; leaving early drops the connection."""
        try:
            while True:
                while self._chunks:
                    chunk = self._chunks.popleft()
                    self._held -= len(chunk)
                    yield chunk
                if self._done:
                    if self._error is not None:
                        raise self._error
                    return
                self._connection.resume(self)
                await self._more()
        finally:
            self._drop()

    async def aclose(self) -> None:
        """Done with it; where the body was not read to its end, the connection is dropped and the upstream notices."""
        self._drop()

    def leave(self) -> None:
        """Done with it, though its end has not come: what still comes is thrown away for two seconds, then the connection is."""
        if not self._done:
            self._left = self._whole = True
            self._chunks.clear()
            self._connection.linger(self)

    async def wait_head(self) -> None:
        """Return when status and headers are here; raise where they never will be."""
        while not self.head:
            if self._error is not None:
                raise self._error
            await self._more()

    async def _more(self) -> None:
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _drop(self) -> None:
        if not self._done and not self._left:
            self._connection.abort(self)

    # what the connection reports

    def put(self, chunk: bytes) -> bool:
        """Take a piece of body; True where the upstream should pause."""
        if self._left:
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
    def left(self) -> bool:
        """Whether nobody reads it any more."""
        return self._left

    @property
    def drained(self) -> bool:
        """Whether the upstream may go on sending."""
        return self._whole or self._held <= HIGH_WATER // 2
