"""The ledger as the gateway uses it: the journal, and what proves it to others.  A call waits for the journal alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from audit.checkpoint import Vkey
from audit.cosignature import WitnessKey
from audit.journal import Journal
from audit.kept import Kept
from audit.model import Entry, LedgerUnavailableError, Receipt, TamperedError
from audit.store import StoreError
from audit.store_proofs import ProofStore
from audit.waiting import Health
from gateway import signals
from gateway.anchors.anchoring import Anchoring
from gateway.anchors.opening import anchors_of
from gateway.anchors.root import RootLog
from gateway.forwarding.forwarding import Forwarding
from gateway.forwarding.opening import forwarders_of
from gateway.identity.keyfiles import ledger_key
from gateway.ledger_tiles import Served, TileSource
from gateway.model import Clock
from gateway.prometheus import Family, Sample
from gateway.record import Vouch
from gateway.settings import Settings
from gateway.spool_routes import limits_of
from gateway.stores import LOG, ledger_url_of, signed_head_of
from gateway.upstream.client import Upstreams, Url
from gateway.witnessing import Place, Witnessing

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
    witnessing: Witnessing
    anchoring: Anchoring
    forwarding: Forwarding
    vouch: Vouch | None
    """Makes callers' receipts; None where they get none."""

    @property
    def sound(self) -> bool:
        """Whether records can be written."""
        return bool(self.journal.healthy)

    def shredder(self, _tenant: str) -> Shred:
        """What destroys a person's key."""
        return self.journal.shred

    def remembered(self) -> tuple[str, Mapping[str, str]]:
        """Who outside remembers the log; and, by part, what is wrong with that."""
        said = [str(self.witnessing.witnessed)]
        said += [f"{name} has {held.size} records" for name, held in sorted(self.anchoring.anchored.items())]
        wrong = {
            "witnesses": "; ".join(self.witnessing.faults.values()),
            "anchors": "; ".join(f"{name} {why}" for name, why in sorted(self.anchoring.faults.items())),
            "forwarders": "; ".join(f"{name}: {why}" for name, why in self.forwarding.faults.items()),
        }
        health = self.journal.healthy
        wrong["ledger"] = health.reason if health.spooling else ""
        return "; ".join(said), {part: why for part, why in wrong.items() if why}

    def families(self) -> Iterator[Family]:
        """What can be scraped of it.  Labels come from closed lists."""
        said, disagreeing = self.witnessing.witnessed, self.witnessing.conflicts
        counts = {"asked": said.asked, "wanted": said.quorum, "cosigned": len(said.last), "disagree": disagreeing}
        samples = [Sample({"what": what}, count) for what, count in counts.items()]
        kept = [Sample({}, self.journal.spooled)]
        yield Family(signals.LEDGER_SPOOLED, "gauge", "Records in the spool, which are not in the ledger yet.", kept)
        yield Family(signals.LEDGER_WITNESSES, "gauge", "Witnesses of the ledger; one that disagrees is an alarm.", samples)
        size, at = [Sample({}, said.size)], [Sample({}, said.at)]
        yield Family(signals.LEDGER_WITNESSED_SIZE, "gauge", "Records that enough witnesses have cosigned; 0: unwitnessed.", size)
        yield Family(signals.LEDGER_WITNESSED_AT, "gauge", "When they did, by the last one's clock.", at)
        anchored = self.anchoring.anchored
        sizes = [Sample({"anchor": name}, held.size) for name, held in sorted(anchored.items())]
        times = [Sample({"anchor": name}, held.at // 1_000_000) for name, held in sorted(anchored.items())]
        failing = [Sample({"anchor": name}, int(name in self.anchoring.faults)) for name in self.anchoring.names]
        yield Family(signals.LEDGER_ANCHORED_SIZE, "gauge", "Records of the newest checkpoint that an anchor took.", sizes)
        yield Family(signals.LEDGER_ANCHORED_AT, "gauge", "When it took it.", times)
        yield Family(signals.LEDGER_ANCHOR_FAILING, "gauge", "1 while an anchor does not take checkpoints.", failing)
        posts = sorted(self.forwarding.posts.items())
        lags = [Sample({"forwarder": name}, post.lag) for name, post in posts]
        dropped = [Sample({"forwarder": name}, post.dropped) for name, post in posts]
        stuck = [Sample({"forwarder": name}, int(bool(post.fault))) for name, post in posts]
        yield Family(signals.LEDGER_FORWARD_LAG, "gauge", "Records that a forwarder has not handed on yet.", lags)
        yield Family(
            signals.LEDGER_FORWARD_DROPPED, "counter", "Records that a receiver refused; each gap is on record.", dropped
        )
        yield Family(signals.LEDGER_FORWARD_FAILING, "gauge", "1 while a forwarder does not get on.", stuck)


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
        witnessing = _witnessing(settings, own, proofs, upstreams, clock)
        anchoring = anchors_of(settings, environ, own, proofs, upstreams, clock, means.root)
        await witnessing.check_before_start()
        await asyncio.to_thread(anchoring.check_before_start)
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
        beside(witnessing.run(), "witnesses", stack)
    else:
        log.warning("the ledger is unwitnessed: keep its checkpoints elsewhere (GET /api/checkpoint); key %s", journal.vkey)
    if settings.ledger.anchors:
        beside(anchoring.run(), "anchors", stack)
    forwarding = forwarders_of(settings, environ, url, proofs, upstreams.send, journal.append, clock)
    if forwarding.posts:
        beside(forwarding.run(), "forwarders", stack)
    vouch = journal.vouch if settings.ledger.receipts else None
    return Opened(journal, {name or LOG: served}, witnessing, anchoring, forwarding, vouch)


def _alarm(what: str, reason: str) -> None:
    if reason:
        log.critical("%s cannot be written, and so nothing is sent unless a spool may keep it: %s", what, reason)
    else:
        log.warning("%s is written again", what)


def _witnessing(settings: Settings, own: Vkey, proofs: ProofStore, upstreams: Upstreams, clock: Clock) -> Witnessing:
    ledger = settings.ledger
    places = [
        Place(Url.parse(f"{str(each.url).rstrip('/')}/add-checkpoint", allow_private=True), WitnessKey.parse(each.key))
        for each in ledger.witnesses
    ]
    return Witnessing(proofs, own, places, ledger.wanted, ledger.witness_seconds, upstreams.send, clock)


def beside(work: Coroutine[object, object, None], name: str, stack: AsyncExitStack) -> None:
    """Run it beside the calls until the gateway ends.  Should it ever end by itself, that is said."""
    task = asyncio.create_task(work, name=name)

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the work on %s has ended", name, exc_info=error)

    async def end() -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])

    task.add_done_callback(ended)
    stack.push_async_callback(end)
