"""A small MCP server as a bare ASGI app: what peers are put in front of, since they speak the protocol to their upstream."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

RESULT = {"content": [{"type": "text", "text": "y" * 120}], "isError": False}
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}, "amount": {"type": "number"}}}
ANSWERS = {
    "initialize": {
        "protocolVersion": "2025-11-25",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "bench", "version": "1"},
    },
    "tools/list": {"tools": [{"name": "echo", "description": "echo", "inputSchema": SCHEMA}]},
    "tools/call": RESULT,
    "ping": {},
    "server/discover": {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "resultType": "complete"},
}


@lru_cache
def tools(count: int) -> dict[str, Any]:
    """A list of so many, for whoever asks below `/tools/<count>`."""
    return {"tools": [{"name": f"tool_{n}", "description": f"echo {n}", "inputSchema": SCHEMA} for n in range(count)]}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer initialize, tools/list, tools/call and ping; take notifications; refuse the rest."""
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"].removeprefix("lifespan.")
            await send({"type": f"lifespan.{kind}.complete"})
            if kind == "shutdown":
                return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    asked = json.loads(body) if body else {}
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": asked.get("id")}
    status = 405 if scope["method"] != "POST" else 202 if "id" not in asked else 200
    if asked.get("method") == "tools/list" and scope["path"].startswith("/tools/"):
        answer["result"] = tools(int(scope["path"].removeprefix("/tools/")))
    elif asked.get("method") in ANSWERS:
        answer["result"] = ANSWERS[asked["method"]]
    else:
        answer["error"] = {"code": -32601, "message": "method not found"}
    out = json.dumps(answer).encode() if status == 200 else b""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(out))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": out})
