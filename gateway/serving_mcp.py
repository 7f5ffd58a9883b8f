"""The MCP face made of parts: targets, children, the road, its stages, and the policy that it follows."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from gateway import obligations
from gateway.identity.keyfiles import travel_keys
from gateway.mcp.aggregate.elsewhere import Elsewhere
from gateway.mcp.aggregate.endpoint import Aggregate
from gateway.mcp.aggregate.sessions import Known
from gateway.mcp.approving import Approving
from gateway.mcp.asking import Asking
from gateway.mcp.blanked import blanked
from gateway.mcp.endpoint import McpEndpoint
from gateway.mcp.gate import Gate
from gateway.mcp.lists import Could
from gateway.mcp.pins import Pins
from gateway.mcp.questions import Rules
from gateway.mcp.road import McpRoad, Upstream, answered_here
from gateway.mcp.sealed import Sealed
from gateway.mcp.standing import Standing, StreamTerms
from gateway.mcp.steps import McpSteps
from gateway.model import Permit, random16
from gateway.obligations.blank import redact
from gateway.parts import Parts, derived
from gateway.pipeline import Stages
from gateway.policy.in_force import Policy
from gateway.policy.judging import could_by, decided_by, repeats_by
from gateway.policy.listed import listed
from gateway.protected import scopes_of
from gateway.sandbox.server import SandboxServer
from gateway.state.notices import Notices
from gateway.stores import state_url_of
from gateway.upstream.client import Upstreams
from gateway.upstream.registry import McpTarget
from gateway.workflows.steps import Held
from policies import approvals

BESIDE: Final = 64
"""Connections to each server beside those of standing streams: for answers, notices and ends, which wait behind no call."""


@dataclass(frozen=True, slots=True)
class McpFaces:
    """`/mcp/{server}`, and `/mcp`, which is made of them."""

    mounts: McpEndpoint
    aggregate: Aggregate


async def open_pins(parts: Parts, targets: Mapping[str, McpTarget]) -> Pins:
    """What is known of these servers' definitions; replicas that share PostgreSQL tell each other of changes."""
    pins = Pins(
        parts.state.definitions,
        parts.journal.append,
        parts.clock,
        seconds=parts.settings.policy.definitions_seconds,
        now=time.monotonic,
    )
    await pins.open(targets)
    pins.announce = _told(parts, "bailiwick_definitions", pins.forget) or pins.announce
    return pins


def open_mcp(parts: Parts, targets: Mapping[str, McpTarget], started: Mapping[str, Upstream], pins: Pins) -> McpFaces:
    """Both faces of these targets; `started` speak to those that are not reached by HTTP."""
    limits = parts.settings.limits
    others: dict[str, Upstream] = {**started}
    if parts.sandboxed is not None:
        others["sandbox"] = SandboxServer(parts.sandboxed)
    could, sealed = could_by(parts.policy.in_force.current, parts.clock), _sealed(parts)
    asking, standing, terms = _streams(parts, could)
    road = McpRoad(
        targets=targets,
        upstreams=parts.upstreams,
        sealed=sealed,
        could=could,
        redact=redact,
        asking=asking,
        standing=standing,
        streams=terms,
        others=others,
        json_depth=limits.json_depth,
        response_bytes=limits.response_bytes,
        rejected=parts.identity.outbound.rejected,
        receipt=parts.recorder.receipt,
    )

    stages, held = parts.stages(road, _fulfilling(parts, road, sealed), road), Held(parts.steps, McpSteps(sealed))
    asking.by(stages)
    pins.tell = standing.changed
    before = parts.policy.in_force.current
    faces = _faces(parts, targets, stages, could, sealed)
    pinned = frozenset(name for name, target in targets.items() if target.kind != "builtin")

    def enforce(policy: Policy) -> None:
        nonlocal before
        could = could_by(policy, parts.clock)
        mine = road.judged_by(could, repeats_by(policy))
        judged = replace(
            stages, parse=mine.parse, fulfil=_fulfilling(parts, mine, sealed), forward=mine.forward, filter=mine.filter
        )
        gate = Gate(pins, lambda workflow: policy.pair_of(workflow).bundle.pinning, pinned, parts.clock)
        decided = gate.over(decided_by(policy, judged, parts.policy.shadowing, held))
        faces.mounts.enforce(decided, could)
        faces.aggregate.enforce(decided, could)
        standing.enforce(could, listed((before, policy)))
        for server in approvals.differing(before.active.bundle.pinning, policy.active.bundle.pinning):
            standing.changed(server, ("tools", "prompts", "resources"))
        before = policy

    parts.policy.in_force.follow(enforce)
    return faces


def _fulfilling(parts: Parts, road: McpRoad, sealed: Sealed) -> Callable[[Permit], Awaitable[Permit]]:
    """The stage of duties on this road."""
    duties, approving = parts.duties.by_type, Approving(parts.approvals, sealed)

    async def fulfil(permit: Permit) -> Permit:
        asked = permit.call
        if permit.decision.obligations:
            permit = await obligations.checked(permit, duties)
        permit = await parts.duties.inspector.sent(permit, blanked) if permit.redact_sent else permit
        permit = road.further(permit if parts.sandboxed is None else await parts.sandboxed.fulfil(permit))
        if permit.approval is None:
            permit = await obligations.taken(permit, duties) if permit.decision.obligations else permit
            return permit if answered_here(permit.call) else await parts.identity.outbound.fulfil(permit)
        permit = await obligations.taken(await approving.granted(permit, asked), duties)
        return await parts.approvals.used(await parts.identity.outbound.fulfil(permit))  # last: what is refused uses nothing up

    return parts.freeing(fulfil)


def _faces(parts: Parts, targets: Mapping[str, McpTarget], stages: Stages, could: Could, sealed: Sealed) -> McpFaces:
    limits, public_url = parts.settings.limits, parts.settings.public_url
    scopes = scopes_of(issuer.required_scope for issuer in parts.settings.issuers)
    mounts = McpEndpoint(
        stages,
        guard=parts.guard,
        limits=limits,
        public_url=public_url,
        could=could,
        scopes=scopes,
        slots=parts.slots,
        clock=parts.clock,
    )
    known = Known(parts.state.tickets, sealed, parts.clock)
    aggregate = Aggregate(
        stages,
        eras={name: target.era for name, target in targets.items()},
        guard=parts.guard,
        limits=limits,
        public_url=public_url,
        could=could,
        scopes=scopes,
        sealed=sealed,
        known=known,
        slots=parts.slots,
        clock=parts.clock,
        elsewhere=_elsewhere(parts, sealed),
    )
    parts.stack.push_async_callback(aggregate.aclose)
    known.tell = _told(parts, "bailiwick_sessions", aggregate.look) or known.tell
    return McpFaces(mounts, aggregate)


def _elsewhere(parts: Parts, sealed: Sealed) -> Elsewhere | None:
    """How answers go from one replica to another; None where no other replica shares the store."""
    elsewhere = Elsewhere(parts.state.tickets, sealed, parts.clock)
    tell = _told(parts, "bailiwick_answers", elsewhere.wake)
    if tell is None:
        return None
    elsewhere.tell = tell
    return elsewhere


def _told(parts: Parts, channel: str, heard: Callable[[], None]) -> Callable[[], None] | None:
    """Has this process hear what other replicas say on a channel; what says it to them.  None where they share no PostgreSQL."""
    url = state_url_of(parts.settings)
    if not Notices.possible(url):
        return None
    notices = Notices(url, channel, random16().hex(), heard)
    parts.stack.push_async_callback(notices.aclose)
    notices.start()
    return notices.say


def _streams(parts: Parts, could: Could) -> tuple[Asking, Standing, StreamTerms]:
    """What is more than one request and one answer."""
    settings, limits = parts.settings, parts.settings.limits
    questions = {name: server.questions for name, server in settings.mcp.items()}
    asking = Asking(
        judge=parts.judge_of,
        rules={name: Rules(said.max_tokens, frozenset(said.url_hosts)) for name, said in questions.items()},
        clock=parts.clock,
        duties=partial(obligations.fulfil, duties=parts.duties.by_type),
    )
    standing = Standing(parts.judge_of, could)
    parts.stack.push_async_callback(standing.close)
    # such a stream may be silent for as long as it may stand; that the machine behind it is gone shows all the same
    beside = Upstreams(
        connect_seconds=limits.upstream_connect_seconds, idle_seconds=limits.stream_seconds,
        connections=limits.concurrent_streams + BESIDE, probe=True,
    )  # fmt: skip
    parts.stack.push_async_callback(beside.aclose)
    terms = StreamTerms(
        upstreams=beside,
        seconds=limits.stream_seconds,
        clock=parts.clock,
        levels={name: server.log_level for name, server in settings.mcp.items()},
        strict=frozenset(name for name, said in questions.items() if said.unasked == "drop"),
    )
    return asking, standing, terms


def _sealed(parts: Parts) -> Sealed:
    """What seals values that travel with clients: the keys of the settings, else one made of the ledger's."""
    configured = travel_keys(parts.settings.state.seal_keys, parts.environ)
    return Sealed(configured or (derived(parts.seal_key, b"sealed values"),))
