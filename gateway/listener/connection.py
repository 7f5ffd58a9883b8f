"""One client's connection: requests one after another, each answered before the next is looked at.

Bytes that came early wait unread; whatever cannot be framed is refused once, and nothing after it is ever a request.
"""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import dataclass
from typing import Final, Protocol, cast

from gateway.listener.answer import refusal
from gateway.listener.chunks import Chunks
from gateway.listener.exchange import HIGH_WATER, Application, Exchange
from gateway.listener.head import HEAD_BYTES, FaultyRequestError, check_unfinished, read_head

_EMPTY_LINES = 4
_LINGER_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds.

    head     for a request's head, from its first byte on.
    idle     before a request's first byte.
    body     without a byte of a body that the application waits for.
    unread   without a client reading anything of what waits for it.
    linger   for a client to notice that the connection ends.
    """

    head: float = 20.0
    idle: float = 75.0
    body: float = 75.0
    unread: float = 60.0
    linger: float = 5.0


class House(Protocol):
    """What a connection needs of its listener; `now` is the loop's time, a second old at most."""

    app: Application
    loop: asyncio.AbstractEventLoop
    context: contextvars.Context
    patience: Patience
    largest: int
    now: float
    winding_down: bool
    connections: dict[Connection, None]
    running: set[Exchange]

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for one more."""

    def left(self) -> None:
        """A connection or an exchange is over."""


class Connection(asyncio.Protocol):
    """The asyncio end of one connection.

    gate   where the client reads too slowly: what whoever wants to write waits for.
    """

    __slots__ = (
        "_blank", "_buffer", "_chunks", "_discarded", "_due_from", "_left", "_over", "_paused",
        "_pending", "_pending_since", "client", "exchange", "gate", "house", "server", "transport",
    )  # fmt: skip

    def __init__(self, house: House) -> None:
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # given before anything else happens
        self.exchange: Exchange | None = None
        self.gate: asyncio.Event | None = None
        self.client: tuple[str, int] | None = None
        self.server: tuple[str, int] | None = None
        self.house = house
        self._buffer = b""
        self._blank = 0
        self._left = 0
        self._chunks: Chunks | None = None
        self._paused = False
        self._over = False  # nothing that comes from now on is a request
        self._discarded = 0
        self._due_from = house.now
        self._pending = 0
        self._pending_since = 0.0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands, if there is room for it."""
        self.transport = cast("asyncio.Transport", transport)
        if not self.house.admit(self):
            self._over = True
            self.transport.abort()
            return
        self.client = _address(transport.get_extra_info("peername"))
        self.server = _address(transport.get_extra_info("sockname"))

    def data_received(self, data: bytes) -> None:
        """Bytes of a head, of a body, or too early."""
        exchange = self.exchange
        if self._over:
            self._discard(len(data))
        elif exchange is None:
            if self._buffer:
                self._buffer += data
            else:
                self._buffer = data
                self._due_from = self.house.now
            self._read_head()
        elif exchange.more:
            self._due_from = self.house.now
            self._read_body(exchange, data)
        else:
            self._buffer += data
            if len(self._buffer) > HIGH_WATER:
                self._flow()

    def eof_received(self) -> None:
        """The client hung up; the transport closes."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's name
        """The end, whoever wanted it."""
        self._over = True
        self._buffer = b""
        self.house.connections.pop(self, None)
        if self.exchange is not None:
            self.exchange.vanish()
            self.exchange = None
        self.resume_writing()
        self.house.left()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        if self.gate is None:
            self.gate = asyncio.Event()

    def resume_writing(self) -> None:
        """It has caught up, or is gone."""
        if self.gate is not None:
            self.gate.set()
            self.gate = None

    # requests

    def _read_head(self) -> None:
        """Begin the next request if its head is here."""
        buffer = self._buffer
        if buffer.startswith(b"\r"):  # some clients send an empty line after a body (RFC 9112 §2.2)
            while buffer.startswith(b"\r\n"):
                buffer = buffer[2:]
                self._blank += 1
        try:
            if self._blank > _EMPTY_LINES:
                raise FaultyRequestError(400, "empty lines are not a request")
            end = buffer.find(b"\r\n\r\n", 0, HEAD_BYTES) + 4
            if end < 4:
                self._buffer = buffer
                if buffer:
                    check_unfinished(buffer)
                return
            head = read_head(buffer if end == len(buffer) else buffer[:end])
            if head.length > self.house.largest:
                raise FaultyRequestError(413, "the body is too large")
        except FaultyRequestError as fault:
            self._refuse(fault)
            return
        self._blank = 0
        self._buffer = b""
        exchange = self.exchange = Exchange(self, head)
        self._left = head.length
        self._chunks = Chunks() if head.chunked else None
        self._read_body(exchange, buffer[end:])
        if not exchange.gone:
            house = self.house
            house.running.add(exchange)
            exchange.start(house.app, house.loop, house.context.copy())

    def _read_body(self, exchange: Exchange, data: bytes) -> None:
        """Hand bytes of the body over; what comes after it waits."""
        if self._chunks is not None:
            try:
                self._read_chunks(exchange, self._chunks, data)
            except FaultyRequestError as fault:
                self._refuse(fault)
                return
        elif len(data) < self._left:
            self._left -= len(data)
            exchange.put(data, more=True)
        else:
            if len(data) > self._left:
                self._buffer, data = data[self._left :], data[: self._left]
            exchange.put(data, more=False)
        if exchange.held > HIGH_WATER or len(self._buffer) > HIGH_WATER or self._paused:
            self._flow()

    def _read_chunks(self, exchange: Exchange, chunks: Chunks, data: bytes) -> None:
        body = chunks.feed(data)
        self._left += len(body)  # of a body in chunks: what has come of it
        if self._left > self.house.largest:
            raise FaultyRequestError(413, "the body is too large")
        if chunks.done:
            self._chunks = None
            self._buffer = chunks.rest
        exchange.put(body, more=not chunks.done)

    def _refuse(self, fault: FaultyRequestError) -> None:
        """Answer what is no request, unless an answer has begun, and end the connection."""
        exchange = self.exchange
        if exchange is not None:
            exchange.vanish()
            self.exchange = None
            if exchange.begun:
                self._over = True
                self.transport.abort()
                return
        self.transport.write(refusal(fault.status, fault.detail))
        self._end(linger=True)

    # the exchange's wishes

    def taken(self) -> None:
        """The application took what there was of the body."""
        self._due_from = self.house.now
        if self._paused:
            self._flow()

    def finished(self, exchange: Exchange, *, keep: bool) -> None:
        """The answer is whole: on to the next request, or to the end."""
        if self.exchange is not exchange:
            return
        self.exchange = None
        self._due_from = self.house.now
        if not keep or self.house.winding_down:
            self._end(linger=exchange.more or bool(self._buffer))
        elif self._buffer:
            self.house.loop.call_soon(self._go_on)
        elif self._paused:
            self._flow()

    def broken(self, exchange: Exchange) -> None:
        """The answer was cut short: the client must not take it for a whole one."""
        if self.exchange is exchange:
            self._over = True
            self.transport.abort()

    def ended(self, exchange: Exchange) -> None:
        """The application returned."""
        self.house.running.discard(exchange)
        if self.house.winding_down:
            self.house.left()

    def _go_on(self) -> None:
        """The next request, of which bytes came early."""
        if not self._over and self.exchange is None:
            self._read_head()
            self._flow()

    # the flow of bytes, and its end

    def _flow(self) -> None:
        """Hold back what there is no use for: more of the next requests, or of a body, than waits already."""
        exchange = self.exchange
        held = 0 if exchange is None or self._over else exchange.held if exchange.more else len(self._buffer)
        pause = held > HIGH_WATER
        if pause is not self._paused and not self.transport.is_closing():
            self._paused = pause
            (self.transport.pause_reading if pause else self.transport.resume_reading)()

    def _end(self, *, linger: bool) -> None:
        """No further request.  Where the client may still be sending, closing at once would take its answer from it."""
        self._over = True
        self._buffer = b""
        self._due_from = self.house.now
        if self.transport.is_closing():
            return
        if linger and self.transport.can_write_eof():
            self._flow()
            try:
                self.transport.write_eof()
            except OSError:  # the client is gone already
                self.transport.abort()
        else:
            self.transport.close()

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > _LINGER_BYTES:
            self.transport.abort()

    def wind_down(self) -> None:
        """The listener ends: so does this connection, once it has answered what it was asked."""
        if self.exchange is None and not self._over:
            self._end(linger=False)

    @property
    def idle(self) -> bool:
        """Whether nothing is lost where the connection is given up."""
        return self.exchange is None

    def give_up(self) -> None:
        """Close at once."""
        self._over = True
        self.transport.abort()

    def look(self, now: float) -> None:
        """Once in a while: has this taken too long?"""
        patience, exchange = self.house.patience, self.exchange
        pending = self.transport.get_write_buffer_size()
        if pending:
            if pending < self._pending or not self._pending:
                self._pending_since = now
            self._pending = pending
            if now - self._pending_since >= patience.unread:
                self.give_up()
            return
        self._pending = 0
        waited = now - self._due_from
        if self._over:
            if waited >= patience.linger:
                self.give_up()
        elif exchange is not None:
            if exchange.waiting and waited >= patience.body:
                self.give_up()
        elif self._buffer and waited >= patience.head:
            self._refuse(FaultyRequestError(408, "the request's head did not come in time"))
        elif waited >= patience.idle:
            self._end(linger=False)


def _address(info: object) -> tuple[str, int] | None:
    """Host and port of an internet address."""
    if isinstance(info, tuple) and len(info) >= 2:
        return str(info[0]), int(info[1])
    return None
