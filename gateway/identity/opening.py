"""Everything about who calls, opened and closed as one: what the composition root needs of it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gateway.identity.authenticate import Authenticator
from gateway.identity.delegation import Delegations, terms_of
from gateway.identity.keywatch import opened_keys
from gateway.identity.outbound import STRATEGIES, Ground, Outbound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.identity.signing import KeyRing
    from gateway.identity.transaction import Sent
    from gateway.model import Clock
    from gateway.policy.records import Append
    from gateway.settings import Settings
    from gateway.state.store import State
    from gateway.upstream.client import Upstreams


@dataclass(frozen=True, slots=True)
class Identity:
    """What authenticates, what signs, and what hands on."""

    authenticator: Authenticator
    ring: KeyRing
    delegations: Delegations
    outbound: Outbound


@dataclass(frozen=True, slots=True)
class Means:
    """What it is made with.  `seal` is the key from which those of each purpose are derived; `append` is the ledger's."""

    settings: Settings
    environ: Mapping[str, str]
    clock: Clock
    state: State
    upstreams: Upstreams
    sent: Mapping[str, Sent]
    """By protocol: what of a call an upstream's credential can be bound to."""
    seal: bytes
    stack: AsyncExitStack
    append: Append


async def opened(means: Means) -> Identity:
    """Open; `means.stack` closes it.  ProblemError for settings that could not be kept safely."""
    settings, stack = means.settings, means.stack
    ring, watch = await opened_keys(settings, means.environ, means.append, means.clock)
    stack.push_async_callback(watch.aclose)
    watch.start()
    delegation = settings.delegation
    delegations = Delegations(
        ring,
        settings.public_url,
        delegation.lifetime_seconds,
        delegation.max_depth,
        means.clock,
        terms=terms_of(settings.agents, delegation.bearer_lifetime_seconds),
    )
    authenticator = Authenticator(
        tenant=settings.tenant,
        public_url=settings.public_url,
        issuers=settings.issuers,
        agents=settings.agents,
        delegations=delegations,
        fetch=partial(means.upstreams.fetch, allow_private=True),  # the operator named the address; link-local stays refused
        clock=means.clock,
    )
    stack.push_async_callback(authenticator.close)
    return Identity(authenticator, ring, delegations, _outbound(means, ring))


def _outbound(means: Means, ring: KeyRing) -> Outbound:
    """What the gateway shows to upstreams; a strategy that needs more than `Ground` is made of it here."""
    ground = Ground(means.settings.public_url, ring, means.upstreams, means.environ, means.clock)
    return Outbound(means.settings, ground, means.sent, {**STRATEGIES})
