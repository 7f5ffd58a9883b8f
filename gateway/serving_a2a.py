"""The A2A face made of parts: peers, cards, ownership, the road and its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from gateway import obligations
from gateway.a2a.authorisation import Asks
from gateway.a2a.callback import CallbackEndpoint
from gateway.a2a.cards import Cards, Interface, by_http
from gateway.a2a.deliveries import ATTEMPT_SECONDS, Deliveries
from gateway.a2a.endpoint import A2aEndpoint
from gateway.a2a.errors import SUPPORTED_VERSIONS
from gateway.a2a.hop import Bounds
from gateway.a2a.listing import Place
from gateway.a2a.operations import CARD
from gateway.a2a.push import Push
from gateway.a2a.road import A2aRoad
from gateway.a2a.standing import Standing
from gateway.a2a.tasks import Ownership
from gateway.a2a.webhook import Allowed
from gateway.mcp.sealed import Purpose, Sealed
from gateway.model import Permit, Principal
from gateway.parts import Parts, derived
from gateway.policy.in_force import Policy
from gateway.policy.judging import decided_by
from gateway.settings import Settings
from gateway.state.sealing import Sealer
from gateway.upstream.client import Upstreams
from gateway.upstream.registry import AgentTarget, agent_targets


def open_a2a(parts: Parts) -> tuple[A2aEndpoint, CallbackEndpoint]:
    """`/a2a/{agent}` for every agent that the settings give a URL, and where agents bring news of tasks."""
    settings, limits = parts.settings, parts.settings.limits
    peers = agent_targets(settings, parts.bare)
    # an agent may work in silence for as long as a call may take, or a stream stand, at all
    silence = max(limits.call_seconds, limits.stream_seconds)
    patient = Upstreams(connect_seconds=limits.upstream_connect_seconds, idle_seconds=silence, probe=True)
    parts.stack.push_async_callback(patient.aclose)

    allowed = Allowed(settings.push.hosts, settings.push.private)
    cards = Cards(settings.public_url, parts.clock, partial(_served, settings, peers), push=bool(allowed))
    parts.stack.push_async_callback(cards.aclose)
    seal = Sealer(derived(parts.seal_key, b"a2a push"), "push")
    push = Push(parts.state.push, seal, settings.public_url, allowed, lambda: parts.clock() // 1_000_000)
    asks = Asks(parts.recorder.authorisation, {name: peer.sends_to for name, peer in peers.items()})
    road = A2aRoad(
        peers=peers,
        upstreams=patient,
        ownership=Ownership(parts.state.tasks, parts.state.contexts),
        mint=parts.identity.delegations.mint,
        cards=cards,
        bounds=Bounds(limits.response_bytes, limits.json_depth),
        rejected=parts.identity.outbound.rejected,
        onward=parts.identity.hops,
        tokens=PageTokens(Sealed([derived(parts.seal_key, b"a2a pages")])),
        receipt=parts.recorder.receipt,
        push=push if allowed else None,
        asks=asks,
    )
    parts.stack.push_async_callback(road.aclose)

    async def fulfil(permit: Permit) -> Permit:
        permit = await parts.identity.outbound.fulfil(obligations.fulfil(permit), shared=permit.call.method == CARD)
        return await road.fulfil(permit)

    standing = Standing(parts.judge_of, parts.clock)
    parts.stack.push_async_callback(standing.close)
    stages = parts.stages(road, fulfil)
    stages = replace(stages, watch=standing.over(stages.watch))
    endpoint = A2aEndpoint(stages, guard=parts.guard, limits=limits, slots=parts.slots, clock=parts.clock)

    def enforce(policy: Policy) -> None:
        endpoint.enforce(decided_by(policy, stages, parts.policy.shadowing))
        standing.enforce()

    parts.policy.in_force.follow(enforce)
    deliveries = _deliveries(parts, endpoint, allowed, asks)
    return endpoint, CallbackEndpoint(push, deliveries, parts.guard, limits, stages, parts.clock)


def _served(settings: Settings, peers: Mapping[str, AgentTarget], agent: str) -> Sequence[Interface]:
    """By which ways an agent can be reached here."""
    grpc = settings.a2a.grpc
    extra = (Interface("GRPC", SUPPORTED_VERSIONS[0], grpc.authority(agent)),) if grpc and agent in grpc.agents else ()
    return (*by_http(settings.public_url, agent, peers[agent].versions), *extra)


def _deliveries(parts: Parts, endpoint: A2aEndpoint, allowed: Allowed, asks: Asks) -> Deliveries:
    limits = parts.settings.limits
    webhooks = Upstreams(connect_seconds=limits.upstream_connect_seconds, idle_seconds=ATTEMPT_SECONDS)
    parts.stack.push_async_callback(webhooks.aclose)
    deliveries = Deliveries(lambda: endpoint.stages, webhooks, allowed, asks=asks)
    parts.stack.push_async_callback(deliveries.aclose)
    return deliveries


class PageTokens:
    """Places in an agent's list of tasks, sealed for one person at one agent."""

    def __init__(self, sealed: Sealed) -> None:
        self._sealed = sealed

    def seal(self, principal: Principal, agent: str, place: Place) -> str:
        """See `gateway.a2a.listing.PageTokens`."""
        return self._sealed.seal(Purpose.CURSOR, list(place), server=agent, principal=principal, bound="a2a")

    def open(self, principal: Principal, agent: str, text: str) -> Place:
        """See there."""
        token, skip, total = self._sealed.open(Purpose.CURSOR, text, server=agent, principal=principal, bound="a2a")
        return Place(str(token), int(skip), int(total))
