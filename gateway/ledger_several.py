"""The ledger as several logs: one for each tenant, and the gateway's own for what belongs to none.

A log is opened at the start where there is one already, since calls that a dead gateway left open have to be closed in it; else
with its tenant's first record.  One that cannot be opened or written stops its own tenant, and nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from audit.journal import Journal
from audit.kept import Kept
from audit.model import Entry, LedgerUnavailableError, Receipt
from audit.several import exists
from audit.store import StoreError
from audit.waiting import Health
from gateway.anchors.opening import root_of
from gateway.ledger_opening import Ledgers, Means, Opened, Shred, opened_one
from gateway.ledger_tiles import Served, TileSource
from gateway.model import Clock
from gateway.outside import Outside, by_log
from gateway.problem import ProblemError
from gateway.prometheus import Family
from gateway.record import Vouch
from gateway.root_opening import opened_root
from gateway.settings import Settings
from gateway.stores import LOG, ROOT, ledger_url_of, of_log, several
from gateway.upstream.client import Upstreams

log = logging.getLogger("gateway.ledger")

_AGAIN_SECONDS: Final = 5.0
"""After so long a log that could not be opened is tried again."""


Opening = Callable[[Settings, AsyncExitStack], Awaitable[Opened]]


async def opened(  # noqa: PLR0917  the parts that it is made of
    settings: Settings, environ: Mapping[str, str], clock: Clock, seal: bytes, stack: AsyncExitStack, upstreams: Upstreams
) -> Ledgers:
    """Open the ledger; `stack` closes it.  `LedgerUnavailableError` where the gateway's own log cannot be opened."""
    try:
        own = of_log(settings, LOG)
    except ValueError as error:
        raise LedgerUnavailableError(str(error)) from error
    root = root_of(own, environ, clock)
    over: Outside | None = None
    if root is not None:
        stack.push_async_callback(root.close)
        over = await opened_root(of_log(settings, ROOT), environ, clock, upstreams, root, stack)
    means = Means(environ, clock, seal, upstreams, root)
    first = replace(await opened_one(own, means, stack), root=over)
    served = dict(first.served)
    if root is not None and over is not None:
        witnessing = over.witnessing
        served[ROOT] = Served(TileSource(root.url), lambda: witnessing.witnessed.note)
        stack.push_async_callback(asyncio.to_thread, served[ROOT].source.close)
    if not several(settings):
        return replace(first, served=served)
    later = AsyncExitStack()  # a log that is opened later is closed here all the same: after whatever still records something
    stack.push_async_callback(later.aclose)
    ways = Ways(settings, first, served, lambda each, trying: opened_one(each, means, trying), later)
    stack.push_async_callback(ways.settle)
    await ways.begin()
    return Several(ways)


class Ways:
    """The way into each log, by tenant: a `gateway.ledger_opening.Way`.  Used in the event loop that opened them.

    A tenant is one that the settings name: no log is ever made for another word.  What is left of a tenant whom they name no
    more (an approval that runs out) is recorded in the gateway's own.
    """

    def __init__(
        self, settings: Settings, own: Opened, served: dict[str, Served], opening: Opening, stack: AsyncExitStack
    ) -> None:
        self.own = own
        self.served = served
        self.opened: dict[str, Opened] = {}
        self.failed: dict[str, tuple[float, str]] = {}
        """By tenant, until when its log is not tried again, and why it could not be opened."""
        self._settings = settings
        self._tenants = settings.every_tenant
        self._opening = opening
        self._stack = stack
        self._ways: dict[str, Journal] = {"": own.journal}
        self._origins = {settings.ledger.origin: own.journal}
        self._tasks: dict[str, asyncio.Task[Journal]] = {}
        self._late: set[asyncio.Task[None]] = set()
        self._closed = False

    async def append(self, entry: Entry) -> Receipt:
        """See `Journal.append`."""
        return await (self._ways.get(entry.tenant) or await self._way(entry.tenant)).append(entry)

    def submit(self, entry: Entry) -> Kept:
        """See `Journal.submit`."""
        way = self._ways.get(entry.tenant)
        if way is not None:
            return way.submit(entry)
        kept = Kept(loop=asyncio.get_running_loop())
        task = asyncio.create_task(self._submit(entry, kept))
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return kept

    def vouch(self, receipt: Receipt) -> Mapping[str, object]:
        """See `Journal.vouch`."""
        return self._origins[receipt.log].vouch(receipt)

    def checkpoint(self) -> str | None:
        """The newest of the gateway's own log."""
        return self.own.journal.checkpoint()

    async def shred(self, tenant: str, subject: str, *, request: str, approver: str) -> Receipt:
        """See `Journal.shred`; "" is the gateway's own log."""
        return await (await self._way(tenant)).shred(subject, request=request, approver=approver)

    @property
    def healthy(self) -> Health:
        """Whether the gateway's own log can be written."""
        return self.own.journal.healthy

    @property
    def queued(self) -> int:
        """How many records wait for their commit, in all logs."""
        return sum(way.queued for way in self._ways.values())

    @property
    def unwritten(self) -> int:
        """How many tenants' logs cannot be written now."""
        return len(self.failed) + sum(not each.journal.healthy for each in self.opened.values())

    async def begin(self) -> None:
        """Open every log that is there.  One that cannot be is said aloud, and tried again when it is needed."""
        for tenant in sorted(self._tenants):
            try:
                if await asyncio.to_thread(exists, ledger_url_of(of_log(self._settings, tenant))):
                    await self._way(tenant)
            except StoreError as error:
                log.critical("the ledger of %s cannot be looked for: %s", tenant, error)
            except LedgerUnavailableError:
                continue  # said already

    async def settle(self) -> None:
        """Nothing is opened any more; what was submitted before its log was open is on its way."""
        self._closed = True
        await asyncio.gather(*self._late, *self._tasks.values(), return_exceptions=True)

    async def _submit(self, entry: Entry, kept: Kept) -> None:
        try:
            kept.set_result(await (await self._way(entry.tenant)).submit(entry))
        except (LedgerUnavailableError, LookupError, ValueError) as error:
            kept.set_exception(error)

    async def _way(self, tenant: str) -> Journal:
        way = self._ways.get(tenant)
        if way is not None or tenant not in self._tenants:
            return way or self.own.journal
        task = self._tasks.get(tenant)
        if task is None:
            until, why = self.failed.get(tenant, (0.0, ""))
            if self._closed or asyncio.get_running_loop().time() < until:
                raise LedgerUnavailableError(why or "closed")
            task = self._tasks[tenant] = asyncio.create_task(self._begin(tenant), name="ledger-opening")
            task.add_done_callback(lambda done: self._begun(tenant, done))
        return await asyncio.shield(task)  # whoever waits may leave: a log is opened whole, or not at all

    def _begun(self, tenant: str, task: asyncio.Task[Journal]) -> None:
        del self._tasks[tenant]
        if not task.cancelled():
            task.exception()  # whoever waited for it was told

    async def _begin(self, tenant: str) -> Journal:
        view = of_log(self._settings, tenant)
        try:
            async with AsyncExitStack() as trying:
                made = await self._opening(view, trying)
                self._stack.push_async_callback(trying.pop_all().aclose)
        except (LedgerUnavailableError, ProblemError) as error:
            why = str(error)
            self.failed[tenant] = asyncio.get_running_loop().time() + _AGAIN_SECONDS, why
            log.critical("the ledger of %s cannot be opened, and so nothing of that tenant is sent: %s", tenant, why)
            raise LedgerUnavailableError(why) from error
        self.failed.pop(tenant, None)
        self.opened[tenant] = made
        self.served.update(made.served)
        self._origins[view.ledger.origin] = made.journal
        self._ways[tenant] = made.journal
        return made.journal


@dataclass(frozen=True, slots=True)
class Several:
    """What the gateway has of its ledger where that is several logs: a `gateway.ledger_opening.Ledgers`."""

    journal: Ways

    @property
    def served(self) -> Mapping[str, Served]:
        """The logs that are open, by name."""
        return self.journal.served

    @property
    def vouch(self) -> Vouch | None:
        """Makes callers' receipts; None where they get none."""
        return self.journal.vouch if self.journal.own.vouch is not None else None

    @property
    def sound(self) -> bool:
        """Whether every log can be written."""
        return self.journal.own.sound and not self.journal.unwritten

    def shredder(self, tenant: str) -> Shred:
        """What destroys a person's key in one log; "" is the gateway's own."""
        return partial(self.journal.shred, tenant)

    def remembered(self) -> tuple[str, Mapping[str, str]]:
        """See `Opened`.  Anybody may read it: of tenants' logs it says how many something is wrong with, and no name."""
        said, wrong = self.journal.own.remembered()
        found = dict(wrong)
        parts = [part for each in self.journal.opened.values() for part in each.remembered()[1]]
        parts += ["ledger"] * self.journal.unwritten
        for part in sorted(set(parts)):
            count = f"of {parts.count(part)} tenants' logs: the gateway's own log says more"
            found[part] = "; ".join(filter(None, (found.get(part), count)))
        return said, found

    def families(self) -> Iterator[Family]:
        """What can be scraped of them, by log."""
        root = self.journal.own.root
        parts = [(name, each.alone()) for name, each in ((LOG, self.journal.own), *sorted(self.journal.opened.items()))]
        yield from by_log(parts if root is None else [*parts, (ROOT, root.families())])
