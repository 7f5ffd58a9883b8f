"""Hands every record on to whoever is to have a copy, beside the calls, each receiver at its own pace and from its own place.

Nothing is dropped in silence: what a receiver will not take, and what was retired before it was handed on, is a `forward.gap` in
the ledger.  Where each has come to stands in the ledger's database; of replicas, one forwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from audit.leaf import Kind
from audit.model import Entry, LedgerUnavailableError, Receipt, TamperedError
from audit.reader import Ledger, Record
from audit.store import StoreError
from audit.store_proofs import ProofStore
from gateway.forwarding.receiver import NotTakenError, Receiver, RefusedError
from gateway.model import Clock, new_id

log = logging.getLogger("gateway.forwarding")

LEASE: Final = "forwarders"
PLACE: Final = "forward:"
"""Before a forwarder's name, in the table of places."""
_LONGEST_PAUSE: Final = 300.0
_SECONDS: Final = 120.0
_BYTES: Final = 4 * 1024 * 1024
_ENOUGH: Final = 8
"""Tries of a batch that is refused, before its records are tried one by one."""


@dataclass(slots=True)
class Post:
    """A receiver, and how it is served.

    lag  of records, when it was looked last.
    """

    receiver: Receiver
    batch: int
    seconds: float
    from_first: bool
    fault: str = ""
    at: int = -1
    lag: int = 0
    dropped: int = 0
    held: int = field(default=-1, repr=False)


class Forwarding:
    """All forwarders, by name."""

    def __init__(
        self, url: str, store: ProofStore, posts: Mapping[str, Post], append: Callable[[Entry], Awaitable[Receipt]], clock: Clock
    ) -> None:
        self._url = url
        self._store = store
        self.posts = dict(posts)
        self._append = append
        self._clock = clock

    @property
    def faults(self) -> dict[str, str]:
        """By forwarder, why it does not get on."""
        return {name: post.fault for name, post in sorted(self.posts.items()) if post.fault}

    async def run(self) -> None:
        """Forward, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for name, post in self.posts.items():
                    tasks.create_task(self._keep(name, post))
        finally:
            for post in self.posts.values():
                await post.receiver.close()

    async def _keep(self, name: str, post: Post) -> None:
        failures = 0
        while True:
            more = False
            try:
                async with asyncio.timeout(_SECONDS):
                    more = await self.once(name)
                failures, fault = 0, ""
            except TimeoutError:
                fault = "does not take records in time"
            except (NotTakenError, StoreError, TamperedError, LedgerUnavailableError) as error:
                fault = str(error)
            if fault:
                failures += 1
                post.at = -1  # from the durable place again
                if fault != post.fault:
                    log.error("records are not forwarded to %s: %s", name, fault)
            post.fault = fault
            pause = 0.0 if more else post.seconds
            await asyncio.sleep(pause if not failures else min(post.seconds * 2 ** min(failures, 9), _LONGEST_PAUSE))

    async def once(self, name: str) -> bool:
        """Hand on one batch; whether there is more.  `NotTakenError` and what the ledger raises."""
        post = self.posts[name]
        if not await asyncio.to_thread(self._store.lease, LEASE):
            return False
        if post.at < 0:
            post.at = post.held = await self._place(name, post)
        origin, first, size, records = await asyncio.to_thread(self._read, post)
        post.lag = size - post.at
        if post.at < first:
            await self._gap(name, post.at, first, "retired before it was forwarded")
        elif post.at > size:
            await self._gap(name, size, post.at, "the log was set back")
        if not first <= post.at <= size:
            post.at = first if post.at < first else size
            await self._keep_place(name, post, post.at)
            return True
        if not records:
            return False
        try:
            await post.receiver.take(origin, records)
        except RefusedError as error:
            await self._alone(name, post, origin, records, error)
        post.at = records[-1].index + 1
        post.lag = size - post.at
        await self._keep_place(name, post, post.at)
        return post.lag > 0

    async def _alone(self, name: str, post: Post, origin: str, records: list[Record], refusal: RefusedError) -> None:
        """Records that were refused together, one by one; what is refused alone is dropped, on record."""
        if all(record.kind == Kind.FORWARD_GAP for record in records):  # no gap about gaps: that would never end
            post.dropped += len(records)
            return
        if refusal.some is not None or len(records) == 1:
            await self._gap(name, records[0].index, records[-1].index + 1, str(refusal), refusal.some)
            post.dropped += refusal.some or 1
            return
        for record in records:
            try:
                await post.receiver.take(origin, [record])
            except RefusedError as error:
                post.dropped += 1
                if record.kind != Kind.FORWARD_GAP:
                    await self._gap(name, record.index, record.index + 1, str(error))

    def _read(self, post: Post) -> tuple[str, int, int, list[Record]]:
        with Ledger.open(self._url) as ledger:
            first, size = ledger.first, ledger.size
            found: list[Record] = []
            weight = 0
            for record in islice(ledger.records(post.at, size), post.batch) if first <= post.at <= size else ():
                weight += len(record.data)
                if found and weight > _BYTES:
                    break
                found.append(record)
            return ledger.origin, first, size, found

    async def _place(self, name: str, post: Post) -> int:
        places = await asyncio.to_thread(self._store.anchored)
        held = places.get(PLACE + name)
        if held is not None:
            return held.size
        at = 0 if post.from_first else await asyncio.to_thread(self._size)
        await self._keep_place(name, post, at)
        return at

    def _size(self) -> int:
        with Ledger.open(self._url) as ledger:
            return ledger.size

    async def _keep_place(self, name: str, post: Post, at: int) -> None:
        if at != post.held:
            await asyncio.to_thread(self._store.anchor, PLACE + name, at, self._clock())
            post.held = at

    async def _gap(self, name: str, first: int, stop: int, why: str, some: int | None = None) -> None:
        """That records were not handed on, durable before the forwarder goes on."""
        at = self._clock()
        fields: dict[str, object] = {"forwarder": name, "first": first, "stop": stop, "reason": why[:256]}
        if some is not None:
            fields["records"] = some
        await self._append(Entry(Kind.FORWARD_GAP, new_id(at), at, None, fields))
        log.error("records %d to %d were not forwarded to %s: %s", first, stop, name, why)
