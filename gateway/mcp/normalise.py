"""An MCP call as the question that policy is asked: lists and calls by the same objects."""

from __future__ import annotations

from typing import Any

from gateway.mcp.methods import (
    CALL_TOOL,
    CANCEL_TASK,
    COMPLETE,
    GET_PROMPT,
    GET_TASK,
    READ_RESOURCE,
    SUBSCRIBE,
    UNSUBSCRIBE,
    UPDATE_TASK,
)
from gateway.mcp.questions import object_of
from gateway.model import Call, Principal
from policies import names
from policies.model import NOTHING, AccessRequest

_RESOURCES = {READ_RESOURCE: "read", SUBSCRIBE: "subscribe", UNSUBSCRIBE: "subscribe"}
TASK_ACTIONS = {GET_TASK: "read", UPDATE_TASK: "update", CANCEL_TASK: "cancel"}
PROMPT_REF = "ref/prompt"


def normalise(call: Call, principal: Principal) -> AccessRequest:
    """A tool call asks for `call` on `<server>.<tool>` with its arguments (not known where an answer is resumed); see `asked`."""
    tool = call.method == CALL_TOOL
    if call.direction == "answer":
        action, resource = object_of(call.said[0][1], call.target)
    else:
        action, resource = ("call", f"{call.target}.{call.name}") if tool else asked(call)
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


def asked(call: Call) -> tuple[str, str]:
    """(action, object) of whatever is no tool call: what it names, or `list` on the server where it names nothing.

    A completion asks what the prompt or the template asks that it completes: `list` on all that a template can name.
    What can stand in no rule is nobody's.
    """
    method, server = call.method, call.target
    if method in TASK_ACTIONS:
        return TASK_ACTIONS[method], f"task:{server}"
    params: dict[str, Any] = call.message["params"]
    if method in _RESOURCES:
        return _RESOURCES[method], names.resource(server, params["uri"]) or ""
    if method == GET_PROMPT:
        return "get", prompt(server, params["name"])
    if method == COMPLETE:
        ref = params["ref"]
        if ref["type"] == PROMPT_REF:
            return "get", prompt(server, ref["name"])
        found = names.template(server, ref["uri"]) or ""
        return "list" if found.endswith("*") else "read", found
    return "list", server


def prompt(server: str, name: str) -> str:
    """The object of a prompt."""
    return f"prompt:{server}/{name}"
