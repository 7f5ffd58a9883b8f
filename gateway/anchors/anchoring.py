"""Pushes checkpoints to anchors, each at its own pace and from its own place, beside the calls; a failure is said aloud."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from audit import checkpoint as notes
from audit.checkpoint import CheckpointError, Vkey
from audit.model import LedgerUnavailableError
from audit.store import StoreError
from audit.store_proofs import Anchored, ProofStore
from gateway.anchors.anchor import Anchor, AnchorConflictError, AnchorFailedError, compare
from gateway.anchors.folder import FolderAnchor
from gateway.anchors.timestamp import Append, TimestampAnchor
from gateway.model import Clock

log = logging.getLogger("gateway.ledger")

LEASE: Final = "anchors"
_SECONDS: Final = 300.0
_LONGEST_PAUSE: Final = 600.0


@dataclass(frozen=True, slots=True)
class Post:
    """An anchor, and how often it takes a checkpoint at most."""

    anchor: Anchor
    seconds: float


class Anchoring:
    """The log's anchors, by name."""

    def __init__(self, store: ProofStore, own: Vkey, posts: Mapping[str, Post], clock: Clock) -> None:
        self._store = store
        self._own = own
        self._posts = posts
        self._clock = clock
        self.anchored: Mapping[str, Anchored] = {}
        self.faults: dict[str, str] = {}
        """By anchor, why it did not take the newest checkpoint; for the operator."""

    @property
    def names(self) -> list[str]:
        """Of the anchors, in order."""
        return sorted(self._posts)

    def recording(self, append: Append) -> None:
        """From now on each time stamp is a record of the log: what stands before it was there then, what stands after was not."""
        for post in self._posts.values():
            if isinstance(post.anchor, TimestampAnchor):
                post.anchor.append = append

    def check_before_start(self) -> None:
        """`LedgerUnavailableError` where a folder holds more than the log, signed by its own key: it was set back or rewritten.

        Blocks, shortly.  A folder that cannot be read, or holds what our key did not sign, keeps nobody from starting.
        """
        for name, post in self._posts.items():
            try:
                found = post.anchor.newest() if isinstance(post.anchor, FolderAnchor) else None
                notes.verify(found or "", self._own)
            except (AnchorFailedError, CheckpointError):
                continue
            note = self._store.newest() if self._store.exists() else None  # later: another replica may push meanwhile
            head = notes.Checkpoint(self._own.name, 0, b"") if note is None else notes.verify(note, self._own)
            try:
                compare(found or "", self._own, head)
            except AnchorConflictError as error:
                raise LedgerUnavailableError(f"the anchor {name} {error}") from None

    async def run(self) -> None:
        """Push, again and again, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for name, post in self._posts.items():
                tasks.create_task(self._keep(name, post))

    async def _keep(self, name: str, post: Post) -> None:
        failures = 0
        while True:
            failures = 0 if await self.once(name) else failures + 1
            pause = post.seconds if not failures else min(post.seconds * 2 ** min(failures, 4), _LONGEST_PAUSE)
            await asyncio.sleep(max(pause, min(post.seconds, 1.0)))

    async def once(self, name: str) -> bool:
        """Push the newest checkpoint to one anchor, unless it has it.  Of replicas, one does; False where it failed."""
        before = self.faults.get(name, "")
        fault = ""
        try:
            async with asyncio.timeout(_SECONDS):
                await self._push(name)
        except TimeoutError:
            fault = "does not take it in time"
        except AnchorConflictError as error:
            fault = str(error)
            if fault != before:
                log.critical("THE LEDGER AND AN ANCHOR DISAGREE: %s %s", name, error)
        except (AnchorFailedError, StoreError, CheckpointError) as error:
            fault = str(error)
            if fault != before:
                log.error("an anchor does not take checkpoints: %s: %s", name, error)
        if fault:
            self.faults[name] = fault
        else:
            self.faults.pop(name, None)
        return not fault

    async def _push(self, name: str) -> None:
        self.anchored = await self._held()
        if not await asyncio.to_thread(self._store.lease, LEASE):
            return
        note = await asyncio.to_thread(self._store.newest)
        if note is None:
            return
        head = notes.verify(note, self._own)
        if name in self.anchored and self.anchored[name].size == head.size and name not in self.faults:
            return
        try:
            await self._posts[name].anchor.put(head, note)
        except AnchorConflictError:
            newer = await asyncio.to_thread(self._store.newest)
            if newer is None or notes.verify(newer, self._own).size == head.size:
                raise
            head = notes.verify(newer, self._own)  # another replica pushed meanwhile what is newer than what we had read
            await self._posts[name].anchor.put(head, newer)
        await asyncio.to_thread(self._store.anchor, name, head.size, self._clock())
        self.anchored = await self._held()

    async def _held(self) -> Mapping[str, Anchored]:
        """How far each anchor has come; forwarders keep their places in the same table."""
        found = await asyncio.to_thread(self._store.anchored)
        return {name: held for name, held in found.items() if ":" not in name}
