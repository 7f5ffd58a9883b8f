"""The upstream where nginx is absent: a bare ASGI app with one fixed answer."""

from __future__ import annotations

from typing import Any

from bench.targets import RESULT

_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(RESULT))],
}
_BODY = {"type": "http.response.body", "body": RESULT.encode()}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer every request alike."""
    if scope["type"] == "lifespan":
        return
    while (await receive()).get("more_body"):
        pass
    await send(_START)
    await send(_BODY)
