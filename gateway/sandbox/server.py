"""The built-in MCP server `sandbox`, of both eras: runs code as it is asked, tells its output as it comes, gives its files."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from gateway.mcp.errors import INVALID_PARAMS, METHOD_NOT_FOUND, NO_RESOURCE, NOT_AVAILABLE, no_resource
from gateway.mcp.hop import SESSION_HEADER
from gateway.mcp.methods import (
    CALL_TOOL,
    CANCELLED,
    DISCOVER,
    INITIALIZE,
    LEGACY,
    LIST_RESOURCES,
    LIST_TEMPLATES,
    LIST_TOOLS,
    MODERN,
    READ_RESOURCE,
)  # fmt: skip
from gateway.model import Call, Intent, Principal, Reply, UpstreamError
from gateway.sandbox.asked import ENVIRONMENTS, RUNS, WrongError, definitions, read
from gateway.sandbox.kept import owner_of
from gateway.sandbox.progress import Progress, gone
from gateway.sandbox.results import result_of
from gateway.sandbox.runs import Ran, Sandboxed

_SERVER: Final = {"name": "bailiwick-sandbox", "version": "2"}
_SERVER_KEY: Final = "io.modelcontextprotocol/serverInfo"
_CAPABILITIES: Final[dict[str, Any]] = {"tools": {}, "resources": {}}
_CANCELLED_CODE: Final = -32800

_Named = tuple[object, ...]


class SandboxServer:
    """Implements `gateway.mcp.road.Upstream`.

    In the era of handshakes a run ends where its own session says so; in the stateless one where its caller hangs up.
    """

    def __init__(self, sandboxed: Sandboxed) -> None:
        self._sandboxed = sandboxed
        self._running: dict[_Named, list[asyncio.Task[Ran]]] = {}

    async def forward(self, intent: Intent) -> AsyncGenerator[Reply, None]:
        """Messages for this call, the last one final."""
        call = intent.permit.call
        if call.rpc_id is None:
            if call.method == CANCELLED:
                self._cancel(call, intent.permit.principal)
            yield Reply(None, is_final=True, status=202)
        elif call.method == CALL_TOOL and call.name in RUNS:
            async with aclosing(self._run(intent)) as replies:
                async for reply in replies:
                    yield reply
        else:
            yield await self._said(intent)

    async def tell(self, intent: Intent, message: dict[str, Any]) -> None:  # noqa: ARG002  there is no use for them
        """It asks nothing, and so is told nothing."""
        raise UpstreamError("protocol", "a response to nothing that was asked")

    async def _said(self, intent: Intent) -> Reply:
        """What needs no cage."""
        call, principal = intent.permit.call, intent.permit.principal
        if call.method == CALL_TOOL:
            return await self._environments(intent)
        if call.method == READ_RESOURCE:
            uri = call.message["params"]["uri"]
            file = self._sandboxed.kept.get(principal, uri)
            if file is None:
                return _not_there(call)
            return _result(call, {"contents": [file.contents()]})
        if call.method == LIST_RESOURCES:
            return _result(call, {"resources": [file.listed() for file in self._sandboxed.kept.of(principal)]})
        if call.method == LIST_TEMPLATES:
            return _result(call, {"resourceTemplates": []})
        if call.method == LIST_TOOLS:
            return _result(call, {"tools": definitions(await self._sandboxed.languages())})
        if call.method == INITIALIZE:
            described = {"protocolVersion": call.version, "capabilities": _CAPABILITIES, "serverInfo": _SERVER}
            return _result(call, described, ((SESSION_HEADER, secrets.token_urlsafe(24)),))
        if call.method == DISCOVER:
            return _result(call, {"supportedVersions": [*MODERN, *LEGACY], "capabilities": _CAPABILITIES})
        return _error(call, METHOD_NOT_FOUND, "Method not found", status=404 if call.version in MODERN else 200)

    async def _environments(self, intent: Intent) -> Reply:
        call = intent.permit.call
        if call.name != ENVIRONMENTS:
            return _error(call, INVALID_PARAMS, f"Unknown tool: {call.name}")
        if call.arguments:
            return _wrong(call, "It takes no arguments.")
        said = await self._sandboxed.environments(intent.permit)
        text = "\n".join(_line(entry) for entry in said)
        return _result(call, {"content": [_text(text)], "structuredContent": {"environments": said}, "isError": False})

    async def _run(self, intent: Intent) -> AsyncGenerator[Reply, None]:
        call = intent.permit.call
        try:
            asked = read(str(call.name), call.message["params"].get("arguments", {}))
        except WrongError as error:
            yield _wrong(call, str(error))
            return
        token = call.message["params"].get("_meta", {}).get("progressToken")
        progress = None if token is None else Progress(token)
        task = asyncio.create_task(self._sandboxed.run(intent, asked, None if progress is None else progress.take))
        named = _named(call, intent.permit.principal, call.rpc_id)
        self._running.setdefault(named, []).append(task)
        try:
            if progress is not None:
                async with aclosing(progress.until(task)) as notices:
                    async for notice in notices:
                        yield notice
            await asyncio.wait({task})
            yield _ended(call, task)
        finally:
            self._running[named].remove(task)
            if not self._running[named]:
                del self._running[named]
            if not task.done():
                await gone(task)

    def _cancel(self, call: Call, principal: Principal) -> None:
        """End the run that this session began by that id.  Where it could be one of several, none is picked."""
        tasks = self._running.get(_named(call, principal, call.message["params"].get("requestId")), [])
        if len(tasks) == 1:
            tasks[0].cancel()


def _named(call: Call, principal: Principal, rpc_id: object) -> _Named:
    return owner_of(principal), principal.workflow, call.session, rpc_id.__class__.__name__, str(rpc_id)


def _ended(call: Call, task: asyncio.Task[Ran]) -> Reply:
    """The final word; raises what the run was refused by."""
    if task.cancelled():
        return _error(call, _CANCELLED_CODE, "Request cancelled")
    try:
        return _result(call, result_of(task.result()))
    except WrongError as error:
        return _wrong(call, str(error))


def _line(entry: dict[str, Any]) -> str:
    ready = ", ".join(f"{language} {version}" for language, version in entry["languages"].items()) if entry["available"] else ""
    return f"{entry['name']}{' (default)' if entry['default'] else ''}: {ready or 'not available here'}"


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _wrong(call: Call, text: str) -> Reply:
    """What the model should correct; nothing ran."""
    return _result(call, {"content": [_text(text)], "isError": True})


def _not_there(call: Call) -> Reply:
    """Word for word what is said of a file that the caller may not know of."""
    code, status = no_resource(modern=call.version in MODERN)
    return _error(call, code, NO_RESOURCE, {"code": NOT_AVAILABLE, "decision": call.arrival.id}, status)


def _result(call: Call, result: dict[str, Any], headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    if call.version in MODERN:
        result = {**result, "resultType": "complete", "_meta": {_SERVER_KEY: _SERVER}}
    payload = {"jsonrpc": "2.0", "id": call.rpc_id, "result": result}
    return Reply(payload, is_final=True, headers=headers, failed=result.get("isError") is True)


def _error(call: Call, code: int, message: str, data: dict[str, Any] | None = None, status: int = 200) -> Reply:
    error = {"code": code, "message": message} | ({"data": data} if data else {})
    return Reply({"jsonrpc": "2.0", "id": call.rpc_id, "error": error}, is_final=True, status=status, failed=True)
