"""Duties that a decision carries: fulfilled here, or the call is refused.  A duty may only narrow a permit, never widen it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from gateway.model import Permit, Refused
from gateway.obligations import audit, redact, sandbox
from gateway.obligations.duty import Duty
from gateway.reasons import Code

DUTIES: Mapping[str, Duty] = MappingProxyType(
    {
        "audit": audit.fulfil,
        "redact-result": redact.fulfil,
        "sandbox": sandbox.fulfil,
    }
)
"""Every duty this gateway knows, by its type in obligations.yaml."""


def fulfil(permit: Permit, duties: Mapping[str, Duty] = DUTIES) -> Permit:
    """The permit with every obligation of its decision taken care of.

    Raises `Refused(UNKNOWN_DUTY)` for a type nobody registered, and what the duty itself raises.
    """
    for obligation in permit.decision.obligations:
        duty = duties.get(obligation.type)
        if duty is None:
            raise Refused(Code.UNKNOWN_DUTY, f"{obligation.name}: type {obligation.type}", decision=permit.decision)
        permit = duty(permit, obligation)
    return permit
