"""Who outside a log remembers it or gets its records: witnesses, anchors, forwarders.  A call waits for none of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from audit.checkpoint import Vkey
from audit.cosignature import WitnessKey
from audit.store_proofs import ProofStore
from gateway import signals
from gateway.anchors.anchoring import Anchoring
from gateway.forwarding.forwarding import Forwarding
from gateway.model import Clock
from gateway.prometheus import Family, Sample
from gateway.settings import Settings
from gateway.upstream.client import Upstreams, Url
from gateway.witnessing import Place, Witnessing

log = logging.getLogger("gateway.ledger")


@dataclass(frozen=True, slots=True)
class Outside:
    """Of one log."""

    witnessing: Witnessing
    anchoring: Anchoring
    forwarding: Forwarding

    def begin(self, settings: Settings, stack: AsyncExitStack) -> None:
        """From now on they are told; the log is there."""
        if settings.ledger.witnesses:
            beside(self.witnessing.run(), "witnesses", stack)
        if settings.ledger.anchors:
            beside(self.anchoring.run(), "anchors", stack)
        if self.forwarding.posts:
            beside(self.forwarding.run(), "forwarders", stack)

    @property
    def said(self) -> str:
        """Who remembers the log."""
        anchored = sorted(self.anchoring.anchored.items())
        return "; ".join([str(self.witnessing.witnessed), *(f"{name} has {held.size} records" for name, held in anchored)])

    @property
    def wrong(self) -> dict[str, str]:
        """By part, what is wrong with that."""
        found = {
            "witnesses": "; ".join(self.witnessing.faults.values()),
            "anchors": "; ".join(f"{name} {why}" for name, why in sorted(self.anchoring.faults.items())),
            "forwarders": "; ".join(f"{name}: {why}" for name, why in self.forwarding.faults.items()),
        }
        return {part: why for part, why in found.items() if why}

    def families(self) -> Iterator[Family]:
        """What can be scraped of it.  Labels come from closed lists."""
        said, disagreeing = self.witnessing.witnessed, self.witnessing.conflicts
        counts = {"asked": said.asked, "wanted": said.quorum, "cosigned": len(said.last), "disagree": disagreeing}
        samples = [Sample({"what": what}, count) for what, count in counts.items()]
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


async def check_before_start(witnessing: Witnessing, anchoring: Anchoring) -> None:
    """`LedgerUnavailableError` where they remember more than is in the log, or something else; else what the store raises."""
    await witnessing.check_before_start()
    await asyncio.to_thread(anchoring.check_before_start)


def witnessing_of(settings: Settings, own: Vkey, proofs: ProofStore, upstreams: Upstreams, clock: Clock) -> Witnessing:
    """The witnesses that the settings name."""
    ledger = settings.ledger
    places = [
        Place(Url.parse(f"{str(each.url).rstrip('/')}/add-checkpoint", allow_private=True), WitnessKey.parse(each.key))
        for each in ledger.witnesses
    ]
    return Witnessing(proofs, own, places, ledger.wanted, ledger.witness_seconds, upstreams.send, clock)


def by_log(parts: Iterable[tuple[str, Iterable[Family]]]) -> Iterator[Family]:
    """The same of several logs, each sample with its log's name; "" leaves it as it is."""
    found: dict[str, Family] = {}
    for name, families in parts:
        label: Mapping[str, str] = {"log": name} if name else {}
        for family in families:
            samples = [replace(sample, labels={**sample.labels, **label}) for sample in family.samples]
            before = found[family.name].samples if family.name in found else ()
            found[family.name] = replace(family, samples=[*before, *samples])
    yield from found.values()


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
