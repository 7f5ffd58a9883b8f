"""Whether a run may connect somewhere: the profile's list first, then policy for its whole chain, then where the name leads.

Nothing is looked up for what policy denies, and nothing is opened before its record is durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from msgspec.structs import replace

from gateway.egress.dial import ClosedError, Exempt, Resolve, judged
from gateway.egress.head import Target
from gateway.model import Arrival, Clock, Principal, Refused, new_id
from gateway.reasons import Code
from gateway.record import Recorder
from gateway.scope import within
from policies.model import AccessRequest, Decision
from sandbox.names import Destination

log = logging.getLogger("gateway.egress")

CONNECT: Final = "connect"
RESOLVE_SECONDS: Final = 5.0
_REFUSALS: Final = 32
"""Refusals of one run that are records of their own; the others are counted in one more."""
_NO_EXEMPTIONS: Mapping[str, Exempt] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Who runs the code, and the most that it may reach.

    run        id of the run; arrival of the call that it is part of; principal whose chain is asked.
    profile    its name, for the record; destinations all that it lists.
    """

    run: str
    arrival: Arrival
    principal: Principal
    profile: str
    destinations: Sequence[Destination]

    def listed(self, target: Target) -> Destination | None:
        """The destination that covers the target, an exact one before a wildcard; None where none does."""
        found = [each for each in self.destinations if each.covers(target.host, target.port)]
        return min(found, key=lambda each: each.host.startswith("*."), default=None)


@dataclass(frozen=True, slots=True)
class Desk:
    """What is needed to decide.

    judge    who decides for a principal now; alive raises `Refused` where somebody of the chain was killed.
    exempt   what the operator says of destinations, by their text as profiles write them.
    """

    recorder: Recorder
    judge: Callable[[Principal], Callable[[AccessRequest], Decision]]
    alive: Callable[[Principal], None]
    resolve: Resolve
    clock: Clock
    exempt: Mapping[str, Exempt] = field(default_factory=lambda: _NO_EXEMPTIONS)


@dataclass(frozen=True, slots=True)
class Granted:
    """A connection whose record is durable: the only thing that is dialled."""

    target: Target
    addresses: Sequence[str]
    tls: bool
    _desk: Desk
    _arrival: Arrival
    _principal: Principal
    _index: int

    async def ended(self, said: Mapping[str, object]) -> None:
        """Record how it ended.  Never raises: a ledger that is gone lets no next connection through."""
        writing = asyncio.ensure_future(self._desk.recorder.connection_end(self._arrival, self._principal, self._index, said))
        cancelled = await _to_its_end(writing)
        if writing.exception() is not None:
            log.error("the end of a connection of a run could not be recorded: %s", self._arrival.id)
        if cancelled is not None:
            raise cancelled


async def _to_its_end(work: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until it is done, however it ends; the cancellation that came meanwhile, for afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


class Asked:
    """What one run has asked for."""

    def __init__(self, desk: Desk, ceiling: Ceiling) -> None:
        self._desk = desk
        self._ceiling = ceiling
        self._refused = 0
        self._last: tuple[_Question, Refused] | None = None  # of those that were only counted

    async def may(self, target: Target) -> Granted:
        """A recorded grant, or `Refused`, on record as well."""
        question = _Question.of(self._ceiling, target, self._desk.clock())
        try:
            return await self._may(question)
        except Refused as refusal:
            if refusal.code is not Code.LEDGER_UNAVAILABLE:
                await self._refuse(question, refusal)
            raise

    async def close(self) -> None:
        """Write out what was only counted.  Never raises."""
        if self._last is None:
            return
        question, refusal = self._last
        try:
            await self._record(question, refusal, self._refused - _REFUSALS - 1)
        except Refused:
            log.error("refused connections of a run could not be recorded: %s", self._ceiling.run)

    async def _may(self, question: _Question) -> Granted:
        desk, principal = self._desk, self._ceiling.principal
        listed = self._ceiling.listed(question.target)
        if listed is None:
            raise Refused(Code.DESTINATION_REFUSED, "the profile does not list it")
        desk.alive(principal)
        decision = desk.judge(principal)(question.request)
        if not decision.allowed:
            raise Refused(Code(decision.reason.value), decision=decision)
        if not within(principal.scope, question.request.resource):
            raise Refused(Code.INSUFFICIENT_SCOPE, decision=decision)
        undone = [duty.name for duty in decision.obligations if duty.type != "audit"]  # which the records fulfil
        if undone:
            raise Refused(Code.DUTY_FAILED, f"no connection fulfils {undone[0]}", decision=decision)
        exempt = desk.exempt.get(str(Destination(*question.target))) or desk.exempt.get(str(listed)) or Exempt()
        addresses = await self._addresses(question.target, exempt, decision)
        said: dict[str, object] = {"run": self._ceiling.run, "profile": self._ceiling.profile, "listed": str(listed)}
        said |= {"addresses": list(addresses), "tls": exempt.tls}
        writing = asyncio.ensure_future(desk.recorder.connection(question.arrival, principal, question.request, decision, said))
        cancelled = await _to_its_end(writing)
        granted = Granted(question.target, addresses, exempt.tls, desk, question.arrival, principal, writing.result().index)
        if cancelled is not None:  # it is on record, and so is that nothing came of it
            await granted.ended({"address": "", "sent": 0, "received": 0, "end": "run-ended", "detail": ""})
            raise cancelled
        return granted

    async def _addresses(self, target: Target, exempt: Exempt, decision: Decision) -> Sequence[str]:
        """Where the name leads, asked once.  What is wrong with it is for the ledger: the code learns nothing of the inside."""
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                return judged(await self._desk.resolve(target.host), exempt)
        except ClosedError as error:
            raise Refused(Code.DESTINATION_REFUSED, str(error), decision=decision) from error
        except TimeoutError as error:
            raise Refused(Code.DESTINATION_REFUSED, "the name was not resolved in time", decision=decision) from error
        except (OSError, UnicodeError) as error:
            raise Refused(Code.DESTINATION_REFUSED, "the name does not resolve", decision=decision) from error

    async def _refuse(self, question: _Question, refusal: Refused) -> None:
        """On record; a run that asks for what it may not have again and again fills no disk."""
        self._refused += 1
        if self._refused > _REFUSALS:
            self._last = question, refusal
            return
        await self._record(question, refusal, 0)

    async def _record(self, question: _Question, refusal: Refused, unrecorded: int) -> None:
        said: dict[str, object] = {"run": self._ceiling.run, "profile": self._ceiling.profile}
        if unrecorded:
            said["unrecorded"] = unrecorded
        await self._desk.recorder.connection(
            question.arrival, self._ceiling.principal, question.request, refusal.decision, said, refusal
        )


@dataclass(frozen=True, slots=True)
class _Question:
    target: Target
    arrival: Arrival
    request: AccessRequest

    @classmethod
    def of(cls, ceiling: Ceiling, target: Target, at: int) -> _Question:
        principal = ceiling.principal
        request = AccessRequest(
            subject=principal.subject,
            actors=principal.actors,
            tenant=principal.tenant,
            action=CONNECT,
            resource=f"host:{target.host}:{target.port}",
            at=at,
            groups=principal.groups,
            context=principal.facts("sandbox", "CONNECT", "1.1"),
        )
        return cls(target, replace(ceiling.arrival, id=new_id(at), at=at, body=b""), request)
