"""One HTTP/1.1 connection to an upstream: one request at a time, its answer framed strictly or not at all.

Whatever is not exactly one well-framed answer costs the connection: it is never used again.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from typing import cast

import httptools

from gateway.model import UpstreamError
from gateway.upstream.response import HIGH_WATER, HttpResponse

HEAD_BYTES = 64 * 1024
HEADER_COUNT = 128
_INTERIM_ANSWERS = 8
_OVERHEAD = 16  # framing bytes tolerated per body byte: a chunk of one byte costs six
_TICK_SECONDS = 5.0
_LINGER_SECONDS = 2.0


class Connection(asyncio.Protocol):
    """The asyncio end of one connection, and the callbacks of its parser.

    idle      longest silence while an answer is awaited or comes; keep: how long it waits for the next request.
    on_free   called once an answer is complete and the connection may serve the next request.
    on_gone   called exactly once, when it will not.
    """

    def __init__(
        self, idle: float, keep: float, on_free: Callable[[Connection], None], on_gone: Callable[[Connection], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle = idle
        self._keep_seconds = keep
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
        self._wire_bytes = 0
        self._body_bytes = 0
        self._fields = 0
        self._interim = 0
        self._status = 0
        self._complete = False
        self._keep = False
        self._chunked = False
        self._linger_until = math.inf
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

    def probe(self) -> None:
        """Have the kernel notice within a minute or so that the peer's machine is gone, however silent the peer may be."""
        if self._transport is None:
            return
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4)):
                if hasattr(socket, name):  # as the platform has it
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, data: bytes) -> HttpResponse:
        """Send one request; the answer's head is still to come."""
        if self._gone or self._transport is None or self._response is not None:
            raise UpstreamError("closed", "the connection is not free")
        self._reset()
        self.served += 1
        response = self._response = HttpResponse(self, self._loop)
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

    def linger(self, response: HttpResponse) -> None:
        """Give the rest of an answer that nobody reads a moment to come, so that the connection can be kept."""
        if self._response is response:
            self.resume(response)
            self._linger_until = self._loop.time() + _LINGER_SECONDS

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
        now = self._loop.time()
        self._deadline = now + self._idle
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._complete:  # surplus after a complete answer is no fault of that answer
                self._fault = self._fault or UpstreamError("protocol", type(error).__name__)
            self._keep = False
        fault = self._fault
        if fault is None and self._wire_bytes - self._body_bytes > 2 * HEAD_BYTES:
            fault = self._too_much(response)
        if response.left and now > self._linger_until:
            fault = UpstreamError("timeout", "left")
        if fault is not None:
            self._fail(fault)
        elif self._complete:
            self._finish(response, now)
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
        self._fields += 1  # how many there may be is asked when all are here, and of their bytes at each read
        name = name.lower()
        if name in response.found:
            response.found[name].append(value)
        else:
            response.found[name] = [value]

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
        response.head = self._fault is None

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
            self._fields = 0
            response.found.clear()
            if self._status == 101 or self._interim > _INTERIM_ANSWERS:
                self._fault = UpstreamError("protocol", "interim answers")

    # how it goes on

    def _surplus(self) -> None:
        self._keep = False

    def _check(self, response: HttpResponse) -> UpstreamError | None:
        """The rules of framing (RFC 9112 §6.3) without any of its leniencies."""
        found = response.found
        if self._fields > HEADER_COUNT or (self._wire_bytes > HEAD_BYTES - HEADER_COUNT and _size(found) > HEAD_BYTES):
            return UpstreamError("too-large", "headers")
        lengths, codings = found.get(b"content-length"), found.get(b"transfer-encoding")
        if lengths is not None:
            for value in lengths:
                if not value.isdigit() or len(value) > 18:
                    return UpstreamError("protocol", "content-length")
            if len(lengths) > 1 or codings is not None:
                return UpstreamError("protocol", "more than one length")
            response.length = int(lengths[0])
        elif codings is not None:
            if len(codings) > 1 or codings[0].lower() != b"chunked":
                return UpstreamError("protocol", "transfer-encoding")
            self._chunked = True
        for value in found.get(b"content-encoding", ()):
            if value.lower() != b"identity":
                return UpstreamError("protocol", "content-encoding")
        if not 200 <= response.status < 600:
            return UpstreamError("protocol", "status code")
        if b"keep-alive" in found:
            self._hint = _keep_alive(found[b"keep-alive"][-1])
        return None

    def _too_much(self, response: HttpResponse) -> UpstreamError | None:
        """What is wrong with so many bytes that are no body."""
        if not response.head:
            return UpstreamError("too-large", "headers")
        if self._wire_bytes - self._body_bytes > 2 * HEAD_BYTES + HIGH_WATER + _OVERHEAD * self._body_bytes:
            return UpstreamError("protocol", "more framing than body")
        return None

    def _finish(self, response: HttpResponse, now: float) -> None:
        self._response = None
        transport = self._transport
        if self._paused and transport is not None:
            self._paused = False
            transport.resume_reading()
        keep = self._keep_seconds if self._hint is None else min(self._keep_seconds, self._hint)
        if not self._keep or transport is None or transport.is_closing() or transport.get_write_buffer_size():
            keep = 0.0
        response.end()
        if keep > 0:
            self.free_until = now + keep
            self._on_free(self)
        else:
            self.retire()
        response.wake()

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
            deadline = min(self._deadline, self._linger_until)
            if now >= deadline and not self._paused:
                self._fail(UpstreamError("timeout", "the upstream is silent"))
                return
            wait = max(deadline - now, 0.01)
        elif now >= self.free_until:
            self.retire()
            return
        else:
            wait = max(self.free_until - now, 0.01)
        self._timer = self._loop.call_later(min(wait, self._tick_seconds), self._tick)


def _size(found: dict[bytes, list[bytes]]) -> int:
    """Bytes of these header lines."""
    return sum(len(name) + len(value) + 4 for name, values in found.items() for value in values)


def _keep_alive(value: bytes) -> float | None:
    """Seconds that the upstream keeps an unused connection, less one for the way there; None where it does not say."""
    for part in value.split(b","):
        name, _, number = part.strip().partition(b"=")
        if name.lower() == b"timeout" and number.isdigit() and len(number) < 6:
            return max(float(number) - 1, 0.0)
    return None
