"""An MCP call as the question that policy is asked."""

from __future__ import annotations

from gateway.mcp.methods import CALL_TOOL
from gateway.model import Call, Principal
from policies.model import NOTHING, AccessRequest


def normalise(call: Call, principal: Principal) -> AccessRequest:
    """A tool call asks for `call` on `<server>.<tool>` with its arguments; everything else for `list` on the server."""
    tool = call.method == CALL_TOOL
    return AccessRequest(
        subject=principal.subject,
        actors=principal.actors,
        tenant=principal.tenant,
        action="call" if tool else "list",
        resource=f"{call.target}.{call.name}" if tool else call.target,
        at=call.arrival.at,
        groups=principal.groups,
        arguments=call.arguments if tool else NOTHING,
        context=principal.facts("mcp", call.method, call.version),
    )
