"""A server's words in the client's era: results and errors lose or gain what only one of the eras knows (sans-I/O)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.mcp.errors import INVALID_PARAMS, META_CODE, META_DECISION, MODERN_STATUS, RESOURCE_NOT_FOUND, UPSTREAM
from gateway.mcp.lists import cached
from gateway.mcp.methods import (
    CALL_TOOL,
    DISCOVER,
    LEVEL_KEY,
    LIST_PROMPTS,
    LIST_RESOURCES,
    LIST_TEMPLATES,
    LIST_TOOLS,
    READ_RESOURCE,
)  # fmt: skip
from gateway.model import Call, Refused, UpstreamError
from gateway.receipts import of_refusal

CACHED: Final = frozenset({DISCOVER, LIST_TOOLS, LIST_RESOURCES, LIST_TEMPLATES, READ_RESOURCE, LIST_PROMPTS})
"""Results that say how long they hold, in the stateless era."""
SERVER_KEY: Final = "io.modelcontextprotocol/serverInfo"
_COMPLETE = "complete"


def answered(payload: Mapping[str, Any], client: Call, *, modern: bool, upstream_modern: bool) -> tuple[dict[str, Any], int]:
    """The answer as the client reads it, under its own id, and the HTTP status."""
    head: dict[str, Any] = {"jsonrpc": "2.0", "id": client.rpc_id}
    if "error" in payload:
        return {**head, "error": (error := _error(payload["error"], modern=modern))}, _status(error, modern=modern)
    result: dict[str, Any] = payload["result"]
    if modern and not upstream_modern:
        result = complete(result, client.method)
    elif upstream_modern and not modern:
        if result.get("resultType", _COMPLETE) != _COMPLETE:
            raise UpstreamError("protocol", "a result of a kind that the client does not know")
        result = {key: value for key, value in result.items() if key != "resultType"}
        if client.method in CACHED:
            result = cached(result, modern=False)
    return {**head, "result": result}, 200


def asks(payload: Mapping[str, Any], *, modern: bool) -> bool:
    """Whether a final word asks a client that does not know such results: the call is to be made again with the answers."""
    return not modern and payload.get("result", {}).get("resultType") == "input_required"


def unanswered(client: Call, server: str, decision: str, refusal: Refused, *, modern: bool) -> dict[str, Any]:
    """The answer where a server's question had none: nothing more was asked of the server."""
    code = refusal.code.value
    text = f"The server {server} asked for something and got no answer (code: {code}). Decision {decision}."
    head: dict[str, Any] = {"jsonrpc": "2.0", "id": client.rpc_id}
    if client.method == CALL_TOOL:
        meta = {META_CODE: code, META_DECISION: decision, **of_refusal(refusal)}
        result = {"content": [{"type": "text", "text": text}], "isError": True, "_meta": meta}
        return {**head, "result": complete(result, client.method) if modern else result}
    return {
        **head,
        "error": {"code": UPSTREAM, "message": text, "data": {"code": code, "decision": decision, **of_refusal(refusal)}},
    }


def complete(result: dict[str, Any], method: str) -> dict[str, Any]:
    """A result of the stateless era: whole, and where such a result says so, good for this caller alone."""
    result = {**result, "resultType": _COMPLETE}
    return cached(result, modern=True) if method in CACHED else result


def passes(notice: Mapping[str, Any], client: Call, *, modern: bool) -> bool:
    """Whether a notification on the way is for this client: one of the stateless era asks for log messages in each request."""
    if notice.get("method") != "notifications/message" or not modern:
        return True
    return LEVEL_KEY in client.message["params"].get("_meta", {})


def _error(error: Mapping[str, Any], *, modern: bool) -> dict[str, Any]:
    if modern and error["code"] == RESOURCE_NOT_FOUND:
        return {**error, "code": INVALID_PARAMS}
    return dict(error)


def _status(error: Mapping[str, Any], *, modern: bool) -> int:
    return MODERN_STATUS.get(error["code"], 200) if modern else 200
