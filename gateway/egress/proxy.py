"""The proxy of one run: CONNECT alone, to what the profile lists and policy allows, recorded before anything is opened.

It speaks on a socket that listens in the run's own network namespace: whoever reaches it is the run, and no token could say more.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from gateway import signals
from gateway.egress.deciding import Asked, Ceiling, Desk, Granted
from gateway.egress.dial import dial
from gateway.egress.head import Head, HeadError, Target
from gateway.egress.hello import HelloError
from gateway.egress.tunnel import Budget, IdleError, LimitError, Tunnel
from gateway.model import Refused
from gateway.prometheus import Family, Sample
from gateway.reasons import PROSE, Code

log = logging.getLogger("gateway.egress")

_SO_NETNS_COOKIE: Final = 71
_PORT: Final = 3128
_ALERT: Final = bytes.fromhex("15030300020231")  # TLS: access_denied, fatal
_PHRASES: Final = {
    200: "Connection established", 400: "Bad Request", 403: "Forbidden", 405: "Method Not Allowed", 408: "Request Timeout",
    429: "Too Many Requests", 431: "Request Header Fields Too Large", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one run: connections at once, connections in all, bytes of all of them both ways.  Of one connection: seconds."""

    at_once: int = 32
    connections: int = 1024
    bytes: int = 256 << 20
    head_seconds: float = 10.0
    connect_seconds: float = 5.0
    idle_seconds: float = 60.0


class NotApartError(Exception):
    """The socket does not listen in a network namespace of the run's own: whoever else is there could use it."""


class Egress:
    """The way out for the runs of this gateway."""

    def __init__(self, desk: Desk, bounds: Bounds = Bounds()) -> None:
        self._desk = desk
        self._bounds = bounds
        self._ends: Counter[tuple[str, str]] = Counter()

    def network(self, ceiling: Ceiling) -> Serving:
        """For one run: what serves the socket that listens inside its cage (`sandbox.runner.Hooks.network`)."""
        return Serving(self._desk, self._bounds, ceiling, self._ends)

    def families(self) -> Iterator[Family]:
        """How connections ended so far, or why they were not made."""
        samples = [Sample({"end": end, "code": code}, count) for (end, code), count in sorted(self._ends.items())]
        yield Family(
            signals.RUN_CONNECTIONS,
            "counter",
            "Connections of sandboxed code: how they ended, or why there were none.",
            samples,
        )


def apart(listener: socket.socket) -> None:
    """NotApartError unless the socket listens on 127.0.0.1:3128 in another network namespace than this process is in."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as ours:
        try:
            cookies = [side.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8) for side in (listener, ours)]
            listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            kind = listener.family, listener.type, listener.getsockname()
        except OSError as error:
            raise NotApartError(f"the kernel does not say where the socket listens: {error}") from error
    if cookies[0] == cookies[1]:
        raise NotApartError("the socket listens in the gateway's own network namespace")
    if not listens or kind != (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", _PORT)):
        raise NotApartError(f"the socket does not listen on 127.0.0.1:{_PORT}")


class Serving:
    """The connections of one run; `connections` is how many were opened to a destination so far."""

    def __init__(self, desk: Desk, bounds: Bounds, ceiling: Ceiling, ends: Counter[tuple[str, str]]) -> None:
        self._desk, self._bounds, self._ceiling, self._ends = desk, bounds, ceiling, ends
        self._budget = Budget(bounds.bytes)
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0

    async def __call__(self, listener: socket.socket) -> None:
        """Until cancelled.  Where as many stand as may, the next waits in the kernel; after the last one nobody is let in.

        NotApartError at once where the socket is not in a network of the run's own.
        """
        with listener:
            apart(listener)
            listener.setblocking(False)
            loop = asyncio.get_running_loop()

            async def accept() -> socket.socket:
                return (await loop.sock_accept(listener))[0]

            await self._serve(accept)

    async def relayed(self, arriving: asyncio.Queue[socket.socket]) -> None:
        """The same for connections that a runner elsewhere hands on, which vouches for where they come from."""
        await self._serve(arriving.get)

    async def _serve(self, accept: Callable[[], Awaitable[socket.socket]]) -> None:
        asked = Asked(self._desk, self._ceiling)
        slots = asyncio.Semaphore(self._bounds.at_once)
        try:
            for _ in range(self._bounds.connections):
                await slots.acquire()
                try:
                    inside = await accept()
                except ConnectionError:  # it had gone before it was let in
                    slots.release()
                    continue
                task = asyncio.create_task(self._one(asked, inside))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                task.add_done_callback(lambda _done: slots.release())
            log.warning("run %s has opened as many connections as it may", self._ceiling.run)
            while True:  # whoever comes now finds nobody
                with suppress(ConnectionError):
                    (await accept()).close()
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
            await asked.close()

    async def _one(self, asked: Asked, inside: socket.socket) -> None:
        """One connection, from its first byte to the record of its end."""
        with inside:
            inside.setblocking(False)
            if inside.family != socket.AF_UNIX:
                inside.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                target = await self._target(inside)
                if target is None:
                    return
                granted = await asked.may(target)
                await self._granted(granted, inside)
            except HeadError as error:
                await _answer(inside, error.status, str(error))
            except TimeoutError:
                await _answer(inside, 408, "the head did not come in time")
            except Refused as refusal:
                self._ends["denied", refusal.code.value] += 1
                status = 503 if refusal.code in (Code.LEDGER_UNAVAILABLE, Code.INTERNAL_ERROR) else 403
                await _answer(inside, status, f"{refusal.code.value}: {PROSE[refusal.code]}")
            except OSError:
                return  # the code has hung up

    async def _target(self, inside: socket.socket) -> Target | None:
        """What is asked for; None where nothing is.  HeadError; TimeoutError for a head that trickles in."""
        head, loop = Head(), asyncio.get_running_loop()
        async with asyncio.timeout(self._bounds.head_seconds):
            while data := await loop.sock_recv(inside, 4096):
                if (target := head.feed(data)) is not None:
                    return target
        return None

    async def _granted(self, granted: Granted, inside: socket.socket) -> None:
        end, detail, address, tunnel = "run-ended", "", "", None
        try:
            try:
                async with asyncio.timeout(self._bounds.connect_seconds):
                    outside, address = await dial(granted.addresses, granted.target.port)
            except (OSError, TimeoutError) as error:
                end, detail = "unreachable", type(error).__name__
                await _answer(inside, 502, "the destination does not answer")
                return
            self.connections += 1
            with outside:
                await _say(inside, b"HTTP/1.1 200 Connection established\r\n\r\n")
                name = granted.target.host if granted.tls else ""
                tunnel = Tunnel(inside, outside, name, self._budget, self._bounds.head_seconds, self._bounds.idle_seconds)
                end, detail = await _through(tunnel)
                if end == "refused":
                    with suppress(OSError):
                        await _say(inside, _ALERT)
        finally:
            self._ends[end, ""] += 1
            sent, received = (tunnel.sent, tunnel.received) if tunnel is not None else (0, 0)
            await granted.ended({"address": address, "sent": sent, "received": received, "end": end, "detail": detail})


async def _through(tunnel: Tunnel) -> tuple[str, str]:
    """How a connection ended, as a word of the closed list in docs/reference/records.md, and in words."""
    try:
        await tunnel.run()
    except HelloError as error:
        return "refused", str(error)
    except LimitError:
        return "limit", "the run has moved as many bytes as it may"
    except IdleError:
        return "idle", ""
    except OSError as error:
        return "broken", type(error).__name__
    return "closed", ""


async def _answer(inside: socket.socket, status: int, text: str) -> None:
    """A refusal, in words for whoever wrote the code, and without a word of what lies behind a name."""
    body = f"bailiwick: {text}\n".encode("ascii", "replace")
    more = "Allow: CONNECT\r\n" if status == 405 else ""
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\n{more}Content-Type: text/plain; charset=us-ascii\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with suppress(OSError):
        await _say(inside, head.encode("ascii") + body)
        inside.shutdown(socket.SHUT_WR)
        await _drained(inside)


async def _drained(inside: socket.socket) -> None:
    """Take what still comes for a moment: closing over unread bytes resets the connection, and the answer with it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            for _ in range(16):
                if not await asyncio.get_running_loop().sock_recv(inside, 1 << 16):
                    return


async def _say(inside: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(inside, data)
