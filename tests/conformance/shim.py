"""Stands before a gateway for clients that cannot authenticate: adds the Authorization line to each request, and nothing else.

What the client says of Host, Origin and everything else arrives as it was said; answers pass as the bytes they are.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_HEAD_BYTES = 64 * 1024


@contextmanager
def authorized(port: int, token: Callable[[], str]) -> Iterator[int]:
    """The loopback port at which the gateway on `port` hears every request with a token that `token()` gives it."""
    loop = asyncio.new_event_loop()
    ready: asyncio.Future[int] = loop.create_future()
    ended = asyncio.Event()

    async def serve() -> None:
        async with await asyncio.start_server(_Shim(port, token).connection, "127.0.0.1", 0, limit=_HEAD_BYTES) as server:
            ready.set_result(server.sockets[0].getsockname()[1])
            await ended.wait()
            server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    listening = threading.Event()
    ready.add_done_callback(lambda _: listening.set())
    thread.start()
    try:
        assert listening.wait(30)
        yield ready.result()
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


class _Shim:
    def __init__(self, port: int, token: Callable[[], str]) -> None:
        self._port, self._token = port, token

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection; whoever hangs up, the other one hears of it at once."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            there, onward = await asyncio.open_connection("127.0.0.1", self._port)
            ways = [asyncio.create_task(self._requests(reader, onward)), asyncio.create_task(_answers(there, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
                onward.close()
        writer.close()

    async def _requests(self, reader: asyncio.StreamReader, onward: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, rest = head.partition(b"\r\n")
            onward.write(line + b"\r\nauthorization: Bearer " + self._token().encode() + b"\r\n" + rest)
            fields = [field.partition(b":") for field in rest.lower().split(b"\r\n")]
            said = {name: value.strip() for name, _, value in fields}
            if said.get(b"transfer-encoding"):
                await _chunks(reader, onward)
            else:
                onward.write(await reader.readexactly(int(said.get(b"content-length", b"0"))))
            await onward.drain()


async def _chunks(reader: asyncio.StreamReader, onward: asyncio.StreamWriter) -> None:
    size = 1
    while size:
        line = await reader.readuntil(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        onward.write(line + await reader.readexactly(size + 2))


async def _answers(there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await there.read(65536):
        writer.write(data)
        await writer.drain()
