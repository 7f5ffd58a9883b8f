"""Connections of code that runs elsewhere, on their way to the gateway's proxy: one line of their own each, bytes as they are.

The runner says that somebody in a cage has connected, and under which key; the gateway fetches that connection, once.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol, runtime_checkable

from sandbox.wire import PIECE

WAITING: Final = 64
"""Connections of one run that may wait to be fetched; one more is closed at once."""
FETCH_SECONDS: Final = 10.0


@runtime_checkable
class Relaying(Protocol):
    """What a hook for a network must be for a runner elsewhere."""

    async def relayed(self, arriving: asyncio.Queue[socket.socket]) -> None:
        """Serve connections that come from inside a cage, wherever that is, until cancelled; each is the server's to close."""
        ...


class Waiting:
    """Connections of all cages that are to be fetched, by their keys, and those that were."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, socket.socket] = {}
        self._fetched: dict[bytes, asyncio.Task[None]] = {}

    async def announce(self, listener: socket.socket, tell: Callable[[bytes], None]) -> None:
        """`sandbox.runner.Hooks.network`: tell of each connection, until cancelled; then none of them is left."""
        loop, mine = asyncio.get_running_loop(), set[bytes]()
        with listener:
            listener.setblocking(False)
            try:
                while True:
                    inside, _address = await loop.sock_accept(listener)
                    inside.setblocking(False)
                    mine = {key for key in mine if key in self._waiting or key in self._fetched}
                    if sum(key in self._waiting for key in mine) >= WAITING:
                        inside.close()
                        continue
                    key = secrets.token_bytes(16)
                    self._waiting[key] = inside
                    mine.add(key)
                    loop.call_later(FETCH_SECONDS, self._drop, key)
                    tell(key)
            finally:
                for key in mine:
                    self._drop(key)
                    if (task := self._fetched.get(key)) is not None:
                        task.cancel()

    async def fetched(self, key: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join a connection that waits to the line that has come for it, until both have ended; nothing for an unknown key."""
        inside = self._waiting.pop(key, None)
        if inside is None:
            return
        task = self._fetched[key] = asyncio.ensure_future(join(inside, reader, writer))
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            del self._fetched[key]

    def _drop(self, key: bytes) -> None:
        inside = self._waiting.pop(key, None)
        if inside is not None:
            inside.close()


async def join(inside: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes both ways until both sides have ended; a reset of either ends both.  Closes the socket, not the line.

    Over TLS one side cannot end alone: there the end of what the code sends is the end of the connection.
    """
    loop = asyncio.get_running_loop()

    async def outward() -> None:
        while data := await loop.sock_recv(inside, PIECE):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()

    async def inward() -> None:
        while data := await reader.read(PIECE):
            await loop.sock_sendall(inside, data)
        inside.shutdown(socket.SHUT_WR)

    tasks = [asyncio.create_task(outward()), asyncio.create_task(inward())]
    try:
        with suppress(OSError):
            await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        inside.close()
