"""One HTTP/1.1 connection to an upstream: one request at a time, its answer framed strictly or not at all.

Whatever is not exactly one well-framed answer costs the connection: it is never used again.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import cast

import httptools

from gateway.model import UpstreamError

HEAD_BYTES = 64 * 1024
HEADER_COUNT = 128
HIGH_WATER = 256 * 1024
_INTERIM_ANSWERS = 8
_OVERHEAD = 16  # framing bytes tolerated per body byte: a chunk of one byte costs six
_TICK_SECONDS = 5.0


class HttpResponse:
    """An answer whose head has come; its body is read once, by `read` or by `chunks`.

    headers  names lower-case, in order of arrival.
    """

    __slots__ = ("_chunks", "_connection", "_done", "_error", "_held", "_waiter", "_whole", "head", "headers", "length", "status")

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.length: int | None = None  # content-length
        self.head = False  # the head is complete
        self._connection = connection
        self._chunks: deque[bytes] = deque()
        self._held = 0  # bytes waiting in _chunks
        self._whole = False  # read() wants everything: no back-pressure below its limit
        self._done = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def header(self, name: bytes) -> bytes | None:
        """The value of a header (lower-case name); a repeated one is joined by ", ", an absent one None."""
        values = [value for key, value in self.headers if key == name]
        return b", ".join(values) if values else None

    async def read(self, limit: int) -> bytes:
        """The whole body; `UpstreamError("too-large")` beyond `limit` bytes.  The connection is free afterwards, or gone."""
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
        except BaseException:
            self._drop()
            raise
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

    async def wait_head(self) -> None:
        """Return when status and headers are here; raise where they never will be."""
        while not self.head:
            if self._error is not None:
                raise self._error
            await self._more()

    async def _more(self) -> None:
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _drop(self) -> None:
        if not self._done:
            self._connection.abort(self)

    # what the connection reports

    def put(self, chunk: bytes) -> bool:
        """Take a piece of body; True where the upstream should pause."""
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


class Connection(asyncio.Protocol):
    """The asyncio end of one connection, and the callbacks of its parser.

    on_free   called once an answer is complete and the connection may serve the next request.
    on_gone   called exactly once, when it will not.
    """

    def __init__(self, idle: float, on_free: Callable[[Connection], None], on_gone: Callable[[Connection], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle = idle
        self._tick_seconds = min(_TICK_SECONDS, idle)
        self._on_free = on_free
        self._on_gone = on_gone
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._response: HttpResponse | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._paused = False
        self._gone = False
        self.served = 0
        self.free_until = math.inf
        self._reset()

    def _reset(self) -> None:
        self._head_bytes = 0
        self._wire_bytes = 0
        self._body_bytes = 0
        self._interim = 0
        self._status = 0
        self._complete = False
        self._keep = False
        self._chunked = False
        self._fault: UpstreamError | None = None
        self._hint: float | None = None

    # what the client does

    @property
    def usable(self) -> bool:
        """Whether a request can be sent now."""
        return not self._gone and self._response is None and self._loop.time() < self.free_until

    @property
    def silent(self) -> bool:
        """Whether not one byte has come since the request was sent."""
        return self._wire_bytes == 0

    def send(self, data: bytes) -> HttpResponse:
        """Send one request; the answer's head is still to come."""
        if self._gone or self._transport is None or self._response is not None:
            raise UpstreamError("closed", "the connection is not free")
        self._reset()
        self.served += 1
        response = self._response = HttpResponse(self)
        self._deadline = self._loop.time() + self._idle
        if self._timer is None:
            self._timer = self._loop.call_later(self._tick_seconds, self._tick)
        self._transport.write(data)
        return response

    def resume(self, response: HttpResponse) -> None:
        """Let the upstream send again, where it was held back for this answer."""
        if self._paused and self._response is response and response.drained and self._transport is not None:
            self._paused = False
            self._deadline = self._loop.time() + self._idle
            self._transport.resume_reading()

    def abort(self, response: HttpResponse | None = None) -> None:
        """Drop the connection; with `response`, only while it still serves that answer."""
        if response is None or self._response is response:
            self._fail(UpstreamError("closed", "dropped"))

    def retire(self) -> None:
        """Close a free connection in good order."""
        self._end()
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; bytes that nobody asked for end the connection."""
        response = self._response
        if response is None or self._gone:
            self._fail(UpstreamError("protocol", "bytes without a request"))
            return
        self._wire_bytes += len(data)
        self._deadline = self._loop.time() + self._idle
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self._complete:  # surplus after a complete answer is no fault of that answer
                self._fault = self._fault or UpstreamError("protocol", type(error).__name__)
            self._keep = False
        fault = self._fault or self._bounds(response)
        if fault is not None:
            self._fail(fault)
        elif self._complete:
            self._finish(response)
        else:
            response.wake()

    def eof_received(self) -> None:
        """The upstream sends no more; the transport closes."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The end: of a body that only the end delimits, or of an answer cut short."""
        response = self._response
        if response is not None and exc is None and response.head and response.length is None and not self._chunked:
            self._response = None
            response.end()
            response.wake()
        self._fail(UpstreamError("closed", type(exc).__name__ if exc else "before the answer was complete"))
        self._transport = None

    # the parser's callbacks: they must not raise, so faults are kept

    def on_message_begin(self) -> None:
        if self._complete:
            self._surplus()

    def on_header(self, name: bytes, value: bytes) -> None:
        response = self._response
        if response is None or response.head or self._complete:
            return  # a trailer, or surplus
        self._head_bytes += len(name) + len(value) + 4
        if len(response.headers) >= HEADER_COUNT or self._head_bytes > HEAD_BYTES:
            self._fault = UpstreamError("too-large", "headers")
            return
        response.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        response = self._response
        if response is None or self._complete:
            return
        self._status = self._parser.get_status_code()
        if 100 <= self._status < 200:
            return
        response.status = self._status
        self._fault = self._fault or self._check(response)
        self._keep = self._parser.should_keep_alive() and self._parser.get_http_version() == "1.1"
        response.head = True

    def on_body(self, data: bytes) -> None:
        response = self._response
        if response is None or self._complete:
            return
        self._body_bytes += len(data)
        if response.put(data) and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        response = self._response
        if response is None or self._complete:
            self._surplus()
        elif response.head:
            self._complete = True
        else:  # an interim answer; another follows
            self._interim += 1
            response.headers.clear()
            if self._status == 101 or self._interim > _INTERIM_ANSWERS:
                self._fault = UpstreamError("protocol", "interim answers")

    # how it goes on

    def _surplus(self) -> None:
        self._keep = False

    def _check(self, response: HttpResponse) -> UpstreamError | None:
        """The rules of framing (RFC 9112 §6.3) without any of its leniencies."""
        lengths = 0
        for name, value in response.headers:
            if name == b"content-length":
                lengths += 1
                if not value.isdigit() or len(value) > 18:
                    return UpstreamError("protocol", "content-length")
                response.length = int(value)
            elif name == b"transfer-encoding":
                if self._chunked or value.lower() != b"chunked":
                    return UpstreamError("protocol", "transfer-encoding")
                self._chunked = True
            elif name == b"content-encoding" and value.lower() != b"identity":
                return UpstreamError("protocol", "content-encoding")
            elif name == b"keep-alive":
                self._hint = _keep_alive(value)
        if lengths > 1 or (lengths and self._chunked):
            return UpstreamError("protocol", "more than one length")
        if not 200 <= response.status < 600:
            return UpstreamError("protocol", "status code")
        return None

    def _bounds(self, response: HttpResponse) -> UpstreamError | None:
        framing = self._wire_bytes - self._body_bytes
        if not response.head:
            return UpstreamError("too-large", "headers") if framing > 2 * HEAD_BYTES else None
        if framing > 2 * HEAD_BYTES + HIGH_WATER + _OVERHEAD * self._body_bytes:
            return UpstreamError("protocol", "more framing than body")
        return None

    def _finish(self, response: HttpResponse) -> None:
        self._response = None
        transport = self._transport
        if self._paused and transport is not None:
            self._paused = False
            transport.resume_reading()
        free = self._keep and transport is not None and not transport.is_closing() and not transport.get_write_buffer_size()
        response.end()
        if free:
            self._on_free(self)
        else:
            self.retire()
        response.wake()

    def park(self, seconds: float) -> None:
        """Wait for the next request for at most that long, or for as long as the upstream said it would."""
        self.free_until = self._loop.time() + (seconds if self._hint is None else min(seconds, self._hint))

    def _fail(self, error: UpstreamError) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.end(error)
            response.wake()
        self._end()
        if self._transport is not None:
            self._transport.abort()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._gone:
            self._gone = True
            self._on_gone(self)

    def _tick(self) -> None:
        """One lazy timer a connection: it looks at the deadline instead of being set anew for each request."""
        self._timer = None
        now = self._loop.time()
        if self._response is not None:
            if now >= self._deadline and not self._paused:
                self._fail(UpstreamError("timeout", "the upstream is silent"))
                return
            wait = max(self._deadline - now, 0.01)
        elif now >= self.free_until:
            self.retire()
            return
        else:
            wait = max(self.free_until - now, 0.01)
        self._timer = self._loop.call_later(min(wait, self._tick_seconds), self._tick)


def _keep_alive(value: bytes) -> float | None:
    """Seconds that the upstream keeps an unused connection, less one for the way there; None where it does not say."""
    for part in value.split(b","):
        name, _, number = part.strip().partition(b"=")
        if name.lower() == b"timeout" and number.isdigit() and len(number) < 6:
            return max(float(number) - 1, 0.0)
    return None
