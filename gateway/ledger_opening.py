"""The ledger as the gateway uses it: the journal, and what proves it to others.  A call waits for the journal alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from audit.checkpoint import Vkey
from audit.cosignature import WitnessKey
from audit.journal import Journal
from audit.model import LedgerUnavailableError, TamperedError
from audit.store import StoreError
from audit.store_proofs import ProofStore
from gateway import signals
from gateway.anchors.anchoring import Anchoring
from gateway.anchors.opening import anchors_of
from gateway.forwarding.forwarding import Forwarding
from gateway.forwarding.opening import forwarders_of
from gateway.identity.keyfiles import ledger_key
from gateway.ledger_tiles import LOG, ROOT, Served, TileSource
from gateway.model import Clock
from gateway.prometheus import Family, Sample
from gateway.record import Vouch
from gateway.settings import Settings
from gateway.spool_routes import limits_of
from gateway.stores import ledger_url_of, signed_head_of
from gateway.upstream.client import Upstreams, Url
from gateway.witnessing import Place, Witnessing

log = logging.getLogger("gateway.ledger")


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


async def opened(  # noqa: PLR0917  the parts that it is made of
    settings: Settings, environ: Mapping[str, str], clock: Clock, seal: bytes, stack: AsyncExitStack, upstreams: Upstreams
) -> Opened:
    """Open it; `stack` closes it.  Before anything is signed, witnesses are asked whether they remember more than is here."""
    url, key = ledger_url_of(settings), ledger_key(settings.data, settings.ledger.key, environ)
    try:
        proofs = ProofStore(url)
        stack.push_async_callback(asyncio.to_thread, proofs.close)
        own = Vkey.of(settings.ledger.origin, key)
        witnessing = _witnessing(settings, own, proofs, upstreams, clock)
        anchoring = anchors_of(settings, environ, own, proofs, upstreams, clock)
        await witnessing.check_before_start()
        await asyncio.to_thread(anchoring.check_before_start)
    except (StoreError, TamperedError, ValueError) as error:
        raise LedgerUnavailableError(str(error)) from error
    journal = await Journal.open(
        url=url,
        origin=settings.ledger.origin,
        signing_key=key,
        seal_key=seal,
        writer=f"{socket.gethostname()}:{settings.server.port}".encode("ascii", "replace").decode()[-64:],
        clock=clock,
        queue=settings.ledger.queue,
        kept=signed_head_of(settings),
        spool=limits_of(settings),
        alarm=_alarm,
    )
    stack.push_async_callback(journal.close)
    anchoring.recording(journal.append)

    def checkpoint() -> str | None:
        """The newest that enough witnesses cosigned, where they are asked; else the newest that is signed."""
        return witnessing.witnessed.note or journal.checkpoint()

    served = {LOG: Served(TileSource(url), checkpoint)}
    for anchor in settings.ledger.anchors.values():
        if anchor.root is not None:
            served[ROOT] = Served(TileSource(anchor.root.url))
    for each in served.values():
        stack.push_async_callback(asyncio.to_thread, each.source.close)
    if settings.ledger.witnesses:
        log.info("the ledger is %s; key %s", witnessing.witnessed, journal.vkey)
        _beside(witnessing.run(), "witnesses", stack)
    else:
        log.warning("the ledger is unwitnessed: keep its checkpoints elsewhere (GET /api/checkpoint); key %s", journal.vkey)
    if settings.ledger.anchors:
        _beside(anchoring.run(), "anchors", stack)
    forwarding = forwarders_of(settings, environ, url, proofs, upstreams.send, journal.append, clock)
    if forwarding.posts:
        _beside(forwarding.run(), "forwarders", stack)
    return Opened(journal, served, witnessing, anchoring, forwarding, journal.vouch if settings.ledger.receipts else None)


def _alarm(reason: str) -> None:
    if reason:
        log.critical("the ledger cannot be written, and so nothing is sent unless a spool may keep it: %s", reason)
    else:
        log.warning("the ledger is written again")


def _witnessing(settings: Settings, own: Vkey, proofs: ProofStore, upstreams: Upstreams, clock: Clock) -> Witnessing:
    ledger = settings.ledger
    places = [
        Place(Url.parse(f"{str(each.url).rstrip('/')}/add-checkpoint", allow_private=True), WitnessKey.parse(each.key))
        for each in ledger.witnesses
    ]
    return Witnessing(proofs, own, places, ledger.wanted, ledger.witness_seconds, upstreams.send, clock)


def _beside(work: Coroutine[object, object, None], name: str, stack: AsyncExitStack) -> None:
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
