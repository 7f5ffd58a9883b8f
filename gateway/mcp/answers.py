"""An upstream's message, read strictly: a result, an error, a notification for this call, or a breach of the protocol."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from gateway.mcp.errors import INVALID_PARAMS, MODERN_STATUS, POLICY
from gateway.mcp.methods import CALL_TOOL, GET_PROMPT, MODERN, READ_RESOURCE
from gateway.mcp.strict import UnreadableError, loads_answer
from gateway.model import Call, Reply, UpstreamError
from gateway.upstream.events import Event

_UNREAD_IDS = (None, "server-error")  # what servers say instead of an id that they did not read
ASKING = frozenset({CALL_TOOL, GET_PROMPT, READ_RESOURCE})
"""Methods whose answer may be a question of the server's."""
_LONGEST_MESSAGE = 4096
_LEGACY_NOT_FOUND = -32002


def event_reply(event: Event, call: Call) -> Reply | None:
    """One event of a stream; None for what says nothing.  The answer to this call is final; all else is yet to be judged."""
    if not event.data:  # opens a stream, with an id to resume at
        return Reply(None, is_final=False, event=event.id or "", retry=event.retry) if event.id else None
    message = _message(event.data)
    if "method" not in message:
        reply = final_reply(message, call, 200)
    else:
        found = notice(message)
        if found is None:
            return None
        reply = found
    return replace(reply, event=event.id or "", retry=event.retry) if event.id else reply


def notice(message: dict[str, Any]) -> Reply | None:
    """A notification, or a question of the server's, as `gateway/mcp/conversation.py` judges them."""
    if not isinstance(message["method"], str) or not isinstance(message.get("params", {}), dict | None):
        return None
    kept = {key: message[key] for key in ("jsonrpc", "id", "method", "params") if key in message}
    return Reply(kept, is_final=False)


def body_reply(data: bytes, call: Call, status: int) -> Reply:
    """A whole answer."""
    return final_reply(_message(data), call, status)


def final_reply(message: dict[str, Any], call: Call, status: int) -> Reply:
    """The final word of this call; `UpstreamError("protocol")` for another call's."""
    if "error" in message:
        return _error(message, call, status)
    rpc_id = message.get("id")
    if rpc_id != call.rpc_id or rpc_id.__class__ is not call.rpc_id.__class__ or "result" not in message:
        raise UpstreamError("protocol", "not the answer to this call")
    if status != 200:
        raise UpstreamError("status", str(status))
    result = message["result"]
    if not isinstance(result, dict):
        raise UpstreamError("protocol", "the result is not an object")
    failed = result.get("isError") is True
    return Reply({"jsonrpc": "2.0", "id": call.rpc_id, "result": result}, is_final=True, failed=failed)


def _message(data: bytes) -> dict[str, Any]:
    try:
        message = loads_answer(data)
    except UnreadableError:
        raise UpstreamError("protocol", "not JSON") from None
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise UpstreamError("protocol", "not one JSON-RPC message")
    return message


def _error(message: dict[str, Any], call: Call, status: int) -> Reply:
    error, rpc_id = message["error"], message.get("id")
    if rpc_id != call.rpc_id and rpc_id not in _UNREAD_IDS:
        raise UpstreamError("protocol", "not the answer to this call")
    if status in {401, 403} or 300 <= status < 400:  # between the gateway and the upstream, and nobody else's business
        raise UpstreamError("status", str(status))
    code, text = (error.get("code"), error.get("message")) if isinstance(error, dict) else (None, None)
    if not isinstance(code, int) or isinstance(code, bool) or not isinstance(text, str) or "result" in message:
        raise UpstreamError("protocol", "not a JSON-RPC error")
    modern = call.version in MODERN
    if modern and code == _LEGACY_NOT_FOUND:
        code = INVALID_PARAMS
    relayed = {"code": code, "message": text[:_LONGEST_MESSAGE]} | ({"data": error["data"]} if "data" in error else {})
    said = MODERN_STATUS.get(code, 200) if modern else (status if status in {400, 404} else 200)
    return Reply({"jsonrpc": "2.0", "id": call.rpc_id, "error": relayed}, is_final=True, status=said, failed=True)


def not_asked_for(reply: Reply, call: Call) -> Reply:
    """A result that is none: the server asks for input, or makes a task of the call, which nobody has offered it."""
    result = reply.payload.get("result") if call.method in ASKING else None
    if result is None or result.get("resultType", "complete") == "complete":
        return reply
    text = "The server asked for input or for time, which this gateway does not pass on."
    said: dict[str, Any] = {"jsonrpc": "2.0", "id": call.rpc_id}
    if call.method == CALL_TOOL:
        said["result"] = {"content": [{"type": "text", "text": text}], "isError": True, "resultType": "complete"}
    else:
        said["error"] = {"code": POLICY, "message": text}
    return Reply(said, is_final=True, failed=True)
