"""The exact call, as one digest: whatever of it would reach the upstream otherwise makes another one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.model import Call, Permit, Refused
from gateway.reasons import Code
from policies.canonical import UncanonicalError, canonical

Sent = Callable[[Call], object]

_OF_ONE_REQUEST: Final = frozenset({"progressToken", "traceparent", "tracestate", "baggage"})
"""Members of `_meta` that are another at every try, and say nothing of what is done."""
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
"""An id of a message that is nothing but an id.  Whoever hides words in one has another call."""


def mcp_params(call: Call) -> object:
    """The params of an MCP request as they are sent, but for what belongs to one try of it."""
    params: Mapping[str, Any] = call.message.get("params", {})
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        return params
    return {**params, "_meta": {key: value for key, value in meta.items() if key not in _OF_ONE_REQUEST}}


def a2a_params(params_of: Sent) -> Sent:
    """The params of an A2A operation, but for the message's id; and the extensions that its agent is told of beside them."""

    def sent(call: Call) -> object:
        params: Any = params_of(call)
        if call.kept is not None and call.kept.extensions:
            params = {**params, "extensions": sorted(call.kept.extensions)}
        message = params.get("message")
        if not isinstance(message, dict) or not _PLAIN_ID.fullmatch(str(message.get("messageId", ""))):
            return params
        return {**params, "message": {key: value for key, value in message.items() if key != "messageId"}}

    return sent


def exact(permit: Permit, sent: Sent) -> bytes:
    """Canonical bytes of everything that an approval is bound to; `Refused(DUTY_FAILED)` where there is no one form."""
    call, principal, request, approval = permit.call, permit.principal, permit.request, permit.approval
    assert approval is not None  # noqa: S101  whoever asks has looked
    said = {
        "v": 1,
        "tenant": principal.tenant,
        "subject": principal.subject,
        "actors": list(principal.actors),
        "workflow": principal.workflow,
        "policy": permit.decision.bundle,
        "duties": [name for name, _ in approval.duties],
        "action": request.action,
        "resource": request.resource,
        "protocol": call.arrival.protocol,
        "target": call.target,
        "method": call.method,
        "params": sent(call),
    }
    try:
        return canonical(said)
    except UncanonicalError as error:
        raise Refused(Code.DUTY_FAILED, f"the call has no one form to approve: {error}", decision=permit.decision) from None
