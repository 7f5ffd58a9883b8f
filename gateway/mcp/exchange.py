"""One call to a child: its messages on the way and the last one; and what is said in a child's place."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from gateway.mcp.answers import final_reply, notice
from gateway.mcp.child import Child
from gateway.mcp.errors import INVALID_REQUEST, UNSUPPORTED_VERSION
from gateway.mcp.hop import SESSION_HEADER
from gateway.mcp.methods import MODERN
from gateway.mcp.streams import END, STREAM
from gateway.mcp.wire import onward
from gateway.model import Call, Reply


async def exchange(child: Child, call: Call, whose: str = "") -> AsyncGenerator[Reply, None]:
    """A request and its answer, or a notification."""
    message = onward(call)
    if call.rpc_id is None:
        child.notify(message, whose=whose)
        yield Reply(None, is_final=True, status=202)
        return
    async with aclosing(relayed(child, message, call, whose)) as replies:
        async for reply in replies:
            yield reply


async def relayed(
    child: Child, message: dict[str, Any], call: Call, whose: str, patience: float | None = None
) -> AsyncGenerator[Reply, None]:
    """A request, in this wording, and what is said to it."""
    async with aclosing(child.request(message, whose=whose, patience=patience)) as messages:
        async for said in messages:
            reply = notice(said) if "method" in said else final_reply(said, call, 200)
            if reply is not None:
                yield reply


def missed(acknowledged: dict[str, Any]) -> Iterator[Reply]:
    """That lists may have changed, of those that are listened to: the server was not there to say so."""
    params = acknowledged["params"]
    wanted = params.get("notifications")
    for kind in ("tools", "prompts", "resources"):
        if isinstance(wanted, dict) and wanted.get(f"{kind}ListChanged") is True:
            said = {
                "jsonrpc": "2.0",
                "method": f"notifications/{kind}/list_changed",
                "params": {"_meta": params.get("_meta", {})},
            }
            yield Reply(said, is_final=False)


def opened_as(session: str, payload: dict[str, Any]) -> Reply:
    """The answer that opens a session."""
    return Reply(payload, is_final=True, headers=((SESSION_HEADER, session),))


def unsupported(call: Call, versions: tuple[str, ...]) -> Reply:
    """What clients fall back on: the server speaks these revisions alone."""
    data = {"supported": list(versions), "requested": call.version}
    era = "without a handshake" if versions == MODERN else "with a handshake"
    return _error(call, UNSUPPORTED_VERSION, f"This server speaks the revisions {era}", 400, data)


def no_session(call: Call) -> Reply:
    """Unknown to this process, or none at all: either way the client starts anew."""
    status = 404 if call.session else 400
    if call.method in {STREAM, END}:
        return Reply(None, is_final=True, status=status, failed=True)
    return _error(call, INVALID_REQUEST, "Session not found", status)


def _error(call: Call, code: int, message: str, status: int, data: dict[str, Any] | None = None) -> Reply:
    error = {"code": code, "message": message} | ({"data": data} if data else {})
    return Reply({"jsonrpc": "2.0", "id": call.rpc_id, "error": error}, is_final=True, status=status, failed=True)
