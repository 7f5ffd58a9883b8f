"""What of policy can be scraped: how often it was read again, whether it is stale, which rules would flip what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateway import signals
from gateway.prometheus import Family, Sample

if TYPE_CHECKING:
    from gateway.policy.activation import Activation
    from gateway.policy.shadowing import Shadowing


def families(activation: Activation, shadowing: Shadowing) -> Iterator[Family]:
    """Labels come from closed lists and from the rules' ids of bundles that were in force; no caller can make one."""
    policy = activation.policy
    reloads = [
        Sample({"role": role, "result": result.value}, count) for (role, result), count in sorted(activation.counts.items())
    ]
    yield Family(signals.RELOADS, "counter", "Looks at a folder of policy, by what came of them.", reloads)
    yield Family(signals.STALE, "gauge", "1 while a folder says something that was refused.", [Sample({}, int(activation.stale))])
    beside = [Sample({"role": r, "digest": p.digest}, 1) for r, p in (("canary", policy.canary), ("shadow", policy.shadow)) if p]
    yield Family(signals.BESIDE_INFO, "gauge", "Bundles beside the active one.", beside)
    flips = [
        Sample({"rule": rule, "direction": direction, "source": source}, count)
        for (rule, direction, source), count in sorted(shadowing.flips().items())
    ]
    yield Family(signals.WOULD_FLIP, "counter", "Decisions that a watched rule or bundle would have turned.", flips)
    if shadowing.compared or shadowing.dropped:
        compared = [Sample({"result": "compared"}, shadowing.compared), Sample({"result": "dropped"}, shadowing.dropped)]
        yield Family(signals.SHADOWED, "counter", "Decisions that were watched, and those given up in a hurry.", compared)
