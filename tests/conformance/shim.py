"""Stands before a gateway for clients that cannot authenticate: adds the Authorization line to each request, and nothing else.

What the client says of Host, Origin and everything else arrives as it was said; answers pass as the bytes they are.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle

_HEAD_BYTES = 64 * 1024
Onward = Callable[[int], Awaitable[asyncio.StreamWriter]]
"""The connection to the replica on this port, opened when first asked for."""


@contextmanager
def authorized(ports: Sequence[int], token: Callable[[], str]) -> Iterator[int]:
    """The loopback port at which the gateways on `ports`, replicas of one, hear every request with a token that `token()` gives.

    Requests go to them in turn, also those of one connection and of one session: nobody is stuck to a replica.
    """
    loop = asyncio.new_event_loop()
    ready: asyncio.Future[int] = loop.create_future()
    ended = asyncio.Event()

    async def serve() -> None:
        shim = _Shim(cycle(ports), token)
        async with await asyncio.start_server(shim.connection, "127.0.0.1", 0, limit=_HEAD_BYTES) as server:
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
    def __init__(self, ports: Iterator[int], token: Callable[[], str]) -> None:
        self._ports, self._token = ports, token

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection; whoever hangs up, the other one hears of it at once."""
        ways: set[asyncio.Task[None]] = set()
        there: dict[int, asyncio.StreamWriter] = {}

        async def onward(port: int) -> asyncio.StreamWriter:
            if port not in there:
                answers, there[port] = await asyncio.open_connection("127.0.0.1", port)
                ways.add(asyncio.create_task(_answers(answers, writer)))
                changed.set()
            return there[port]

        changed = asyncio.Event()
        ways.add(asyncio.create_task(self._requests(reader, onward)))
        try:
            while True:
                changed.clear()
                waiting = asyncio.create_task(changed.wait())
                done, _ = await asyncio.wait({*ways, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if done - {waiting}:
                    break
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (*there.values(), writer):
                end.close()

    async def _requests(self, reader: asyncio.StreamReader, onward: Onward) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, rest = head.partition(b"\r\n")
            writer = await onward(next(self._ports))
            writer.write(line + b"\r\nauthorization: Bearer " + self._token().encode() + b"\r\n" + rest)
            fields = [field.partition(b":") for field in rest.lower().split(b"\r\n")]
            said = {name: value.strip() for name, _, value in fields}
            if said.get(b"transfer-encoding"):
                await _chunks(reader, writer)
            else:
                writer.write(await reader.readexactly(int(said.get(b"content-length", b"0"))))
            await writer.drain()


async def _chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    size = 1
    while size:
        line = await reader.readuntil(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        writer.write(line + await reader.readexactly(size + 2))


async def _answers(there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Of a client that does not pipeline only one replica has a question at a time."""
    while data := await there.read(65536):
        writer.write(data)
        await writer.drain()
