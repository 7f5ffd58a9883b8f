"""Opens what erases people: the ledger's own, and every other store that knows them, each by its name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from gateway.erasure.erasing import Eraser, Erasing, Log
from gateway.sandbox.folders import SESSIONS
from gateway.sandbox.opening import folders_of
from gateway.state.erasing import STORES
from gateway.state.store import State
from gateway.stores import existing

if TYPE_CHECKING:
    from gateway.parts import Parts


def erasers_of(state: State, folders: Eraser, sandbox: Eraser) -> Mapping[str, Eraser]:
    """The state store's (`vault`, `grants`, `tasks`, `kills`, …); `folders`: what servers of the person's own have kept.

    sandbox  what code that ran for the person has left.
    """
    return {**{store: partial(state.people.erase, store) for store in STORES}, "folders": folders, "sandbox": sandbox}


def opened(parts: Parts, folders: Eraser) -> Erasing:
    """What erases, and goes on with erasures that were cut off until the gateway ends."""
    ledger = parts.ledger

    def logs() -> list[Log]:
        return [Log(tenant, url, ledger.shredder(tenant)) for tenant, url in existing(parts.settings)]

    stores = erasers_of(parts.state, folders, _sandbox(parts))
    erasing = Erasing(parts.journal.append, logs, parts.seal_key, stores, parts.clock)
    task = asyncio.create_task(erasing.run(), name="erasure")

    async def end() -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])

    parts.stack.push_async_callback(end)
    return erasing


def _sandbox(parts: Parts) -> Eraser:
    """Also where the sandbox is not open now: it was, perhaps."""
    if parts.sandboxed is not None:
        return parts.sandboxed.erase
    from gateway.parts import derived  # noqa: PLC0415  it names this module's types

    return folders_of(parts.settings, derived(parts.seal_key, SESSIONS), parts.clock).erase
