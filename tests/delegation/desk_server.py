"""A tool server on the official SDK.  `/sealed` beside its tools says, past the gateway, what was sealed."""

from __future__ import annotations

import socket

import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.requests import Request
from starlette.responses import JSONResponse

server = MCPServer("desk", version="1.0.0", log_level="WARNING")
sealed: list[str] = []


@server.tool()
def read(text: str) -> str:
    """Read."""
    return f"read {text}"


@server.tool()
def seal(text: str) -> str:
    """Seal: the one that matters."""
    sealed.append(text)
    return f"sealed {text}"


@server.tool()
def proven(text: str) -> str:
    """For proven chains alone."""
    return f"proven {text}"


@server.tool()
def note(text: str) -> str:
    """Note."""
    return f"noted {text}"


@server.custom_route("/sealed", methods=["GET"])
async def what_was_sealed(_request: Request) -> JSONResponse:
    """Everything, in order."""
    return JSONResponse(sealed)


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0))
    print("ready", listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="warning")).run(sockets=[listening])
