"""The only door out: pooled HTTP/1.1, one pool an origin, everything bounded, nothing taken from the environment.

No redirects, no cookies, no compression, no proxies.  Addresses are judged after resolution and pinned (`address.py`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque

from gateway.model import UpstreamError
from gateway.upstream.address import resolved
from gateway.upstream.connection import Connection
from gateway.upstream.message import NO_HEADERS, HeaderBlock, HttpRequest, Url, header_block
from gateway.upstream.response import HttpResponse

__all__ = ["NO_HEADERS", "HeaderBlock", "HttpRequest", "HttpResponse", "Upstreams", "Url", "header_block"]

_FETCH_BYTES = 1024 * 1024
_FETCH_SECONDS = 10.0


class Upstreams:
    """Connections to every upstream of this process.

    connect_seconds  for name resolution, connect and TLS together, and for waiting until a connection is free.
    idle_seconds     longest silence while an answer is awaited or comes.
    connections      per origin; `waiting` calls may queue for one, the next is refused.
    keep_seconds     how long an unused connection is kept.
    probe            whether the peer's machine is asked now and then if it is still there (TCP keep-alive): for long silences.
    """

    def __init__(
        self,
        *,
        connect_seconds: float = 5.0,
        idle_seconds: float = 300.0,
        connections: int = 512,
        waiting: int = 1024,
        keep_seconds: float = 30.0,
        probe: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.connect_seconds = connect_seconds
        self.idle_seconds = idle_seconds
        self.connections = connections
        self.waiting = waiting
        self.keep_seconds = keep_seconds
        self.probe = probe
        self._tls = tls
        self._pools: dict[tuple[str, str, int, bool], _Pool] = {}
        self._closed = False

    async def send(self, request: HttpRequest) -> HttpResponse:
        """Send one request and return when the answer's head is here.

        Raises `UpstreamError`: `connect`, `timeout`, `protocol`, `too-large` or `closed`.  Cancelling drops the connection, so
        that the upstream notices.  ValueError where the request itself cannot be sent.
        """
        data = request.to_bytes()
        pool = self._pool(request.url)
        again = request.replay
        while True:
            connection = pool.take()
            if connection is None:
                connection = await pool.acquire()
                if connection.served and not connection.usable:  # it died between being handed over and now; nothing was sent
                    continue
            reused = connection.served > 0
            response = connection.send(data)
            try:
                await response.wait_head()
            except UpstreamError as error:
                if not (again and reused and error.kind == "closed" and connection.silent):
                    raise
                again = False
            else:
                return response
            finally:
                if not response.head:  # failed or cancelled: the upstream shall notice
                    connection.abort(response)

    async def fetch(
        self, url: str | Url, *, allow_private: bool = False, limit: int = _FETCH_BYTES, seconds: float = _FETCH_SECONDS
    ) -> bytes:
        """The body of a GET that is answered 200, for key sets and agent cards; bounded in bytes and in time altogether.

        `allow_private` counts where `url` is text; a `Url` says so itself.
        """
        if isinstance(url, str):
            try:
                url = Url.parse(url, allow_private=allow_private)
            except ValueError as error:
                raise UpstreamError("connect", str(error)) from None
        request = HttpRequest(url, method=b"GET", headers=((b"accept", b"application/json"),), replay=True)
        try:
            async with asyncio.timeout(seconds):
                response = await self.send(request)
                try:
                    if response.status != 200:
                        raise UpstreamError("status", str(response.status))
                    return await response.read(limit)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise UpstreamError("timeout", "the whole answer did not come in time") from None

    async def aclose(self) -> None:
        """Drop every connection; nothing can be sent afterwards."""
        self._closed = True
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        await asyncio.sleep(0)  # lets the transports run their last callbacks

    def open_connections(self) -> int:
        """How many connections stand or are being made, for metrics."""
        return sum(pool.count for pool in self._pools.values())

    def _pool(self, url: Url) -> _Pool:
        if self._closed:
            raise UpstreamError("closed", "the client is closed")
        pool = self._pools.get(url.origin)
        if pool is None:
            context = self._context() if url.scheme == "https" else None
            pool = self._pools[url.origin] = _Pool(self, url, context)
        return pool

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


class _Pool:
    """The connections to one origin: the most recently used one is taken first."""

    __slots__ = ("_all", "_closed", "_free", "_owner", "_tls", "_url", "_waiters", "count")

    def __init__(self, owner: Upstreams, url: Url, tls: ssl.SSLContext | None) -> None:
        self._owner = owner
        self._url = url
        self._tls = tls
        self._free: list[Connection] = []
        self._all: set[Connection] = set()
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._closed = False
        self.count = 0  # that stand or are being made

    def take(self) -> Connection | None:
        """A free connection, without waiting."""
        while self._free:
            connection = self._free.pop()
            if connection.usable:
                return connection
            connection.retire()
        return None

    async def acquire(self) -> Connection:
        """A new connection, or the next that becomes free."""
        if self.count < self._owner.connections:
            self.count += 1
            return await self._connect()
        if len(self._waiters) >= self._owner.waiting:
            raise UpstreamError("connect", "too many calls wait for a connection")
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        taken = False
        try:
            async with asyncio.timeout(self._owner.connect_seconds):
                connection = await waiter
            taken = True
        except TimeoutError:
            raise UpstreamError("timeout", "no connection became free") from None
        finally:
            if not taken:
                self._forgo(waiter)
        return connection if connection is not None else await self._connect()

    def _forgo(self, waiter: asyncio.Future[Connection | None]) -> None:
        """Leave the queue; what was ours in the very moment we left goes to the next."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self._give_back(waiter.result())

    def close(self) -> None:
        """Drop everything; who waits is told."""
        self._closed = True
        for connection in list(self._all):
            connection.abort()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(UpstreamError("closed", "the client is closed"))

    def _pass_on(self, connection: Connection | None) -> bool:
        """Give a free connection, or (None) the room for a new one, to whoever waits longest; False where nobody does."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    def _give_back(self, connection: Connection | None) -> None:
        if connection is None:
            self._room()
        elif connection.usable:
            self._freed(connection)

    def _freed(self, connection: Connection) -> None:
        if not self._waiters or not self._pass_on(connection):
            self._free.append(connection)

    def _gone(self, connection: Connection) -> None:
        if connection not in self._all:  # one that failed while connecting is counted by `_connect`
            return
        self._all.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        self._room()

    def _room(self) -> None:
        """One connection less, or one waiter more that may make its own."""
        if not self._pass_on(None):
            self.count -= 1

    async def _connect(self) -> Connection:
        """A new connection; it is counted already."""
        standing = False
        try:
            async with asyncio.timeout(self._owner.connect_seconds):
                connection = await self._first_that_answers()
            standing = True
        except TimeoutError:
            raise UpstreamError("timeout", "connect") from None
        finally:
            if not standing:
                self._room()
        if self._closed:
            connection.abort()
            raise UpstreamError("closed", "the client is closed")
        return connection

    async def _first_that_answers(self) -> Connection:
        loop = asyncio.get_running_loop()
        url = self._url
        last = "no address"
        for host in await resolved(url):
            try:
                _, connection = await loop.create_connection(
                    self._made, host, url.port, ssl=self._tls, server_hostname=url.host if self._tls else None
                )
            except OSError as error:  # ssl.SSLError is one
                last = type(error).__name__
                continue
            self._all.add(connection)
            if self._owner.probe:
                connection.probe()
            return connection
        raise UpstreamError("connect", last)

    def _made(self) -> Connection:
        return Connection(self._owner.idle_seconds, self._owner.keep_seconds, self._freed, self._gone)
