"""A run's way out: the socket that listens in its cage, in the hands of whoever the gateway names, while the run goes on."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sandbox.inside.outward import GREETING
from sandbox.runner import Hooks

log = logging.getLogger("sandbox.network")


@asynccontextmanager
async def connected(listener: socket.socket | None, hooks: Hooks) -> AsyncIterator[None]:
    """Have the gateway's hook answer in the cage until the run has ended.  One that fails cuts the code off, and no more."""
    if listener is None or hooks.network is None:
        yield
        return
    listener.setblocking(False)
    answering = asyncio.ensure_future(hooks.network(listener.dup()))
    answering.add_done_callback(_ended)
    try:
        yield
    finally:
        listener.close()
        answering.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait({answering})


def _ended(answering: asyncio.Future[None]) -> None:
    if not answering.cancelled() and answering.exception() is not None:
        log.warning("the way out of a run failed", exc_info=answering.exception())


async def greet(listener: socket.socket) -> None:
    """Say who is there, to everybody who comes: what the probe finds where a proxy is to be."""
    loop = asyncio.get_running_loop()
    with listener:
        while True:
            client, _ = await loop.sock_accept(listener)
            with client:
                await loop.sock_sendall(client, GREETING)
