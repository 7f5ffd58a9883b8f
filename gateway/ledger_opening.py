"""The ledger as the gateway uses it: the journal, and what proves it to others.  A call waits for the journal alone."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from audit.checkpoint import Vkey
from audit.journal import Journal
from audit.kept import Kept
from audit.model import Entry, LedgerUnavailableError, Receipt, TamperedError
from audit.store import StoreError
from audit.store_proofs import ProofStore
from audit.waiting import Health
from gateway import signals
from gateway.anchors.opening import anchors_of
from gateway.anchors.root import RootLog
from gateway.forwarding.opening import forwarders_of
from gateway.identity.keyfiles import ledger_key
from gateway.ledger_tiles import Served, TileSource
from gateway.model import Clock
from gateway.outside import Outside, by_log, check_before_start, witnessing_of
from gateway.prometheus import Family, Sample
from gateway.record import Vouch
from gateway.settings import Settings
from gateway.spool_routes import limits_of
from gateway.stores import LOG, ROOT, ledger_url_of, signed_head_of
from gateway.upstream.client import Upstreams

log = logging.getLogger("gateway.ledger")


class Shred(Protocol):
    """Destroys a person's key, on record: `Journal.shred`."""

    async def __call__(self, subject: str, *, request: str, approver: str) -> Receipt:
        """See `Journal.shred`."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What the gateway has of its ledger."""

    journal: Journal
    served: Mapping[str, Served]
    outside: Outside
    vouch: Vouch | None
    """Makes callers' receipts; None where they get none."""
    root: Outside | None = None
    """Of the root log over it, where there is one."""

    @property
    def sound(self) -> bool:
        """Whether records can be written."""
        return bool(self.journal.healthy)

    def shredder(self, _tenant: str) -> Shred:
        """What destroys a person's key."""
        return self.journal.shred

    def remembered(self) -> tuple[str, Mapping[str, str]]:
        """Who outside remembers the log; and, by part, what is wrong with that.  Of the root log, which counts what tenants do,
        no size.
        """
        said, wrong = self.outside.said, self.outside.wrong
        if self.root is not None:
            said += f"; the root log is {'witnessed' if self.root.witnessing.witnessed.size else 'unwitnessed'}"
            for part, why in self.root.wrong.items():
                wrong[part] = "; ".join(filter(None, (wrong.get(part), f"of the root log: {why}")))
        health = self.journal.healthy
        return said, wrong | ({"ledger": health.reason} if health.spooling else {})

    def families(self) -> Iterator[Family]:
        """What can be scraped of it, and of the root log."""
        return self.alone() if self.root is None else by_log([("", self.alone()), (ROOT, self.root.families())])

    def alone(self) -> Iterator[Family]:
        """What can be scraped of it."""
        kept = [Sample({}, self.journal.spooled)]
        yield Family(signals.LEDGER_SPOOLED, "gauge", "Records in the spool, which are not in the ledger yet.", kept)
        yield from self.outside.families()


class Way(Protocol):
    """What records go into: a journal, or several of which each record finds its own."""

    async def append(self, entry: Entry) -> Receipt:
        """See `Journal.append`."""

    def submit(self, entry: Entry) -> Kept:
        """See `Journal.submit`."""

    def vouch(self, receipt: Receipt) -> Mapping[str, object]:
        """See `Journal.vouch`."""

    def checkpoint(self) -> str | None:
        """The newest of the gateway's own log."""

    @property
    def healthy(self) -> Health:
        """Whether the gateway's own log can be written."""

    @property
    def queued(self) -> int:
        """How many records wait for their commit."""


class Ledgers(Protocol):
    """What the gateway has of its ledger, whether it is one log or several."""

    @property
    def journal(self) -> Way:
        """The way in."""

    @property
    def served(self) -> Mapping[str, Served]:
        """The logs that are open, by name."""

    @property
    def vouch(self) -> Vouch | None:
        """Makes callers' receipts."""

    @property
    def sound(self) -> bool:
        """Whether every log can be written."""

    def shredder(self, tenant: str) -> Shred:
        """What destroys a person's key in one log; "" is the gateway's own."""

    def remembered(self) -> tuple[str, Mapping[str, str]]:
        """See `Opened`."""

    def families(self) -> Iterator[Family]:
        """See `Opened`."""


@dataclass(frozen=True, slots=True)
class Means:
    """What logs are opened with.  root: the log over them, where there is one."""

    environ: Mapping[str, str]
    clock: Clock
    seal: bytes
    upstreams: Upstreams
    root: RootLog | None


async def opened_one(settings: Settings, means: Means, stack: AsyncExitStack) -> Opened:
    """Open one log; `stack` closes it.  Witnesses are asked first whether they remember more than is in it."""
    environ, clock, upstreams = means.environ, means.clock, means.upstreams
    url, key = ledger_url_of(settings), ledger_key(settings.data, settings.ledger.key, environ)
    try:
        proofs = ProofStore(url)
        stack.push_async_callback(asyncio.to_thread, proofs.close)
        own = Vkey.of(settings.ledger.origin, key)
        witnessing = witnessing_of(settings, own, proofs, upstreams, clock)
        anchoring = anchors_of(settings, environ, own, proofs, upstreams, clock, means.root)
        await check_before_start(witnessing, anchoring)
    except (StoreError, TamperedError, ValueError) as error:
        raise LedgerUnavailableError(str(error)) from error
    name = settings.ledger.name
    journal = await Journal.open(
        url=url,
        origin=settings.ledger.origin,
        signing_key=key,
        seal_key=means.seal,
        writer=f"{socket.gethostname()}:{settings.server.port}".encode("ascii", "replace").decode()[-64:],
        clock=clock,
        queue=settings.ledger.queue,
        kept=signed_head_of(settings),
        spool=limits_of(settings),
        alarm=partial(_alarm, f"the ledger of {name}" if name else "the ledger"),
    )
    stack.push_async_callback(journal.close)
    anchoring.recording(journal.append)

    def checkpoint() -> str | None:
        """The newest that enough witnesses cosigned, where they are asked; else the newest that is signed."""
        return witnessing.witnessed.note or journal.checkpoint()

    served = Served(TileSource(url), checkpoint)
    stack.push_async_callback(asyncio.to_thread, served.source.close)
    if settings.ledger.witnesses:
        log.info("the ledger is %s; key %s", witnessing.witnessed, journal.vkey)
    else:
        log.warning("the ledger is unwitnessed: keep its checkpoints elsewhere (GET /api/checkpoint); key %s", journal.vkey)
    forwarding = forwarders_of(settings, environ, url, proofs, upstreams.send, journal.append, clock)
    outside = Outside(witnessing, anchoring, forwarding)
    outside.begin(settings, stack)
    vouch = journal.vouch if settings.ledger.receipts else None
    return Opened(journal, {name or LOG: served}, outside, vouch)


def _alarm(what: str, reason: str) -> None:
    if reason:
        log.critical("%s cannot be written, and so nothing is sent unless a spool may keep it: %s", what, reason)
    else:
        log.warning("%s is written again", what)
