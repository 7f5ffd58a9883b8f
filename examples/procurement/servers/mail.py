"""The mail gateway: what is sent to others than acme.example has left the company.  It only keeps count."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import MCPServer
from tool_server import serve

server = MCPServer("mail", version="1.0.0", log_level="WARNING")
sent: list[dict[str, str]] = []


@server.tool()
def send(to: str, body: str) -> dict[str, Any]:
    """Send a mail."""
    sent.append({"to": to, "body": body})
    return {"id": f"M-{len(sent):04d}", "to": to, "status": "sent"}


if __name__ == "__main__":
    serve(server)
