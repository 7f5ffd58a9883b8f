"""Everything about policy, opened and closed as one: what the composition root needs of it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gateway import exemptions
from gateway.model import random16
from gateway.policy.activation import ACTIVE, Activation, Place
from gateway.policy.archive import Archive
from gateway.policy.checks import Checks
from gateway.policy.notify import Notices
from gateway.policy.shadowing import Shadowing
from gateway.policy.watcher import Watcher

if TYPE_CHECKING:
    from gateway.model import Clock
    from gateway.policy.in_force import InForce
    from gateway.policy.records import Append
    from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Opened:
    """What is in force, what may change it, what is asked beside, and who looks."""

    in_force: InForce
    activation: Activation
    shadowing: Shadowing
    watcher: Watcher


async def prepared(settings: Settings, clock: Clock) -> Activation:
    """The bundles, read and checked; nothing is kept or recorded yet.  ProblemError where one may not decide."""
    chosen = settings.policy
    places = [Place(ACTIVE, settings.policies)]
    if chosen.canary is not None:
        places.append(Place("canary", chosen.canary.folder))
    if chosen.shadow is not None:
        places.append(Place("shadow", chosen.shadow))
    activation = Activation(
        places=tuple(places),
        percent=chosen.canary.percent if chosen.canary is not None else 0,
        checks=Checks.of(chosen.trust, require_tests=chosen.require_tests),
        archive=Archive(settings.data / "bundles"),
        clock=clock,
        pause=chosen.settle_seconds,
    )
    await activation.prepare()
    return activation


async def opened(activation: Activation, settings: Settings, append: Append, state_url: str, stack: AsyncExitStack) -> Opened:
    """In force, recorded, and watched from now on; `stack` closes it.  What settings exempt from it is recorded as well."""
    in_force = await activation.begin(append)
    await exemptions.record(settings, append, activation.clock)
    shadowing = Shadowing()
    stack.callback(shadowing.close)
    watcher = Watcher(activation, settings.policy.watch_seconds)
    stack.push_async_callback(watcher.aclose)
    watcher.start()
    if Notices.possible(state_url):
        notices = Notices(state_url, random16().hex(), partial(watcher.wake, "replica"))
        stack.push_async_callback(notices.aclose)
        activation.announce = notices.say
        notices.start()
    return Opened(in_force, activation, shadowing, watcher)
