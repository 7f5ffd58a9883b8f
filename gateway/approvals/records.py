"""What the ledger says of approvals: asked, granted, denied, used, expired.  Each is durable before it counts for anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.model import Entry, Value
from gateway.model import new_id
from gateway.received import ORIGINALS, committed

if TYPE_CHECKING:
    from gateway.model import Permit, Principal
    from gateway.state.approvals import Parked
    from policies.model import Decision

_PERSON = ("user", "@subject")


def ask(row: Parked, permit: Permit, about: bytes) -> Entry:
    """The call was parked.  The record has the approval's own id, so that there is one however often it is written."""
    principal, call = permit.principal, permit.call
    approval = permit.approval
    fields = _about(row) | {
        "proto": call.arrival.protocol,
        "target": call.target,
        "method": call.method,
        "trace": call.trace.trace_id,
        "chain": [_PERSON, *[("agent", actor) for actor in principal.actors]],
        "call": call.arrival.id,
        "action": permit.request.action,
        "duties": [name for name, _ in approval.duties] if approval is not None else [],
        "rules": [match.text for match in permit.decision.matched if match.effect == "require"][:32],
        "expires": row.expires_at,
    }
    value = Value("parked", about)
    if permit.by_digest:
        value, fields[ORIGINALS] = committed("parked", about)
    return Entry("approval.ask", row.id, row.created_at, row.subject, fields, (value,), tenant=row.tenant)


def said(  # noqa: PLR0917  what a record of it says, in its order
    kind: str, row: Parked, approver: Principal, decision: Decision, at: int, reason: str = "", proto: str = "http"
) -> Entry:
    """A person said yes (`approval.grant`) or no (`approval.deny`), and by which lines they may."""
    fields = _about(row) | {
        "proto": proto,
        "target": "",
        "chain": [_PERSON],
        "auth": {"method": approver.method, "cred": approver.credential, "jti": approver.jti},
        "rules": [match.text for match in decision.matched][:32],
    }
    values = (Value("reason", reason.encode()),) if reason else ()
    return Entry(kind, new_id(at), at, approver.subject, fields, values, {"requester": row.subject}, tenant=row.tenant)


def use(row: Parked, call: str, at: int, by: tuple[str, ...]) -> Entry:
    """The one call that it was for goes on; `approval.use` has the approval's id in its own, as there is one at most."""
    people = {f"approved_by{'' if number == 1 else f'_{number}'}": who for number, who in enumerate(by, 1)}
    return Entry("approval.use", f"{row.id}.use", at, row.subject, _about(row) | {"call": call}, (), people, tenant=row.tenant)


def withdraw(row: Parked, principal: Principal, call: str, at: int) -> Entry:
    """Whoever asked takes it back, by that call."""
    chain = [_PERSON, *[("agent", actor) for actor in principal.actors]]
    fields = _about(row) | {"chain": chain, "call": call}
    return Entry("approval.withdraw", f"{row.id}.withdraw", at, row.subject, fields, tenant=row.tenant)


def expire(row: Parked) -> Entry:
    """Nobody approved it in time, or nobody made the call that was approved."""
    at = row.ended_at or row.expires_at
    return Entry("approval.expire", f"{row.id}.expire", at, row.subject, _about(row), tenant=row.tenant)


def _about(row: Parked) -> dict[str, object]:
    return {
        "approval": row.id,
        "tenant": row.tenant,
        "workflow": row.workflow,
        "resource": row.resource,
        "digest": row.digest,
        "policy": row.bundle,
    }
