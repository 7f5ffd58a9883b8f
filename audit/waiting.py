"""What stands in the way into the ledger: an entry with whoever waits for it, and how the way is."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from audit.inlet import Inlet
from audit.model import Entry, Receipt

MAX_QUEUED_BYTES: Final = 64 * 1024 * 1024
_MAX_BATCH: Final = 1024


class Health(NamedTuple):
    """Whether records can be written now, and if not, why.  False in a condition when they cannot.

    A reason with `ok`: records are written, and no checkpoint can be signed over them.  spooling: not now, and new calls that may
    are recorded in the spool.
    """

    ok: bool
    reason: str = ""
    spooling: bool = False

    def __bool__(self) -> bool:
        return self.ok


class Waiting:
    """An entry on its way, and who waits for it."""

    __slots__ = ("entry", "future", "weight")

    def __init__(self, entry: Entry, future: asyncio.Future[Receipt] | None) -> None:
        self.entry = entry
        self.future = future
        self.weight = 0
        for value in entry.values:
            self.weight += len(value.data)


def drain(inlet: Inlet[list[Waiting]], batch: list[Waiting]) -> tuple[list[Waiting], bool]:
    """A batch with what else has come, as far as one commit takes it; and whether that was the last."""
    size = sum(waiting.weight for waiting in batch)
    while len(batch) < _MAX_BATCH and size < MAX_QUEUED_BYTES and (more := inlet.take()) is not None:
        if not more:
            return batch, True
        batch += more
        size += sum(waiting.weight for waiting in more)
    return batch, False
