"""Two sockets made one: TLS to the right name first, then bytes both ways, counted and bounded, until both sides have ended."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from typing import Final

from gateway.egress.hello import Answer, Hello, HelloError

_PIECE: Final = 1 << 16


class LimitError(Exception):
    """The run has moved as many bytes as it may."""


class IdleError(Exception):
    """Nothing moved either way for too long."""


@dataclass(slots=True)
class Budget:
    """Bytes that all connections of one run together may still move."""

    left: int

    def take(self, count: int) -> None:
        """LimitError where there are not so many left."""
        self.left -= count
        if self.left < 0:
            raise LimitError


@dataclass(slots=True)
class Tunnel:
    """One connection.

    inside   the code's side; outside the destination's.  Whoever made them closes them.
    name     the server that the code must name in its ClientHello; "" where the destination is plain.
    sent     bytes that went to the destination, received those that came back: so far.
    """

    inside: socket.socket
    outside: socket.socket
    name: str
    budget: Budget
    hello_seconds: float
    idle_seconds: float
    sent: int = 0
    received: int = 0
    _moved: float = field(default=0.0, init=False)

    async def run(self) -> None:
        """To the end of both sides.  HelloError, LimitError, IdleError, or OSError for a reset.

        Of what the code sends nothing goes out before its hello is read whole and names the right server.
        """
        rest = b""
        if self.name:
            try:
                async with asyncio.timeout(self.hello_seconds) as timer:
                    rest = await self._greet()
            except TimeoutError:  # which a reset may be as well
                if timer.expired():
                    raise HelloError("the ClientHello did not come in time") from None
                raise
        self._moved = asyncio.get_running_loop().time()
        tasks = [
            asyncio.create_task(self._up(rest)),
            asyncio.create_task(self._down()),
            asyncio.create_task(self._watch()),
        ]
        try:
            await _first_failure(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _greet(self) -> bytes:
        """Take the hello, and the second one where the server asks for it; what the code sent after it, not yet sent on.

        In between nothing more is taken of the code: a second hello that names another server would go out unread.
        """
        rest = await self._hello(Hello(self.name), b"")
        answer, retry = Answer(), None
        while retry is None:
            data = await self._receive(self.outside)
            if not data:
                return rest  # the destination hung up: `_down` will see it too
            retry = answer.feed(data)
            await self._give(data)
        return await self._hello(Hello(self.name, again=True), rest) if retry else rest

    async def _hello(self, hello: Hello, data: bytes) -> bytes:
        while not (data and hello.feed(data)):
            data = await self._receive(self.inside)
            if not data:
                raise HelloError("the code hung up before its ClientHello was whole")
        taken, rest = hello.taken()
        await self._send(taken)
        return rest

    async def _up(self, data: bytes) -> None:
        if data:
            await self._send(data)
        while data := await self._receive(self.inside):
            await self._send(data)
        _half_close(self.outside)

    async def _down(self) -> None:
        while data := await self._receive(self.outside):
            await self._give(data)
        _half_close(self.inside)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while (left := self._moved + self.idle_seconds - loop.time()) > 0:  # noqa: ASYNC110  it waits for nothing to happen
            await asyncio.sleep(left)
        raise IdleError

    async def _receive(self, side: socket.socket) -> bytes:
        return await asyncio.get_running_loop().sock_recv(side, _PIECE)

    async def _send(self, data: bytes) -> None:
        self.budget.take(len(data))
        await asyncio.get_running_loop().sock_sendall(self.outside, data)
        self.sent += len(data)
        self._moved = asyncio.get_running_loop().time()

    async def _give(self, data: bytes) -> None:
        self.budget.take(len(data))
        await asyncio.get_running_loop().sock_sendall(self.inside, data)
        self.received += len(data)
        self._moved = asyncio.get_running_loop().time()


async def _first_failure(tasks: list[asyncio.Task[None]]) -> None:
    """Until both directions have ended (the last task only watches); raises what any of them raises."""
    up, down, watch = tasks
    waiting = {up, down, watch}
    while not (up.done() and down.done()):
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


def _half_close(side: socket.socket) -> None:
    try:
        side.shutdown(socket.SHUT_WR)
    except OSError:
        return  # it has gone already
