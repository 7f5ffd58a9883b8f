"""A call's place in its workflow's history: reserved after policy has allowed it, settled by its recorded outcome.

A rule of a workflow refuses and never grants.  What cannot be looked up is refused; what cannot be settled satisfies nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from msgspec.structs import replace

from gateway.model import Clock, Outcome, Permit, Principal, Refused, Reserved, wall_clock
from gateway.obligations.budget import drawn_on
from gateway.policy.in_force import InForce, Policy
from gateway.reasons import Code
from gateway.state.histories import Asked, Histories, Kept
from gateway.workflows.following import Following
from gateway.workflows.hearing import Hearing, Reader
from gateway.workflows.marks import Marker
from policies.bundle import Bundle
from policies.model import NOTHING, AccessRequest, Decision, Ruling
from policies.workflows import kept
from policies.workflows.flow import brings, exempt
from policies.workflows.model import Workflow, Workflows
from policies.workflows.ruling import Judged, decided, held_by, is_unknown, of_unknown, ruling_of
from policies.workflows.story import State, Step
from policies.workflows.values import sums

log = logging.getLogger("gateway.workflows")

MOST_BOUNDS: Final = 4096
"""Tools and chains of one policy that are kept in mind."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A call that policy allows and that wants a place: whose, what, how it was decided, and the id of its record.

    shows  objects beside the one that policy was asked for whose labels it may bring.
    """

    principal: Principal
    request: AccessRequest
    decision: Decision
    call: str
    arguments: Mapping[str, object] = field(default_factory=lambda: NOTHING)
    joins: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Bound:
    """What holds a call, whatever its arguments: the workflows whose rules do, or why none can; and whether it brings labels."""

    held: tuple[Workflow, ...]
    unknown: bool
    brings: bool


class Bounds:
    """The same of every tool and chain under one policy, worked out at its first call; bounded, and gone with the policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._known: dict[tuple[object, ...], Bound] = {}

    def of(self, principal: Principal, resource: str, bundle: Bundle) -> Bound:
        """What holds this principal's call of an object, by the bundle that decides its workflow."""
        key = (bundle.digest, principal.tenant, resource, principal.actors, principal.definition)
        bound = self._known.get(key)
        if bound is None:
            held = _held(bundle.workflows, principal, resource)
            bound = Bound(held, is_unknown(held, principal.definition), bool(brings(bundle, resource)))
            if len(self._known) >= MOST_BOUNDS:
                self._known.clear()
            self._known[key] = bound
        return bound


class Steps:
    """Reserves and settles.

    watched  is told of each rule that would have refused and is only watched.
    """

    def __init__(self, histories: Histories, key: bytes, watched: Callable[[str], None], clock: Clock = wall_clock) -> None:
        """`key` makes digests of arguments: 32 bytes, the same on every replica."""
        self._histories = histories
        self._marker = Marker(key)
        self.following = Following(histories, self._marker, clock)
        self._watched = watched
        self._undoing: set[asyncio.Task[None]] = set()

    def reserve(self, bounds: Bounds, reader: Reader, permit: Permit) -> Awaitable[Permit] | None:
        """None at once where no workflow holds the call and no duty counts it: then nothing is looked up."""
        principal, call = permit.principal, permit.call
        bundle = bounds.policy.pair_of(principal.workflow).bundle
        if not reader.is_step(call):
            return self._looked(permit, bundle, reader) if bundle.flows and reader.looks(call) else None
        duties = permit.decision.obligations
        budgets = drawn_on(duties) if duties else ()
        if not (bundle.workflows or principal.definition or budgets):
            return None
        bound = bounds.of(principal, permit.request.resource, bundle)
        if bound.unknown:
            raise refused(of_unknown(permit.decision))
        held = bound.held + budgets if budgets else bound.held
        if held or bound.brings:
            return self._reserve(permit, bundle, held, reader)
        return self._looked(permit, bundle, reader) if bundle.flows and reader.looks(call) else None

    async def _looked(self, permit: Permit, bundle: Bundle, reader: Reader) -> Permit:
        """A look at what another workflow began brings here what may have come into that; at one's own nothing new."""
        if not await reader.joins(permit.call, permit.principal):
            return permit
        return await self._reserve(permit, bundle, (), reader)

    async def _reserve(self, permit: Permit, bundle: Bundle, held: tuple[Workflow, ...], reader: Reader) -> Permit:
        joins = await reader.joins(permit.call, permit.principal) if bundle.flows else ()
        arguments = reader.arguments(permit.call)
        shows = reader.shows(permit.call, permit.request.resource)
        wish = Wish(permit.principal, permit.request, permit.decision, permit.call.arrival.id, arguments, joins, shows)
        reserved, ruling = await self.asked(bundle, held, wish)
        return replace(permit, reserved=reserved, decision=decided(permit.decision, ruling))

    async def asked(self, bundle: Bundle, held: tuple[Workflow, ...], wish: Wish) -> tuple[Reserved, Ruling]:
        """The place, and what rules said; `Refused` by a rule that counts."""
        question = self.question(bundle, held, wish)
        judged, durable = await self._kept(question)
        ruling = ruling_of(judged)
        for each in ruling.watched:
            self._watched(each.match.rule)
        if ruling.refused:
            raise refused(decided(wish.decision, ruling))
        names = frozenset(name for each in held for name in each.kept(wish.request.resource)[2])
        return Reserved(question.step, durable, names), ruling

    def question(self, bundle: Bundle, held: tuple[Workflow, ...], wish: Wish) -> Asked:
        """What histories are asked about a call."""
        principal, request, arguments = wish.principal, wish.request, wish.arguments
        wanted = [workflow.kept(request.resource) for workflow in held]
        step = Step(
            id=wish.call,
            resource=request.resource,
            actor=principal.acting,
            subject=principal.subject,
            at=request.at,
            held=frozenset(workflow.name for workflow in held),
            marks=self._marker.marks(principal.tenant, arguments, {name for marks, _, _ in wanted for name in marks}),
            sums=sums(arguments, {name for _, numbers, _ in wanted for name in numbers}),
            labels=_labels(bundle, (request.resource, *wish.shows)),
            joins=wish.joins,
        )
        free = exempt(bundle, held, request, arguments)
        return Asked(principal.tenant, principal.workflow, principal.ends, step, held, free)

    async def _kept(self, asked: Asked) -> tuple[tuple[Judged, ...], Awaitable[None]]:
        """The judgement, and when it is durable; whoever hangs up meanwhile leaves no place behind."""
        reserving = asyncio.ensure_future(self._histories.reserve(asked))
        try:
            return await asyncio.shield(reserving)
        except asyncio.CancelledError:
            undoing = asyncio.ensure_future(self._undone(reserving, asked))
            self._undoing.add(undoing)
            undoing.add_done_callback(self._undoing.discard)
            raise

    async def _undone(self, reserving: Awaitable[tuple[tuple[Judged, ...], Awaitable[None]]], asked: Asked) -> None:
        try:
            _, durable = await reserving
            await durable
        except Refused:
            return
        await self._settle(Kept(asked.tenant, asked.workflow, asked.step), State.UNSENT, "")

    async def settle(self, permit: Permit, outcome: Outcome | None) -> None:
        """A call's own step, by what is on record; nothing of it on record is `UNCERTAIN`."""
        state = State.UNCERTAIN if outcome is None else State(outcome.step)
        await self._settle(_place(permit), state, "" if outcome is None else outcome.results)

    async def release(self, permit: Permit) -> None:
        """The call is not made."""
        if permit.reserved is not None:
            await self._settle(_place(permit), State.UNSENT, "")

    async def _settle(self, place: Kept, state: State, results: str) -> None:
        try:
            await self._histories.settle(place, state, **kept.read_ended(state, results))
        except Refused as failure:  # it stays as it is, satisfies nothing, and is settled from the ledger later
            log.error("a step could not be settled: %s", failure.code.value, extra={"call": place.step.id})

    @asynccontextmanager
    async def handed_on(
        self, policy: Policy, principal: Principal, request: AccessRequest, decision: Decision, call: str
    ) -> AsyncGenerator[tuple[Decision, Step | None], None]:
        """An agent hands on to a part of itself, without a message that this gateway sees: what comes of it, nobody knows.

        It draws on budgets and keeps to who may call whom, and satisfies nothing.  Within it the record is written.
        """
        bundle = policy.pair_of(principal.workflow).bundle
        held = _held(bundle.workflows, principal, request.resource)
        try:
            if is_unknown(held, principal.definition):
                raise refused(of_unknown(decision))
            wish = Wish(principal, request, decision, call)
            needed = held or brings(bundle, request.resource)
            reserved, ruling = await self.asked(bundle, held, wish) if needed else (None, None)
        except Refused as refusal:
            refusal.principal, refusal.request = principal, request
            raise
        if reserved is None or ruling is None:
            yield decision, None
            return
        place, state = Kept(principal.tenant, principal.workflow, reserved.step), State.UNSENT
        try:
            await reserved.durable
            if any(duty.type != "audit" for duty in ruling.duties):  # as those of policy, which were looked at before
                allowed = decided(decision, ruling)
                said = "no such duty can be fulfilled here"
                raise Refused(Code.DUTY_FAILED, said, decision=allowed, principal=principal, request=request)
            yield decided(decision, ruling), reserved.step
            state = State.OPEN
        finally:
            await self._settle(place, state, "")

    async def close(self) -> None:
        """Finish what is being given up."""
        await asyncio.gather(*self._undoing, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class InForceNow:
    """Workflows by the policy that is in force when they are asked for; what the token endpoint needs of them."""

    steps: Steps
    in_force: InForce

    def define(self, tenant: str, said: str) -> str | None:
        """The name of a definition of this tenant, by its name or by its digest; None where there is none."""
        known = self.in_force.current.active.bundle.workflows.values()
        return next((each.name for each in known if said in (each.name, each.digest) and tenant in each.tenants), None)

    def handed_on(
        self, principal: Principal, request: AccessRequest, decision: Decision, call: str
    ) -> AbstractAsyncContextManager[tuple[Decision, Step | None]]:
        """See `Steps.handed_on`."""
        return self.steps.handed_on(self.in_force.current, principal, request, decision, call)


@dataclass(frozen=True, slots=True)
class Held:
    """One protocol's calls, held to their workflows."""

    steps: Steps
    reader: Reader

    def by(self, policy: Policy) -> Callable[[Permit], Awaitable[Permit] | None]:
        """The stage `reserve`, by the definitions of one policy."""
        return partial(self.steps.reserve, Bounds(policy), self.reader)

    def hearing(self, policy: Policy) -> Callable[[Permit], Hearing | None]:
        """The stage `hear`, by the same."""
        pairs = [pair for pair in (policy.active, policy.canary) if pair is not None]
        workflows = [each for pair in pairs for each in pair.bundle.workflows.values()]
        duties = any(drawn_on(pair.bundle.obligations.values()) for pair in pairs)
        names = frozenset(name for each in workflows for name in each.bounded)
        reader, steps = self.reader, self.steps

        def fields_of(workflow: str, step: Step) -> frozenset[str]:
            known = policy.pair_of(workflow).bundle.workflows
            return frozenset(name for each in step.held if each in known for name in known[each].kept(step.resource)[2])

        def hear(permit: Permit) -> Hearing | None:
            if permit.reserved is None and not ((workflows or duties) and reader.follows(permit.call)):
                return None
            return Hearing(reader, permit, steps.following, names, fields_of, steps.settle)

        return hear


def refused(denied: Decision) -> Refused:
    """The refusal of a call that rules of its workflow refuse: it says what is missing and how to cure it."""
    code = Code(denied.reason.value)
    if denied.ruling is None:
        return Refused(code, decision=denied)
    refusing = denied.ruling.refused
    missing = ", ".join(dict.fromkeys(name for each in refusing for name in each.missing))
    cure = "; ".join(dict.fromkeys(each.cure for each in refusing))
    said: dict[str, object] = {"cure": cure, **({"missing": missing} if missing else {})}
    return Refused(code, f"{refusing[0].match.rule}: {refusing[0].cure}", decision=denied, data=said)


def _labels(bundle: Bundle, resources: tuple[str, ...]) -> tuple[str, ...]:
    found = {label for each in resources for label in brings(bundle, each)}
    return tuple(sorted(found))


def _held(workflows: Workflows, principal: Principal, resource: str) -> tuple[Workflow, ...]:
    return held_by(workflows.values(), principal.tenant, resource, principal.actors, principal.definition)


def _place(permit: Permit) -> Kept:
    if permit.reserved is None:
        raise ValueError("the call has no place in a history")
    return Kept(permit.principal.tenant, permit.principal.workflow, permit.reserved.step)
