"""The ledger as the gateway uses it: the journal, and what proves it to others.  A call waits for the journal alone."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from audit.journal import Journal
from gateway.identity.keyfiles import ledger_key
from gateway.ledger_tiles import TileSource
from gateway.model import Clock
from gateway.settings import Settings
from gateway.stores import ledger_url_of, signed_head_of

log = logging.getLogger("gateway")


@dataclass(frozen=True, slots=True)
class Opened:
    """What the gateway has of its ledger."""

    journal: Journal
    tiles: TileSource


async def opened(settings: Settings, environ: Mapping[str, str], clock: Clock, seal: bytes, stack: AsyncExitStack) -> Opened:
    """Open it; `stack` closes it."""
    url = ledger_url_of(settings)
    journal = await Journal.open(
        url=url,
        origin=settings.ledger.origin,
        signing_key=ledger_key(settings.data, settings.ledger.key, environ),
        seal_key=seal,
        writer=f"{socket.gethostname()}:{settings.server.port}".encode("ascii", "replace").decode()[-64:],
        clock=clock,
        queue=settings.ledger.queue,
        kept=signed_head_of(settings),
    )
    stack.push_async_callback(journal.close)
    log.warning("the ledger is unwitnessed: keep its checkpoints elsewhere (GET /api/checkpoint); key %s", journal.vkey)
    tiles = TileSource(url)
    stack.push_async_callback(asyncio.to_thread, tiles.close)
    return Opened(journal, tiles)
