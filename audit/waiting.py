"""What stands in the way into the ledger: an entry with whoever waits for it, and how the way is."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from audit.model import Entry, Receipt


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
