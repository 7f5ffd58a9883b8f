"""What the five tool servers share: the official SDK's Streamable HTTP app behind one bearer secret.

The secret is known to the gateway alone, so going round the gateway ends in a 401.
"""

from __future__ import annotations

import hmac
import os
import sys
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

sys.path.append(str(Path(__file__).resolve().parent.parent))  # a script's own path holds its own folder only

import serving


class BearerSecret:
    """Lets through what carries `Authorization: Bearer <secret>`; answers 401 to everything else."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._expected = f"Bearer {secret}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                app = JSONResponse({"error": "unauthorized"}, 401, {"WWW-Authenticate": "Bearer"})
        await app(scope, receive, send)


def serve(server: MCPServer) -> None:
    """Serve at `/mcp` on the socket of the command line, behind the secret in UPSTREAM_SECRET."""
    secret = os.environ.get("UPSTREAM_SECRET", "")
    if not secret:
        sys.exit("UPSTREAM_SECRET is not set: a tool server without a secret could be called past the gateway")
    listening = serving.listening_socket()
    serving.run(BearerSecret(server.streamable_http_app(), secret), listening)
