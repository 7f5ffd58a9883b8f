"""What policy is asked when an agent hands on to a part of itself: what an A2A call to that part would ask."""

from __future__ import annotations

from gateway.model import Principal, Refused
from gateway.reasons import Code
from gateway.scope import within
from policies.model import NOTHING, AccessRequest, Decision


def question(principal: Principal, child: str, at: int) -> AccessRequest:
    """The same that an A2A call to the child asks: else a policy about that would have a door beside it."""
    return AccessRequest(
        subject=principal.subject,
        actors=principal.actors,
        tenant=principal.tenant,
        action="send",
        resource=f"a2a:{child}",
        at=at,
        groups=principal.groups,
        arguments=NOTHING,
        context=principal.facts("a2a", "SendMessage", "1.0"),
    )


def refusal(principal: Principal, request: AccessRequest, decision: Decision) -> Refused | None:
    """Why nothing is handed on; None where it may be."""
    if not decision.allowed:
        return Refused(Code(decision.reason.value), decision=decision)
    if not within(principal.scope, request.resource):
        return Refused(Code.INSUFFICIENT_SCOPE, decision=decision)
    if any(duty.type != "audit" for duty in decision.obligations):  # audit is fulfilled: it will be on record
        return Refused(Code.DUTY_FAILED, "no such duty can be fulfilled here", decision=decision)
    return None
