"""Opens what erases people: the ledger's own, and every other store that knows them, each by its name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from gateway.erasure.erasing import Eraser, Erasing, Log
from gateway.state.erasing import STORES
from gateway.state.store import State
from gateway.stores import existing

if TYPE_CHECKING:
    from gateway.parts import Parts


def erasers_of(state: State, folders: Eraser) -> Mapping[str, Eraser]:
    """The state store's (`vault`, `grants`, `tasks`, `kills`), and `folders`: what servers of the person's own have kept."""
    return {**{store: partial(state.people.erase, store) for store in STORES}, "folders": folders}


def opened(parts: Parts, folders: Eraser) -> Erasing:
    """What erases, and goes on with erasures that were cut off until the gateway ends."""
    ledger = parts.ledger

    def logs() -> list[Log]:
        return [Log(tenant, url, ledger.shredder(tenant)) for tenant, url in existing(parts.settings)]

    erasing = Erasing(parts.journal.append, logs, parts.seal_key, erasers_of(parts.state, folders), parts.clock)
    task = asyncio.create_task(erasing.run(), name="erasure")

    async def end() -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])

    parts.stack.push_async_callback(end)
    return erasing
