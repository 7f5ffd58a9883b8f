"""What a refusal, an intent and an outcome say in the ledger; the only maker of `Intent`.

Nothing is forwarded before its intent is durable, nothing final is released before its outcome is.  Bodies are never in a leaf:
the leaf commits to them, and the openings stand beside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from audit.model import Entry, LedgerUnavailableError, Receipt, Value
from audit.streamed import STREAM
from gateway import model
from gateway.approved import Approval, waits
from gateway.decided import SUBJECT, Activated, decided, nowhere
from gateway.model import Arrival, Call, Clock, Intent, Outcome, Permit, Principal, Refused, new_id
from gateway.reasons import Code
from gateway.received import ORIGINALS, committed, facts, withheld
from policies.model import AccessRequest, Decision
from policies.sentence import explain
from policies.workflows import kept
from policies.workflows.story import Step

_PERSON: Final = ("user", SUBJECT)

Append = Callable[[Entry], Awaitable[Receipt]]
Submit = Callable[[Entry], Awaitable[Receipt]]
Vouch = Callable[[Receipt], Mapping[str, object]]


class Recorder:
    """Writes the records of calls: durable on return (`outcome` says how), or `Refused(LEDGER_UNAVAILABLE)` is raised.

    Refusals of strangers are bounded: at most `strangers_per_second` of them are records of their own, the others are counted
    and the count stands in the next one (at `close`, in that of the last of them): no stranger can fill the disk.
    """

    def __init__(
        self,
        append: Append,
        submit: Submit,
        clock: Clock,
        *,
        strangers_per_second: int = 20,
        vouch: Vouch | None = None,
        overlaps: Callable[[Permit], bool] | None = None,
        withholds: Callable[[Decision], bool] | None = None,
        spools: Callable[[Call], bool] | None = None,
        activated: Activated = nowhere,
    ) -> None:
        """`append`, `submit` and `vouch` are the journal's; without `vouch` callers get no receipts.

        overlaps  whether a call may be sent while its record is being written.
        withholds whether a decision has what was asked for stand in the ledger as a commitment alone.
        spools    whether a call's records may be kept in the spool while the store is away.
        activated where in the ledger a bundle came into force.
        """
        self._activated = activated
        self._vouch = vouch
        self._overlaps = overlaps
        self._spools = spools
        self._withholds = withholds
        self._append = append
        self._submit = submit
        self._clock = clock
        self._strangers_per_second = strangers_per_second
        self._second = 0
        self._seen = 0
        self._suppressed = 0
        self._last: tuple[Arrival, Refused] | None = None  # of those that were only counted

    async def close(self) -> None:
        """Write out what is only counted so far.  Never raises: a ledger that is gone has said so to every caller."""
        if self._last is not None and self._suppressed:
            self._suppressed -= 1  # the last one gets a record of its own
            with contextlib.suppress(Refused):
                await self._write_stranger(*self._last)

    async def intent(self, permit: Permit) -> Intent:
        """Record that the call is about to be sent, or a server's question put; the returned `Intent` is what may be."""
        call, principal, request = permit.call, permit.principal, permit.request
        if permit.approval is not None and waits(permit.approval):
            raise Refused(Code.DUTY_FAILED, "nobody can be asked to approve this", decision=permit.decision)
        arrival = call.arrival
        fields = _about(arrival, principal, call, request)
        fields["decision"] = said = decided(permit.decision, self._activated)
        said["fulfilled"] = list(permit.fulfilled)
        if permit.further:
            fields["further"] = [
                {"action": asked.action, "resource": asked.resource, "decision": decided(answer, self._activated)}
                for asked, answer in permit.further
            ]
        if permit.credential:
            fields["cred"] = permit.credential
        if permit.flags:
            fields["flags"] = list(permit.flags)
        if permit.tool_def:
            fields["tool_def"] = permit.tool_def
        kind = "question.ask" if call.direction == "question" else "call.start"
        values, originals = facts(call, request), None
        if permit.by_digest or permit.said is not None:
            values, originals = withheld(call, request, None if permit.by_digest else permit.said)
        if originals is not None:
            fields[ORIGINALS] = originals
        reserved = permit.reserved
        if reserved is not None:
            values = (*values, Value("step", kept.begun(reserved.step).encode()))
        people = _approved(permit.approval, fields) if permit.approval is not None else {}
        overlaps = self._overlaps is not None and reserved is None and self._overlaps(permit)
        if overlaps:
            fields["overlap"] = True
        spool, tenant = self._may_spool(permit), principal.tenant
        entry = Entry(kind, arrival.id, arrival.at, principal.subject, fields, values, people, spool, tenant)
        try:
            if overlaps:
                return Intent(permit, -1, model._RECORDED, None, self._submit(entry))
            receipt = await self._append(entry)
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error
        return Intent(permit, receipt.index, model._RECORDED, receipt)

    async def settled(self, intent: Intent) -> Intent:
        """The intent once its record is durable, or `Refused(LEDGER_UNAVAILABLE)`; before that nothing is released."""
        if intent.pending is None:
            return intent
        try:
            receipt = await intent.pending
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error
        return Intent(intent.permit, receipt.index, model._RECORDED, receipt)

    def receipt(self, intent: Intent) -> Mapping[str, object] | None:
        """What the caller of this call gets to keep."""
        return self._vouch(intent.receipt) if self._vouch is not None and intent.receipt is not None else None

    def outcome(self, intent: Intent, outcome: Outcome) -> Awaitable[Receipt]:
        """Record how the call ended, and what was (or would have been) released: on its way on return, durable when awaited.

        `LedgerUnavailableError`, at once or when awaited, where it is not.
        """
        if intent.pending is not None:
            return self._settled_outcome(intent, outcome)
        permit = intent.permit
        arrival, principal = permit.call.arrival, permit.principal
        now = self._clock()
        ended: dict[str, object] = {
            "status": outcome.status._value_,
            "detail": outcome.detail[:256],
            "latency_us": max(now - arrival.at, 0),
            "events": outcome.events,
            "bytes": outcome.bytes,
        }
        if outcome.step:
            ended["step"] = outcome.step
        if outcome.flags:
            ended["flags"] = list(outcome.flags)
        trace, followed = permit.call.trace.trace_id, outcome.followed
        fields: dict[str, object] = {"call": arrival.id, "workflow": principal.workflow, "trace": trace, "outcome": ended}
        if intent.start_index >= 0:  # else it was in the spool
            fields["start_index"] = intent.start_index
        values = (Value("response", outcome.body),) if outcome.body else ()
        if outcome.original:
            salt, fields[ORIGINALS] = committed("response", outcome.original)
            values = (*values, salt)
        if outcome.chunks is not None and outcome.chunks.count:
            salt, fields[STREAM] = outcome.chunks.said()
            values = (*values, salt)
        if outcome.results:
            values = (*values, Value("step", outcome.results.encode()))
        if followed is not None:
            fields["settles"] = [{"call": step.id, "step": step.state.value} for _, step in followed.steps]
            if results := kept.settled(step for _, step in followed.steps):
                values = (*values, Value("settled", results.encode()))
        spool, tenant = followed is None and self._may_spool(permit), principal.tenant
        entry_id = new_id(now) if followed is None else followed.record
        return self._submit(Entry("call.end", entry_id, now, principal.subject, fields, values, {}, spool, tenant))

    def _may_spool(self, permit: Permit) -> bool:
        return self._spools is not None and permit.reserved is None and self._spools(permit.call)

    async def _settled_outcome(self, intent: Intent, outcome: Outcome) -> Receipt:
        """An end is written after its start, and not without."""
        return await self.outcome(await self.settled(intent), outcome)

    async def authorisation(self, intent: Intent, task: str, hosts: tuple[str, ...], withheld: bool) -> None:
        """Record that the agent asks the person of a call to authorise something elsewhere, before anybody is told so."""
        call, principal = intent.permit.call, intent.permit.principal
        now = self._clock()
        fields: dict[str, object] = {
            "call": call.arrival.id,
            "target": call.target,
            "workflow": principal.workflow,
            "trace": call.trace.trace_id,
            "task": task,
            "hosts": list(hosts[:16]),
            "withheld": withheld,
        }
        await self._write(Entry("authorisation.ask", new_id(now), now, principal.subject, fields, tenant=principal.tenant))

    async def refusal(self, arrival: Arrival, refusal: Refused) -> None:
        """Record a call that was not made, and why."""
        principal, call, request, decision = refusal.principal, refusal.call, refusal.request, refusal.decision
        if principal is None:
            await self._stranger(arrival, refusal)
            return
        fields = _about(arrival, principal, call, request)
        fields["refused"] = {"code": refusal.code.value, "detail": refusal.detail[:256]}
        values = facts(call, request)
        if decision is not None:
            if self._withholds is not None and decision.obligations and self._withholds(decision):
                values, originals = withheld(call, request, None)
                if originals is not None:
                    fields[ORIGINALS] = originals
            fields["decision"] = decided(decision, self._activated)
            if request is not None:
                values = (*values, Value("explanation", explain(request, decision).encode()))
        spool = self._spools is not None and call is not None and self._spools(call)
        receipt = await self._write(
            Entry("decision.deny", arrival.id, arrival.at, principal.subject, fields, values, {}, spool, principal.tenant)
        )
        if self._vouch is not None:
            refusal.receipt = self._vouch(receipt)

    async def wish(  # noqa: PLR0917  what a record of it says, in its order
        self,
        kind: str,
        arrival: Arrival,
        principal: Principal,
        request: AccessRequest,
        decision: Decision,
        wanted: str,
        step: Step | None = None,
    ) -> None:
        """Record what somebody wanted of the gateway itself, before anything is done: `kind` where they may, else a denial.

        `step` is its place in a workflow's history, where it has one.
        """
        fields = _about(arrival, principal, None, request)
        fields["proto"], fields["target"], fields["wanted"] = "http", "", wanted[:256]
        fields["decision"] = decided(decision, self._activated)
        if not decision.allowed:
            kind, fields["refused"] = "decision.deny", {"code": decision.reason.value, "detail": ""}
        values = (*facts(None, request), *((Value("step", kept.begun(step).encode()),) if step is not None else ()))
        await self._write(Entry(kind, arrival.id, arrival.at, principal.subject, fields, values, tenant=principal.tenant))

    async def connection(  # noqa: PLR0917  what a record of it says, in its order
        self,
        arrival: Arrival,
        principal: Principal,
        request: AccessRequest,
        decision: Decision | None,
        said: Mapping[str, object],
        refusal: Refused | None = None,
    ) -> Receipt:
        """Record a connection that sandboxed code asks for, before anything is opened: that it may, or why it may not.

        `arrival` is the run's, with the connection's own id and time.
        """
        fields = _about(arrival, principal, None, request) | {"proto": "sandbox", "method": "CONNECT", "egress": said}
        fields["target"], fields["caused_by"] = "", said.get("run", "")
        values = facts(None, request)
        if decision is not None:
            fields["decision"] = decided(decision, self._activated)
            if not decision.allowed:
                values = (*values, Value("explanation", explain(request, decision).encode()))
        if refusal is not None:
            fields["refused"] = {"code": refusal.code.value, "detail": refusal.detail[:256]}
        kind = "egress.start" if refusal is None else "decision.deny"
        return await self._write(Entry(kind, arrival.id, arrival.at, principal.subject, fields, values, tenant=principal.tenant))

    async def connection_end(self, arrival: Arrival, principal: Principal, start_index: int, said: Mapping[str, object]) -> None:
        """Record how such a connection ended."""
        now = self._clock()
        fields: dict[str, object] = {
            "call": arrival.id,
            "start_index": start_index,
            "workflow": principal.workflow,
            "trace": arrival.trace.trace_id,
            "egress": {**said, "latency_us": max(now - arrival.at, 0)},
        }
        await self._write(Entry("egress.end", new_id(now), now, principal.subject, fields, tenant=principal.tenant))

    async def _stranger(self, arrival: Arrival, refusal: Refused) -> None:
        second = arrival.at // 1_000_000
        if second != self._second:
            self._second, self._seen = second, 0
        self._seen += 1
        if self._seen > self._strangers_per_second:
            self._suppressed += 1
            self._last = arrival, refusal
            return
        await self._write_stranger(arrival, refusal)

    async def _write_stranger(self, arrival: Arrival, refusal: Refused) -> None:
        fields = _about(arrival, None, None, None) | {"refused": {"code": refusal.code.value, "detail": refusal.detail[:256]}}
        fields["peer"] = arrival.peer
        suppressed, self._suppressed = self._suppressed, 0
        if suppressed:
            fields["suppressed"] = suppressed
        try:
            await self._write(Entry("auth.refused", arrival.id, arrival.at, None, fields))
        except Refused:
            self._suppressed += suppressed + 1
            raise

    async def _write(self, entry: Entry) -> Receipt:
        try:
            return await self._append(entry)
        except LedgerUnavailableError as error:
            raise Refused(Code.LEDGER_UNAVAILABLE, error.detail) from error


def _approved(approval: Approval, fields: dict[str, object]) -> Mapping[str, str]:
    """Who said yes to it, by pseudonym, and in which approval."""
    fields["approval"] = approval.id
    return {f"approved_by{'' if number == 1 else f'_{number}'}": who for number, who in enumerate(approval.by, 1)}


def _about(arrival: Arrival, principal: Principal | None, call: Call | None, request: AccessRequest | None) -> dict[str, object]:
    """Who (the person by pseudonym, the agents by id, and how the caller proved itself), and what was asked for.

    Of a message that could not be read, only where it went.
    """
    trace = call.trace if call is not None else arrival.trace
    fields: dict[str, object] = {
        "proto": arrival.protocol,
        "target": arrival.target,
        "trace": trace.trace_id,
        "span": trace.span_id,
        "parent": trace.parent,
    }
    if trace.link:
        fields["link"] = trace.link
    if principal is not None:
        fields["tenant"] = principal.tenant
        fields["workflow"] = principal.workflow
        if principal.definition:
            fields["definition"] = principal.definition
        fields["chain"] = [_PERSON, *[("agent", actor) for actor in principal.actors]]
        fields["caused_by"] = principal.caused_by
        fields["auth"] = auth = {
            "method": principal.method,
            "cred": principal.credential,
            "jti": principal.jti,
            "assurance": principal.assurance,
        }
        if principal.grant:
            auth["grant"] = principal.grant
        if principal.instance and principal.actors:  # of an agent; a person's would join what came before an erasure and after
            auth["instance"] = principal.instance
    if call is not None:
        tool = call.name if call.arguments is not None else None  # prompts and resources stand in `resource` alone
        fields["proto_ver"], fields["method"], fields["tool"] = call.version, call.method, tool or ""
        if call.direction:
            fields["direction"] = call.direction
        if call.about:
            fields["about"] = list(call.about)
        if call.context:
            fields["context"] = call.context
        if call.linked:
            fields["session"] = call.linked
        if call.said:
            fields["said"] = [{"question": asked, "kind": kind, "action": did} for asked, kind, did in call.said]
    if request is not None:
        fields["action"], fields["resource"] = request.action, request.resource
    return fields
