"""Everything about who calls, opened and closed as one: what the composition root needs of it."""

from __future__ import annotations

import hmac
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.identity.access import AccessTokens
from gateway.identity.agents import AgentCredentials
from gateway.identity.asking import asking
from gateway.identity.authenticate import Authenticator, Keep
from gateway.identity.clients import Clients
from gateway.identity.delegation import Delegations, terms_of
from gateway.identity.events import Receivers, receivers
from gateway.identity.exchange import Exchange, Parts
from gateway.identity.fetched import Fetched
from gateway.identity.hops import Hops
from gateway.identity.issuers import Ways, endpoints_of
from gateway.identity.keyfiles import resolve
from gateway.identity.keywatch import opened_keys
from gateway.identity.killed import Names
from gateway.identity.outbound import STRATEGIES, Ground, Outbound, exchanged
from gateway.identity.revocation import Kills
from gateway.identity.standing import Standing
from gateway.identity.subjects import Subjects
from gateway.identity.vaulting import STRATEGY as VAULT
from gateway.identity.vaulting import Vaulting
from gateway.identity.vaulting import opened as opened_vault
from gateway.state.kills import CHANNEL
from gateway.state.notices import Notices
from gateway.state.sealing import Sealer
from gateway.stores import state_url_of

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
    subjects: Subjects
    hops: Hops
    kills: Kills
    vaulting: Vaulting
    exchange: Exchange
    receivers: Receivers


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
    hops = _hops(means, delegations)
    kills = await _kills(means)
    vaulting = opened_vault(means, _derived(means, b"vault"), kills.alive)
    seal, wanted = _derived(means, b"subject tokens"), exchanged(settings)
    subjects = Subjects(means.state.subject_tokens, seal, means.clock, wanted)
    instances = _derived(means, b"callers' keys")
    authenticator = Authenticator(
        tenant=settings.tenant,
        public_url=settings.public_url,
        issuers=settings.issuers,
        agents=settings.agents,
        delegations=delegations,
        alive=kills.alive,
        access=_access(means),
        credentials=_credentials(means),
        hops=hops,
        keep=subjects.keep if wanted else None,
        once=means.state.once.use,
        fetch=partial(means.upstreams.fetch, allow_private=True),  # the operator named the address; link-local stays refused
        instances=lambda shown: hmac.digest(instances, shown.encode(), "sha256")[:16].hex(),
        clock=means.clock,
    )
    stack.push_async_callback(authenticator.close)
    outbound = _outbound(means, ring, vaulting, subjects)
    exchange = _exchange(means, authenticator, delegations, kills, subjects.keep if wanted else None)
    return Identity(
        authenticator,
        ring,
        delegations,
        outbound,
        subjects,
        hops,
        kills,
        vaulting,
        exchange,
        _receivers(means, authenticator.access),
    )


def _exchange(means: Means, authenticator: Authenticator, delegations: Delegations, kills: Kills, keep: Keep | None) -> Exchange:
    """What the token endpoint issues, and by which standing grants."""
    settings = means.settings
    standing = Standing(means.state.grants, settings.agents, authenticator.access.directories, means.clock)
    clients = Clients(authenticator.credentials, authenticator.proofs, means.clock)
    return Exchange(
        Parts(
            public_url=settings.public_url,
            agents=settings.agents,
            clients=clients,
            people=authenticator.access,
            delegations=delegations,
            standing=standing,
            alive=kills.alive,
            clock=means.clock,
            keep=keep,
            mutual_tls=settings.terminator is not None,
        )
    )


async def _kills(means: Means) -> Kills:
    """Who may act no more, read once and followed from now on."""
    settings, chosen, url = means.settings, means.settings.revocation, state_url_of(means.settings)
    kills = Kills(
        means.state.kills,
        means.append,
        names=Names.of(settings),
        issuers=[issuer.issuer for issuer in settings.issuers],
        poll_seconds=chosen.poll_seconds,
        stale_seconds=chosen.stale_seconds,
    )
    await kills.refresh()
    means.stack.push_async_callback(kills.close)
    kills.start()
    if Notices.possible(url):
        notices = Notices(url, CHANNEL, means.state.replica, kills.wake)
        means.stack.push_async_callback(notices.aclose)
        notices.start()
    return kills


def _receivers(means: Means, access: AccessTokens) -> Receivers:
    """The issuers whose security events are taken."""
    fetch = partial(means.upstreams.fetch, allow_private=True)  # as for issuers
    taken = receivers(means.settings.issuers, access, fetch, means.state.once, means.environ)
    means.stack.push_async_callback(taken.close)
    return taken


def _access(means: Means) -> AccessTokens:
    """People's tokens.  The operator named the issuers' addresses; link-local ones stay refused, and private ones where only an
    issuer's metadata names them."""
    settings, upstreams = means.settings, means.upstreams
    ways = Ways(
        fetch=partial(upstreams.fetch, allow_private=True),
        ask=asking(upstreams, private=True),
        fetch_named=upstreams.fetch,
        ask_named=asking(upstreams, private=False),
        environ=means.environ,
        endpoints=endpoints_of(settings.public_url),
    )
    return AccessTokens(settings.issuers, settings.agents, tenant=settings.tenant, ways=ways)


def _credentials(means: Means) -> AgentCredentials:
    """How agents prove themselves."""
    settings, terminator = means.settings, means.settings.terminator
    secret = terminator.secret if terminator is not None else None
    return AgentCredentials(
        settings.agents,
        settings.public_url,
        partial(means.upstreams.fetch, allow_private=True),  # as for issuers
        once=means.state.once.use,
        terminator=terminator,
        terminator_secret=None if secret is None else resolve(secret, means.environ, "terminator.secret"),
        direct=settings.a2a.knows_certificates,
        trust_domains=settings.trust_domains,
    )


def _hops(means: Means, delegations: Delegations) -> Hops:
    """What is handed to agents that show no token."""
    seal, key = Sealer(_derived(means, b"handed hops"), "handed hop"), _derived(means, b"handed traces")
    return Hops(means.state.hops, delegations, seal, key, means.settings.agents, means.clock)


def _derived(means: Means, purpose: bytes) -> bytes:
    """A key of its own for one purpose (RFC 5869)."""
    return HKDF(hashes.SHA256(), 32, salt=None, info=b"bailiwick " + purpose).derive(means.seal)


def _outbound(means: Means, ring: KeyRing, vaulting: Vaulting, subjects: Subjects) -> Outbound:
    """What the gateway shows to upstreams; a strategy that needs more than `Ground` is made of it here."""
    settings, clock = means.settings, means.clock
    ground = Ground(settings.public_url, ring, means.upstreams, means.environ, clock, subjects, Fetched(clock))
    outbound = Outbound(settings, ground, means.sent, {**STRATEGIES, VAULT: vaulting.make})
    means.stack.push_async_callback(outbound.aclose)
    return outbound
