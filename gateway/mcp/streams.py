"""The era of handshakes, what is no POST: the stream for notices (GET), the rest of a broken answer, a session's end (DELETE)."""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from gateway.mcp.errors import RpcRefused
from gateway.mcp.methods import ASSUMED, CALL_TOOL, LEGACY, METHODS
from gateway.mcp.sealed import Purpose, Sealed, UnknownValueError
from gateway.model import Arrival, Call, Permit, Principal
from gateway.reasons import Code

STREAM, END = "GET", "DELETE"
"""How they are called where a method is named: as no message can be."""
LAST_EVENT: Final = "last-event-id"
_ONCE: Final = ("mcp-session-id", "mcp-protocol-version", LAST_EVENT)


def read(arrival: Arrival) -> Call:
    """The stream or the end that is asked for; `RpcRefused` where this era or this request has none."""
    version = arrival.header("mcp-protocol-version")
    if arrival.http_method not in {STREAM, END} or (version is not None and version not in LEGACY):
        raise RpcRefused(Code.UNKNOWN_METHOD, arrival.http_method[:16], status=405)
    if any(len(arrival.every(name)) > 1 for name in _ONCE):
        raise RpcRefused(Code.HEADER_MISMATCH, "a header is repeated")
    if arrival.http_method == STREAM and not _accepts(arrival.header("accept")):
        raise RpcRefused(Code.MALFORMED, "accept", status=406)
    if arrival.body:
        raise RpcRefused(Code.MALFORMED, "a body where none belongs")
    return Call(
        arrival=arrival,
        method=arrival.http_method,
        target=arrival.target,
        message={"params": {}},
        trace=arrival.trace,
        version=version or ASSUMED,
    )


def resuming(call: Call, principal: Principal, sealed: Sealed) -> Call:
    """Where the stream goes on after an event: the call that the event was a part of, for its method, tool and duties.

    An event of somebody else's, of another session or from elsewhere is answered as an unknown session is.
    """
    last = call.arrival.header(LAST_EVENT)
    if call.method != STREAM or last is None:
        return call
    try:
        event, method, name, rpc_id, withhold, first = sealed.open(
            Purpose.EVENT, last, server=call.target, principal=principal, bound=call.session or ""
        )
    except UnknownValueError as error:
        raise RpcRefused(Code.UNKNOWN_SESSION, f"event: {error}") from None
    if method == STREAM:
        return replace(call, resumes=event)
    named = METHODS[method].named
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": rpc_id, "method": method, "params": {named: name} if named else {}}
    return replace(
        call,
        method=method,
        name=name,
        rpc_id=rpc_id,
        message=message,
        resumes=event,
        direction="resume",
        about=(first,),
        withhold=frozenset(withhold),
    )


def event_id(event: str, permit: Permit, sealed: Sealed) -> str:
    """The id under which the client knows an upstream's event; "" for one of an answer that cannot be resumed."""
    call = permit.call
    row = METHODS.get(call.method)
    if call.method != STREAM and (row is None or call.rpc_id is None or not (row.named or call.method.endswith("/list"))):
        return ""
    first = call.about[0] if call.direction == "resume" else call.arrival.id
    inner = [event, call.method, call.name, call.rpc_id, sorted(permit.redact), first]
    return sealed.seal(Purpose.EVENT, inner, server=call.target, principal=permit.principal, bound=call.session or "")


def unknown_arguments(call: Call) -> bool:
    """Whether policy is asked about a tool whose arguments are not said again."""
    return call.direction == "resume" and call.method == CALL_TOOL


def _accepts(accept: str | None) -> bool:
    kinds = {part.partition(";")[0].strip().lower() for part in (accept or "").split(",")}
    return bool(kinds & {"text/event-stream", "text/*", "*/*"})
