"""An MCP call as the question that policy is asked."""

from __future__ import annotations

from gateway.mcp.methods import CALL_TOOL, READ_RESOURCE
from gateway.model import Call, Principal
from policies.model import NOTHING, AccessRequest


def normalise(call: Call, principal: Principal) -> AccessRequest:
    """A tool call asks for `call` on `<server>.<tool>` with its arguments, a resource for `read` on `res:<server>/<uri>`;
    everything else for `list` on the server."""
    tool = call.method == CALL_TOOL
    action, resource = "list", call.target
    if tool:
        action, resource = "call", f"{call.target}.{call.name}"
    elif call.method == READ_RESOURCE:
        action, resource = "read", f"res:{call.target}/{call.message['params']['uri']}"
    return AccessRequest(
        subject=principal.subject,
        actors=principal.actors,
        tenant=principal.tenant,
        action=action,
        resource=resource,
        at=call.arrival.at,
        groups=principal.groups,
        arguments=call.arguments if tool else NOTHING,
        context=principal.facts("mcp", call.method, call.version),
    )
