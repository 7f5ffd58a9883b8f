"""The built-in `sandbox` server: one tool, which runs code in a cage whose isolation is proven, or says no."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Final

from gateway.mcp.errors import INVALID_PARAMS
from gateway.mcp.methods import CALL_TOOL, DISCOVER, INITIALIZE, LEGACY, LIST_TOOLS, MODERN
from gateway.model import Call, Intent, Reply

Run = Callable[[str, str | None, str], Awaitable[Mapping[str, Any]]]
"""Code, profile (None: the default one), job id → how it went: `reason`, `exit_code`, `stdout`, `stderr`, `guarantees` …

Raises `Refused(ISOLATION_UNPROVEN)` where the profile's guarantees are not proven: nothing ran.
"""

TOOL: Final = "run_python"
MOST_MEMORY_MB: Final = 512
_SERVER = {"name": "bailiwick-sandbox", "version": "1"}
_SERVER_KEY = "io.modelcontextprotocol/serverInfo"
_DEFINITION: Final = {
    "name": TOOL,
    "title": "Run Python",
    "description": "Run a Python program in an isolated sandbox without network, and return what it prints.",
    "inputSchema": {
        "type": "object",
        "properties": {
            "code": {"type": "string", "description": "The program."},
            "network": {"type": "boolean", "default": False, "description": "Must be false: the sandbox has no network."},
            "memory_mb": {
                "type": "number",
                "exclusiveMinimum": 0,
                "maximum": MOST_MEMORY_MB,
                "description": "Memory it may need.",
            },
        },
        "required": ["code", "network", "memory_mb"],
        "additionalProperties": False,
    },
    "annotations": {"readOnlyHint": False, "destructiveHint": False, "openWorldHint": False},
}


class BuiltinServer:
    """Answers both eras itself; `run` is the sandbox."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def forward(self, intent: Intent) -> AsyncGenerator[Reply, None]:
        """The one answer to this call."""
        call = intent.permit.call
        if call.rpc_id is None:
            yield Reply(None, is_final=True, status=202)
        elif call.method == CALL_TOOL:
            yield await self._call(call, intent.permit.sandbox)
        else:
            yield _result(call, _described(call))

    async def _call(self, call: Call, profile: str | None) -> Reply:
        if call.name != TOOL:
            error = {"code": INVALID_PARAMS, "message": f"Unknown tool: {call.name}"}
            return Reply({"jsonrpc": "2.0", "id": call.rpc_id, "error": error}, is_final=True, failed=True)
        arguments = call.message["params"].get("arguments", {})
        wrong = _wrong(arguments)
        if wrong:
            return _result(call, {"content": [_text(wrong)], "isError": True})
        run = dict(await self._run(arguments["code"], profile, call.arrival.id))
        failed = run.get("reason") != "ok"
        said = "\n".join(part for part in (str(run.get("stdout", "")), str(run.get("stderr", ""))) if part)
        text = said or ("" if not failed else f"The run ended: {run.get('reason')}")
        return _result(call, {"content": [_text(text)], "structuredContent": run, "isError": failed})


def _wrong(arguments: Mapping[str, Any]) -> str:
    """What the model should correct; "" where nothing is wrong."""
    if set(arguments) != {"code", "network", "memory_mb"}:
        return "Give exactly code, network and memory_mb."
    memory = arguments["memory_mb"]
    if not isinstance(arguments["code"], str):
        return "code is a text."
    if arguments["network"] is not False:
        return "network is false: the sandbox has no network."
    if isinstance(memory, bool) or not isinstance(memory, int | float) or not 0 < memory <= MOST_MEMORY_MB:
        return f"memory_mb is a number above 0 and at most {MOST_MEMORY_MB}."
    return ""


def _described(call: Call) -> dict[str, Any]:
    if call.method == INITIALIZE:
        return {"protocolVersion": call.version, "capabilities": {"tools": {}}, "serverInfo": _SERVER}
    if call.method == DISCOVER:
        return {"supportedVersions": [*MODERN, *LEGACY], "capabilities": {"tools": {}}}
    if call.method == LIST_TOOLS:
        return {"tools": [_DEFINITION]}
    return {}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _result(call: Call, result: dict[str, Any]) -> Reply:
    if call.version in MODERN:
        result = {**result, "resultType": "complete", "_meta": {_SERVER_KEY: _SERVER}}
    payload = {"jsonrpc": "2.0", "id": call.rpc_id, "result": result}
    return Reply(payload, is_final=True, failed=result.get("isError") is True)
