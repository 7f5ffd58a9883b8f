"""A root log: one more ledger, whose records are the checkpoints of others.  Whoever watches it watches all of them.

Before a checkpoint becomes a record of it, it is proven to continue the one before: the root holds one history of each log.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

from audit.checkpoint import Checkpoint, Vkey
from audit.journal import Journal
from audit.leaf import Kind
from audit.model import Entry, LedgerUnavailableError, Receipt, TamperedError
from audit.proof import verify_consistency
from audit.store import StoreError
from audit.store_proofs import ProofStore
from audit.store_read import SqlReader
from gateway.anchors.anchor import AnchorConflictError, AnchorFailedError, compare
from gateway.model import Clock

_CHUNK: Final = 500


async def _unchecked() -> None:
    return None  # nobody outside remembers it


class RootLog:
    """Where it is, and its one writer here: opened at first need, and again after it could not be written."""

    def __init__(self, url: str, opening: Callable[[], Awaitable[Journal]]) -> None:
        self.url = url
        self._opening = opening
        self._journal: Journal | None = None
        self._turn = asyncio.Lock()
        self.check: Callable[[], Awaitable[None]] = _unchecked
        """Asks whoever remembers it, each time before it is opened; raises where they remember something else."""
        self.begun = asyncio.Event()
        """It has been opened."""

    async def journal(self) -> Journal:
        """The log, to be written; `LedgerUnavailableError`."""
        async with self._turn:
            if self._journal is None or not self._journal.healthy:
                await self._close()
                try:
                    await self.check()
                except (StoreError, TamperedError) as error:
                    raise LedgerUnavailableError(str(error)) from error
                self._journal = await self._opening()
                self.begun.set()
            return self._journal

    async def append(self, entry: Entry) -> Receipt:
        """See `Journal.append`."""
        return await (await self.journal()).append(entry)

    async def close(self) -> None:
        """Let the root log go."""
        async with self._turn:
            await self._close()

    async def _close(self) -> None:
        if self._journal is not None:
            await self._journal.close()
            self._journal = None


class RootAnchor:
    """Makes the log's checkpoints records of the root log.

    Thief of the root's key: what a thief of any ledger's key can, for the root alone; its records hold the logs' own signatures.
    """

    def __init__(self, root: RootLog, own: Vkey, store: ProofStore, clock: Clock) -> None:
        self._root = root
        self._own = own
        self._store = store
        self._clock = clock

    async def put(self, head: Checkpoint, note: str) -> None:
        """See `Anchor`."""
        try:
            journal = await self._root.journal()
            found = await asyncio.to_thread(newest_of, self._root.url, self._own.name)
            if found is not None:
                held = compare(found, self._own, head)
                if held.size == head.size:
                    return
                await self._continues(held, head)
            at = self._clock()
            fields = {"of": head.origin, "size": head.size, "note": note}
            await journal.append(Entry(Kind.LOG_CHECKPOINT, _id(head), at, None, fields))
        except (LedgerUnavailableError, StoreError, TamperedError) as error:
            raise AnchorFailedError(f"the root log cannot be written: {error}") from None

    async def _continues(self, held: Checkpoint, head: Checkpoint) -> None:
        proof = await asyncio.to_thread(self._store.consistency, held.size, head.size)
        if not verify_consistency(held.size, head.size, held.root, head.root, proof):
            raise AnchorConflictError(f"holds a checkpoint of {held.size} records which the log of {head.size} does not continue")


def newest_of(url: str, origin: str) -> str | None:
    """The note of the newest checkpoint of a log in a root log, read from its end; `StoreError`, `TamperedError`."""
    rows = SqlReader(url)
    try:
        stop = rows.head().size
        while stop > 0:
            start = max(0, stop - _CHUNK)
            for leaf in reversed(list(rows.leaves(start, stop))):
                if b'"kind":"log.checkpoint"' in leaf.data:
                    record = leaf.record()
                    if record.get("kind") == Kind.LOG_CHECKPOINT and record.get("of") == origin:
                        return str(record.get("note"))
            stop = start
    finally:
        rows.close()
    return None


def _id(head: Checkpoint) -> str:
    """One for each log and size, so that a checkpoint whose writing was not answered is not written twice."""
    return f"{hashlib.sha256(head.origin.encode()).hexdigest()[:32]}-{head.size}"
