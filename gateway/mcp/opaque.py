"""Upstreams' opaque values on their way through: sealed for the client, opened for the upstream, and never seen by the other."""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from gateway.mcp.errors import INVALID_PARAMS, RpcRefused
from gateway.mcp.sealed import Purpose, Sealed, UnknownValueError
from gateway.model import Call, Permit, Principal, UpstreamError
from gateway.reasons import Code

LONGEST_CURSOR: Final = 8192


def with_opened(call: Call, principal: Principal, sealed: Sealed) -> Call:
    """The call as its upstream may read it; `RpcRefused(INVALID_PARAMS)` for a value that is not this caller's, here and now."""
    params = call.message["params"]
    if "cursor" in params:
        params = {**params, "cursor": _cursor(call, params["cursor"], principal, sealed)}
        return replace(call, message={**call.message, "params": params})
    return call


def with_sealed(result: dict[str, Any], permit: Permit, sealed: Sealed) -> dict[str, Any]:
    """The result as this caller may keep it."""
    cursor = result.get("nextCursor") if permit.call.method.endswith("/list") else None
    if cursor is None:
        return result
    if not isinstance(cursor, str) or len(cursor) > LONGEST_CURSOR:
        raise UpstreamError("protocol", "cursor")
    call = permit.call
    text = sealed.seal(Purpose.CURSOR, cursor, server=call.target, principal=permit.principal, bound=call.method)
    return {**result, "nextCursor": text}


def _cursor(call: Call, text: object, principal: Principal, sealed: Sealed) -> str:
    try:
        cursor: str = sealed.open(Purpose.CURSOR, text, server=call.target, principal=principal, bound=call.method)
    except UnknownValueError as error:
        raise RpcRefused(Code.INVALID_PARAMS, f"cursor: {error}", rpc_code=INVALID_PARAMS, rpc_id=call.rpc_id) from None
    return cursor
