"""The one road: every call of every protocol goes through `govern`, and no stage can be skipped.

Read this file first.  What a stage does for MCP and for A2A stands in `gateway/mcp/endpoint.py` and `gateway/a2a/endpoint.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, Protocol

from audit.kept import Kept
from audit.model import LedgerUnavailableError
from audit.streamed import Chunks
from gateway.model import Arrival, Call, Intent, Outcome, OutcomeStatus, Permit, Principal, Refused, Reply, Said, UpstreamError
from gateway.reasons import Code
from gateway.scope import within
from policies.model import AccessRequest, Decision

_AUTHORITY_OVER = frozenset({Code.REVOKED, Code.INVALID_CREDENTIAL})
_INTERRUPTED: Final = OutcomeStatus.INTERRUPTED
_OK: Final = OutcomeStatus.OK, ""
_FAILED: Final = OutcomeStatus.TOOL_ERROR, ""
_RESUMED: Final = _INTERRUPTED, "the upstream closed the stream, and says the rest to whoever resumes it"


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
    forward         the upstream hop: its answer, or messages that whoever gets them reads at once, and closes.
    inspect         what duties look for in a message that takes time or asks others, before `filter`; only where there are such.
    filter          what of a message is released; sets its bytes.
    record_outcome  under way when called, durable when awaited, or it raises.
    record_refusal  durable on return, or it raises.
    observe         metrics and spans, off the hot path; must not raise or block.
    hear            what listens to the answer of a call that has such a place, or that may show what became of one before it.
                    None for every other.
    release         the place is given up, as the call is not made.  Must not raise.
    settled         the intent once its record is durable, or it raises: asked where a call is sent while that is written.
    watch           what a call runs within once it is sent: raises `Refused` where its authority is over, or as soon as it is.
    """

    authenticate: Callable[[Arrival], Awaitable[Principal]]
    parse: Callable[[Arrival, Principal], Call]
    normalise: Callable[[Call, Principal], AccessRequest]
    decide: Callable[[AccessRequest], Decision]
    fulfil: Callable[[Permit], Awaitable[Permit]]
    record_intent: Callable[[Permit], Awaitable[Intent]]
    forward: Callable[[Intent], Awaitable[Said]]
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


async def govern(arrival: Arrival, stages: Stages) -> AsyncGenerator[Reply, None]:
    """Carry one call to its tool and stream back the reply, or raise `Refused` or `UpstreamError`.

    The final message is released only after its outcome is durable.  Closing the generator (the client hung up) closes the
    upstream call and records the outcome as interrupted.
    """
    intent = await _admit(arrival, stages)
    tally = _Tally(intent, stages)
    held: Reply | None = None
    try:
        with stages.watch(intent):
            said = await stages.forward(intent)
            if isinstance(said, Reply):
                held = await tally.released(said)  # the final word waits for its record
            else:
                try:
                    async for raw in said:
                        reply = await tally.released(raw, held)
                        if held is not None:  # what looked final was not: the stream goes on
                            yield held
                        held = reply if reply.is_final else None
                        if held is None:
                            yield reply
                finally:
                    await said.aclose()
        if held is None:
            raise UpstreamError("closed", "the upstream ended without a final message")
        tally.status, tally.detail = _RESUMED if held.goes_on else _FAILED if held.failed else _OK
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
        await _close(arrival, tally.intent, tally.outcome(held), stages, tally.hearing)
    yield held


async def _admit(arrival: Arrival, stages: Stages) -> Intent:
    """The way in: from the frame to a recorded intent, or a recorded refusal."""
    principal: Principal | None = None  # how far it has come, so that a refusal can say whose it was and what it asked for
    call: Call | None = None
    request: AccessRequest | None = None
    decision: Decision | None = None
    try:
        principal = await stages.authenticate(arrival)
        call = stages.parse(arrival, principal)
        request = stages.normalise(call, principal)
        decision = stages.decide(request)
        if not decision.allowed:
            raise Refused(Code(decision.reason.value), decision=decision)
        if not within(principal.scope, request.resource):
            raise Refused(Code.INSUFFICIENT_SCOPE, decision=decision)
        permit = Permit.of(call, principal, request, decision)
        reserving = stages.reserve(permit)
        if reserving is None:  # no workflow's rules hold it
            return await stages.record_intent(await stages.fulfil(permit))
        permit = await reserving
        decision = permit.decision
        return await stages.record_intent(await _fulfilled(permit, stages))
    except Refused as refusal:
        await _refuse(arrival, _of(refusal, principal, call, request, decision), stages)
        raise
    except Exception as error:
        failure = _of(Refused(Code.INTERNAL_ERROR, type(error).__name__), principal, call, request, decision)
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


def _of(
    refusal: Refused,
    principal: Principal | None,
    call: Call | None,
    request: AccessRequest | None = None,
    decision: Decision | None = None,
) -> Refused:
    """Whose call it befell: a stranger's is told apart from everybody else's by that alone."""
    refusal.principal = refusal.principal or principal
    refusal.call = refusal.call or call
    refusal.request = refusal.request or request
    refusal.decision = refusal.decision or decision  # also of a call that was allowed and fell to a duty or an owner
    return refusal


class _Tally:
    """What has been released so far of the answer to an intent."""

    __slots__ = ("bytes", "chunks", "detail", "events", "flags", "hearing", "intent", "stages", "status")

    def __init__(self, intent: Intent, stages: Stages) -> None:
        self.intent = intent
        self.stages = stages
        self.hearing = stages.hear(intent.permit)
        self.status = _INTERRUPTED
        self.detail = ""
        self.events = 0
        self.flags: frozenset[str] = frozenset()
        self.bytes = 0
        self.chunks: Chunks | None = None  # of an answer that is one message there is none: the record commits to that

    async def released(self, raw: Reply, held: Reply | None = None) -> Reply:
        """A message as it may be released, counted as if it were, after `held`; what may not go out raises `Refused`."""
        stages, intent = self.stages, self.intent
        if intent.pending is not None:
            intent = self.intent = await stages.settled(intent)  # nothing of an answer is released before the record
        permit = intent.permit
        looked = await stages.inspect(raw, permit) if permit.redact or permit.flags else raw
        reply = stages.filter(looked, intent)
        self.events += 1
        if reply.body is not None:
            self.bytes += len(reply.body)
        if reply.looked:
            self.flags |= frozenset(reply.looked)
        if 0 < permit.answer_bytes < self.bytes:
            raise Refused(Code.LIMIT_REACHED, "the answer is larger", decision=permit.decision)
        if self.chunks is not None or not reply.is_final or held is not None:
            self._chunk(reply, held)
        if self.hearing is not None:
            self.hearing.hear(reply)
        return reply

    def _chunk(self, reply: Reply, held: Reply | None) -> None:
        """One more of several: a reply without a body is no message on the wire."""
        if self.chunks is None:
            self.chunks = Chunks()
            if held is not None and held.body is not None:
                self.chunks.add(held.body)
        if reply.body is not None:
            self.chunks.add(reply.body)

    def outcome(self, last: Reply | None) -> Outcome:
        body, original = (b"", b"") if last is None else (last.body or b"", last.original)
        flags = tuple(sorted(self.flags)) if self.flags else ()
        outcome = Outcome(
            self.status, body, self.detail, self.events, self.bytes, original=original, flags=flags, chunks=self.chunks
        )
        return outcome if self.hearing is None else self.hearing.outcome(outcome)


async def _shielded(work: Awaitable[object]) -> None:
    """Await to the end even while this task is being cancelled; the cancellation is kept for afterwards."""
    kept = isinstance(work, Kept)  # the ledger's own future: no task is made for it
    future = work if isinstance(work, Kept) else asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await (future if kept else asyncio.shield(future))
        except asyncio.CancelledError as error:
            if future.cancelled():
                raise
            cancelled = error
    future.result()
    if cancelled is not None:
        raise cancelled
