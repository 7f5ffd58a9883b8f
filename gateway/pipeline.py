"""The one road: every call of every protocol goes through `govern`, and no stage can be skipped.

Read this file first.  What a stage does for MCP and for A2A stands in `gateway/mcp/endpoint.py` and `gateway/a2a/endpoint.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from audit.kept import Kept
from audit.model import LedgerUnavailableError
from audit.streamed import Chunks
from gateway.model import Arrival, Call, Intent, Outcome, OutcomeStatus, Permit, Principal, Refused, Reply, UpstreamError
from gateway.reasons import Code
from gateway.scope import within
from policies.model import AccessRequest, Decision

_AUTHORITY_OVER = frozenset({Code.REVOKED, Code.INVALID_CREDENTIAL})
_OK, _INTERRUPTED = OutcomeStatus.OK, OutcomeStatus.INTERRUPTED


def _unwatched(_intent: Intent) -> AbstractContextManager[None]:
    return nullcontext()  # for a road on which nobody is ever killed


async def _nothing_beside(reply: Reply, _permit: Permit) -> Reply:
    return reply  # for a road whose filter does all there is


async def _durable(intent: Intent) -> Intent:
    return intent  # for a road whose calls all wait for their records


class Hearing(Protocol):
    """Listens to the answer of one call for what histories keep of it: of its own step, and of earlier ones' tasks."""

    def hear(self, reply: Reply) -> None:
        """A message that is released, as it is released."""

    def outcome(self, outcome: Outcome) -> Outcome:
        """The same outcome with what became of the step."""

    async def follow(self, intent: Intent, outcome: Outcome) -> Outcome:
        """The same outcome with the open steps that the answer settles, and nobody else from now on.  Must not raise."""

    async def settle(self, outcome: Outcome, *, recorded: bool) -> None:
        """All of that is kept, where it is on record; otherwise the step is `UNCERTAIN`, and the others stay.  Must not raise."""


def _unheld(_permit: Permit) -> None:
    return None  # for a road without workflows


async def _unreleased(_permit: Permit) -> None:
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of one protocol's road, filled in `gateway/parts.py` alone.  A test replaces one field.

    authenticate    who calls, from the frame alone; nothing of the body is parsed for a stranger.
    parse           bytes to one strictly parsed call.
    normalise       the call as the question that policy is asked.
    decide          the answer.  Must not raise `Refused` for a denial: it returns one.
    reserve         a place in the workflow's history, by the rules of what must come before: the permit with it, or `Refused`.
                    None at once where no workflow's rules hold the call.
    fulfil          duties and ownership; may only narrow.
    record_intent   durable on return, or it raises: the only way to an `Intent`.
    forward         the upstream hop: messages, the last of them (and at least one) final.
    inspect         what duties look for in a message that takes time or asks others, before `filter`; only where there are such.
    filter          what of a message is released; sets its bytes.
    record_outcome  under way when called, durable when awaited, or it raises.
    record_refusal  durable on return, or it raises.
    observe         metrics and spans, off the hot path; must not raise or block.
    hear            what listens to the answer of a call that has such a place, or that may show what became of one before it.
                    None for every other.
    release         the place is given up, as the call is not made.  Must not raise.
    settled         the intent once its record is durable, or it raises: where a call is sent while that is written.
    watch           what a call runs within once it is sent: raises `Refused` where its authority is over, or as soon as it is.
    """

    authenticate: Callable[[Arrival], Awaitable[Principal]]
    parse: Callable[[Arrival, Principal], Call]
    normalise: Callable[[Call, Principal], AccessRequest]
    decide: Callable[[AccessRequest], Decision]
    fulfil: Callable[[Permit], Awaitable[Permit]]
    record_intent: Callable[[Permit], Awaitable[Intent]]
    forward: Callable[[Intent], AsyncGenerator[Reply, None]]
    filter: Callable[[Reply, Intent], Reply]
    record_outcome: Callable[[Intent, Outcome], Awaitable[object]]
    record_refusal: Callable[[Arrival, Refused], Awaitable[None]]
    observe: Callable[[Arrival, Intent | Refused, Outcome | None], None]
    watch: Callable[[Intent], AbstractContextManager[None]] = _unwatched
    settled: Callable[[Intent], Awaitable[Intent]] = _durable
    reserve: Callable[[Permit], Awaitable[Permit] | None] = _unheld
    hear: Callable[[Permit], Hearing | None] = _unheld
    inspect: Callable[[Reply, Permit], Awaitable[Reply]] = _nothing_beside
    release: Callable[[Permit], Awaitable[None]] = _unreleased


class _Bearings:
    """How far a call has come, so that a refusal can say whose it was and what it asked for."""

    __slots__ = ("call", "decision", "principal", "request")

    def __init__(self) -> None:
        self.principal: Principal | None = None
        self.call: Call | None = None
        self.request: AccessRequest | None = None
        self.decision: Decision | None = None

    def complete(self, refusal: Refused) -> Refused:
        refusal.principal = refusal.principal or self.principal
        refusal.call = refusal.call or self.call
        refusal.request = refusal.request or self.request
        refusal.decision = refusal.decision or self.decision  # also of a call that was allowed and fell to a duty or an owner
        return refusal


async def govern(arrival: Arrival, stages: Stages) -> AsyncGenerator[Reply, None]:
    """Carry one call to its tool and stream back the reply, or raise `Refused` or `UpstreamError`.

    The final message is released only after its outcome is durable.  Closing the generator (the client hung up) closes the
    upstream call and records the outcome as interrupted.
    """
    intent = await _admit(arrival, stages)
    tally = _Tally(intent.permit, stages.hear(intent.permit))
    held: Reply | None = None
    try:
        with stages.watch(intent):
            replies = stages.forward(intent)
            try:
                async for raw in replies:
                    intent = await stages.settled(intent)  # nothing of an answer is released before the record
                    permit = intent.permit
                    looked = await stages.inspect(raw, permit) if permit.redact or permit.flags else raw
                    reply = stages.filter(looked, intent)
                    tally.count(reply, held)
                    if held is not None:  # what looked final was not: the stream goes on
                        yield held
                        held = None
                    if reply.is_final:
                        held = reply  # the final word waits for its record
                    else:
                        yield reply
            finally:
                await replies.aclose()
        if held is None:
            raise UpstreamError("closed", "the upstream ended without a final message")
        if held.goes_on:
            tally.detail = "the upstream closed the stream, and says the rest to whoever resumes it"
        else:
            tally.status = OutcomeStatus.TOOL_ERROR if held.failed else _OK
    except UpstreamError as error:
        tally.status, tally.detail = OutcomeStatus.UPSTREAM_ERROR, str(error)
        raise
    except Refused as refusal:  # a duty that shows only in the answer: the result is withheld; or its authority is over
        revoked = refusal.code in _AUTHORITY_OVER or (refusal.decision is not None and not refusal.decision.allowed)
        tally.status, tally.detail = OutcomeStatus.INTERRUPTED if revoked else OutcomeStatus.INTERNAL_ERROR, str(refusal)
        _of(refusal, intent.permit.principal, intent.permit.call)
        raise
    except Exception as error:
        tally.status, tally.detail = OutcomeStatus.INTERNAL_ERROR, type(error).__name__
        raise _of(Refused(Code.INTERNAL_ERROR, type(error).__name__), intent.permit.principal, intent.permit.call) from error
    finally:
        await _close(arrival, intent, tally.outcome(held), stages, tally.hearing)
    yield held


async def _admit(arrival: Arrival, stages: Stages) -> Intent:
    """The way in: from the frame to a recorded intent, or a recorded refusal."""
    bearings = _Bearings()
    try:
        principal = bearings.principal = await stages.authenticate(arrival)
        call = bearings.call = stages.parse(arrival, principal)
        request = bearings.request = stages.normalise(call, principal)
        decision = bearings.decision = stages.decide(request)
        if not decision.allowed:
            raise Refused(Code(decision.reason.value), decision=decision)
        if not within(principal.scope, request.resource):
            raise Refused(Code.INSUFFICIENT_SCOPE, decision=decision)
        permit = Permit.of(call, principal, request, decision)
        reserving = stages.reserve(permit)
        if reserving is None:  # no workflow's rules hold it
            return await stages.record_intent(await stages.fulfil(permit))
        permit = await reserving
        bearings.decision = permit.decision
        return await stages.record_intent(await _fulfilled(permit, stages))
    except Refused as refusal:
        await _refuse(arrival, bearings.complete(refusal), stages)
        raise
    except Exception as error:
        failure = bearings.complete(Refused(Code.INTERNAL_ERROR, type(error).__name__))
        await _refuse(arrival, failure, stages)
        raise failure from error


async def _fulfilled(permit: Permit, stages: Stages) -> Permit:
    """Duties of a call that has a place in its workflow's history: the place is given up where they are not fulfilled."""
    try:
        return await stages.fulfil(permit)
    except BaseException:
        await _shielded(stages.release(permit))
        raise


async def _close(arrival: Arrival, intent: Intent, outcome: Outcome, stages: Stages, hearing: Hearing | None) -> None:
    stages.observe(arrival, intent, outcome)
    try:
        ending = stages.record_outcome(intent, outcome) if hearing is None else _kept(intent, outcome, stages, hearing)
        await _shielded(ending)  # a client that hangs up must not erase the outcome
    except Refused as refusal:
        raise _of(refusal, intent.permit.principal, intent.permit.call) from None
    except LedgerUnavailableError as error:
        failure = Refused(Code.LEDGER_UNAVAILABLE, error.detail)
        raise _of(failure, intent.permit.principal, intent.permit.call) from error


async def _kept(intent: Intent, outcome: Outcome, stages: Stages, hearing: Hearing) -> None:
    """The outcome on record, and then in workflows' histories: never the other way round."""
    outcome = await hearing.follow(intent, outcome)
    recorded = False
    try:
        await stages.record_outcome(intent, outcome)
        recorded = True
    finally:
        await hearing.settle(outcome, recorded=recorded)


async def _refuse(arrival: Arrival, refusal: Refused, stages: Stages) -> None:
    stages.observe(arrival, refusal, None)
    try:
        await _shielded(stages.record_refusal(arrival, refusal))
    except Refused as failure:
        raise _of(failure, refusal.principal, refusal.call) from None


def _of(refusal: Refused, principal: Principal | None, call: Call | None) -> Refused:
    """Whose call it befell: a stranger's is told apart from everybody else's by that alone."""
    refusal.principal = refusal.principal or principal
    refusal.call = refusal.call or call
    return refusal


class _Tally:
    """What has been released so far."""

    __slots__ = ("bytes", "chunks", "detail", "events", "flags", "hearing", "permit", "status")

    def __init__(self, permit: Permit, hearing: Hearing | None) -> None:
        self.permit = permit
        self.hearing = hearing
        self.status = _INTERRUPTED
        self.detail = ""
        self.events = 0
        self.flags: set[str] = set()
        self.bytes = 0
        self.chunks: Chunks | None = None  # of an answer that is one message there is none: the record commits to that

    def count(self, reply: Reply, held: Reply | None) -> None:
        self.events += 1
        self.bytes += len(reply.body or b"")
        self.flags.update(reply.looked or ())
        if 0 < self.permit.answer_bytes < self.bytes:
            raise Refused(Code.LIMIT_REACHED, "the answer is larger", decision=self.permit.decision)
        if self.chunks is not None or not reply.is_final or held is not None:
            self._chunk(reply, held)
        if self.hearing is not None:
            self.hearing.hear(reply)

    def _chunk(self, reply: Reply, held: Reply | None) -> None:
        """One more of several: a reply without a body is no message on the wire."""
        if self.chunks is None:
            self.chunks = Chunks()
            if held is not None and held.body is not None:
                self.chunks.add(held.body)
        if reply.body is not None:
            self.chunks.add(reply.body)

    def outcome(self, last: Reply | None) -> Outcome:
        body = (last.body or b"") if last else b""
        original, flags = last.original if last else b"", tuple(sorted(self.flags))
        outcome = Outcome(
            self.status, body, self.detail, self.events, self.bytes, original=original, flags=flags, chunks=self.chunks
        )
        return outcome if self.hearing is None else self.hearing.outcome(outcome)


async def _shielded(work: Awaitable[object]) -> None:
    """Await to the end even while this task is being cancelled; the cancellation is kept for afterwards."""
    future = asyncio.ensure_future(work)  # the ledger's own future stays what it is: no task is made for it
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await (future if isinstance(future, Kept) else asyncio.shield(future))
        except asyncio.CancelledError as error:
            if future.cancelled():
                raise
            cancelled = error
    future.result()
    if cancelled is not None:
        raise cancelled
