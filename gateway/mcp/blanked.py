"""What a duty takes from a call before it is sent: out of its parameters, and out of the record of it."""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from gateway.mcp.methods import CALL_TOOL, GET_PROMPT
from gateway.mcp.strict import dumps, exact
from gateway.model import Permit, Refused
from gateway.obligations import blank
from gateway.reasons import Code

_PROTOCOL: Final = frozenset({"name", "task", "requestState"})
"""Members that are the protocol's own."""


def blanked(permit: Permit) -> Permit:
    """The permit of the call without it; `Refused(DUTY_FAILED)` where that could not be found in what is sent."""
    call, entries = permit.call, permit.redact_sent
    if call.direction == "resume":
        return permit  # says no arguments again
    if call.direction or call.method not in {CALL_TOOL, GET_PROMPT}:
        raise Refused(Code.DUTY_FAILED, "only arguments can be searched for what must not be sent", decision=permit.decision)
    params: dict[str, Any] = {
        key: value if key in _PROTOCOL else _root(key, value, entries) for key, value in call.message["params"].items()
    }
    message = {**call.message, "params": params}
    arguments = exact(params.get("arguments", {})) if call.arguments is not None else None
    return replace(permit, call=replace(call, message=message, arguments=arguments), said=dumps(message))


def _root(key: str, value: Any, entries: frozenset[str]) -> Any:
    """Paths begin at the arguments; what else is sent along is searched as a part of something."""
    return blank.data(value, entries) if key == "arguments" else blank.part(value, entries)
