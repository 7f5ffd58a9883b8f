"""The A2A face made of parts: peers, cards, ownership, the road and its stages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from gateway import obligations
from gateway.a2a.authorisation import Asks
from gateway.a2a.blanked import FACE, blanked
from gateway.a2a.callback import CallbackEndpoint
from gateway.a2a.cards import Cards, Interface, Terms, by_http
from gateway.a2a.deliveries import ATTEMPT_SECONDS, Deliveries
from gateway.a2a.drift import Drifts
from gateway.a2a.endpoint import A2aEndpoint
from gateway.a2a.errors import SUPPORTED_VERSIONS
from gateway.a2a.hop import Bounds
from gateway.a2a.listing import Place
from gateway.a2a.operations import CARD
from gateway.a2a.push import Push
from gateway.a2a.road import A2aRoad
from gateway.a2a.standing import Standing
from gateway.a2a.steps import A2aSteps
from gateway.a2a.tasks import Ownership
from gateway.a2a.waiting import Waiting, looks_at_ours
from gateway.a2a.webhook import Allowed
from gateway.identity.keys import KeySet
from gateway.mcp.sealed import Purpose, Sealed
from gateway.model import Permit, Principal
from gateway.parts import Parts, derived
from gateway.policy.in_force import Policy
from gateway.policy.judging import decided_by
from gateway.prometheus import Family
from gateway.settings import Agent, Settings
from gateway.state.sealing import Sealer
from gateway.upstream.client import Upstreams
from gateway.upstream.registry import AgentTarget, agent_targets
from gateway.workflows.steps import Held


@dataclass(frozen=True, slots=True)
class A2aFaces:
    """`/a2a/` and all under it; where agents bring news of tasks; what is counted of cards."""

    endpoint: A2aEndpoint
    callbacks: CallbackEndpoint
    families: Callable[[], Iterator[Family]]


def open_a2a(parts: Parts) -> A2aFaces:
    """`/a2a/{agent}` for every agent that the settings give a URL, and what belongs to it."""
    settings, limits = parts.settings, parts.settings.limits
    peers, patient = agent_targets(settings, parts.bare), _patient(parts)
    allowed = Allowed(settings.push.hosts, settings.push.private)
    drifts = Drifts(parts.state.cards, parts.journal.append, parts.clock)
    cards = _cards(parts, peers, drifts, push=bool(allowed))
    seal = Sealer(derived(parts.seal_key, b"a2a push"), "push")
    push = Push(parts.state.push, seal, settings.public_url, allowed, lambda: parts.clock() // 1_000_000)
    asks = Asks(parts.recorder.authorisation, {name: peer.sends_to for name, peer in peers.items()})
    ownership = Ownership(parts.state.tasks, parts.state.contexts)
    waiting = Waiting(parts.approvals, TaskMarks(Sealed([derived(parts.seal_key, b"a2a tasks")])))
    road = A2aRoad(
        peers=peers,
        upstreams=patient,
        ownership=ownership,
        mint=parts.identity.delegations.mint,
        cards=cards,
        judge=parts.judge_of,
        shared=partial(parts.identity.outbound.fulfil, shared=True),
        bounds=Bounds(limits.response_bytes, limits.json_depth),
        rejected=parts.identity.outbound.rejected,
        onward=parts.identity.hops,
        tokens=PageTokens(Sealed([derived(parts.seal_key, b"a2a pages")])),
        receipt=parts.recorder.receipt,
        push=push if allowed else None,
        asks=asks,
        waiting=waiting,
    )
    parts.stack.push_async_callback(road.aclose)

    standing = Standing(parts.judge_of, parts.clock)
    parts.stack.push_async_callback(standing.close)
    stages = parts.stages(road, _fulfilling(parts, road, waiting), FACE)
    stages = replace(stages, authenticate=waiting.after(stages.authenticate), watch=standing.over(stages.watch))
    endpoint = A2aEndpoint(stages, guard=parts.guard, limits=limits, slots=parts.slots, clock=parts.clock)

    def enforce(policy: Policy) -> None:
        mine = road.judged_by(lambda principal: policy.pair_of(principal.workflow).engine.decide)
        judged = replace(stages, forward=mine.forward)  # whatever else it does asks no judge
        held = Held(parts.steps, _reading(parts, peers))
        endpoint.enforce(decided_by(policy, judged, parts.policy.shadowing, held))
        standing.enforce()

    parts.policy.in_force.follow(enforce)
    deliveries = _deliveries(parts, endpoint, allowed, ownership, asks)
    news = CallbackEndpoint(push, deliveries, parts.guard, limits, stages, parts.clock)
    return A2aFaces(endpoint, news, drifts.families)


def _patient(parts: Parts) -> Upstreams:
    """The way to agents, who may work in silence for as long as a call may take, or a stream stand, at all."""
    limits = parts.settings.limits
    silence, most = max(limits.call_seconds, limits.stream_seconds), limits.concurrent_calls + limits.concurrent_streams
    patient = Upstreams(connect_seconds=limits.upstream_connect_seconds, idle_seconds=silence, connections=most, probe=True)
    parts.stack.push_async_callback(patient.aclose)
    return patient


def _reading(parts: Parts, peers: Mapping[str, AgentTarget]) -> A2aSteps:
    own = frozenset(name for name, peer in peers.items() if peer.contexts == "own")
    return A2aSteps(parts.state.tasks, parts.state.contexts, own)


def _fulfilling(parts: Parts, road: A2aRoad, waiting: Waiting) -> Callable[[Permit], Awaitable[Permit]]:
    """The stage of duties on this road."""
    duties = parts.duties.by_type

    async def fulfil(permit: Permit) -> Permit:
        permit = await obligations.checked(permit, duties)
        if permit.redact_sent:
            permit = await parts.duties.inspector.sent(permit, blanked)
            permit = permit if permit.said is not None else blanked(permit)
        if permit.approval is not None:
            permit = await waiting.granted(permit)
        permit = await obligations.taken(permit, duties)
        if looks_at_ours(permit.call):
            return permit
        permit = await parts.identity.outbound.fulfil(permit, shared=permit.call.method == CARD)
        permit = await road.fulfil(permit)
        return permit if permit.approval is None else await parts.approvals.used(permit)  # last

    return parts.freeing(fulfil)


def _served(settings: Settings, peers: Mapping[str, AgentTarget], agent: str) -> Sequence[Interface]:
    """By which ways an agent can be reached here."""
    grpc = settings.a2a.grpc
    extra = (Interface("GRPC", SUPPORTED_VERSIONS[0], grpc.authority(agent)),) if grpc and agent in grpc.agents else ()
    return (*by_http(settings.public_url, agent, peers[agent].versions), *extra)


def _deliveries(parts: Parts, endpoint: A2aEndpoint, allowed: Allowed, ownership: Ownership, asks: Asks) -> Deliveries:
    limits = parts.settings.limits
    webhooks = Upstreams(connect_seconds=limits.upstream_connect_seconds, idle_seconds=ATTEMPT_SECONDS)
    parts.stack.push_async_callback(webhooks.aclose)
    deliveries = Deliveries(lambda: endpoint.stages, webhooks, allowed, ownership, asks=asks)
    parts.stack.push_async_callback(deliveries.aclose)
    return deliveries


def _cards(parts: Parts, peers: Mapping[str, AgentTarget], drifts: Drifts, *, push: bool) -> Cards:
    """Every agent's card, with the interfaces that are served for it."""
    terms = {name: _terms(parts, parts.settings.agents[name]) for name in peers}
    served = partial(_served, parts.settings, peers)
    cards = Cards(parts.settings.public_url, parts.clock, served, ring=parts.identity.ring, push=push, terms=terms, drift=drifts)
    parts.stack.push_async_callback(cards.aclose)
    return cards


def _terms(parts: Parts, agent: Agent) -> Terms:
    """What is demanded of an agent's card."""
    extensions, card = agent.extensions, agent.card
    if card is None:
        return Terms(extensions=extensions)
    keys = KeySet(card.keys, partial(parts.upstreams.fetch, allow_private=True))  # the operator named the address
    parts.stack.push_async_callback(keys.close)
    return Terms(keys, card.require, card.require and card.calls == "refuse", extensions)


class TaskMarks:
    """By which the gateway knows the ids of its own tasks again, for one person through the same agents, at one agent."""

    def __init__(self, sealed: Sealed) -> None:
        self._sealed = sealed

    def mark(self, principal: Principal, agent: str, approval: str) -> str:
        """See `gateway.a2a.waiting.Marks`."""
        return self._sealed.mark(Purpose.TASK, "a2a", agent, approval, principal=principal)

    def marked(self, mark: str, principal: Principal, agent: str, approval: str) -> bool:
        """See there."""
        return self._sealed.marked(mark, Purpose.TASK, "a2a", agent, approval, principal=principal)


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
