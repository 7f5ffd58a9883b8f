"""The supplier risk desk: a score from 0 (sound) to 100 (lost), and the figures behind it."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from tool_server import serve

SCORES: dict[str, dict[str, Any]] = {
    "S-77": {"score": 31, "figures": {"late_deliveries": 20, "payment_delays": 25, "insolvency_index": 48}},
    "S-42": {"score": 74, "figures": {"late_deliveries": 80, "payment_delays": 71, "insolvency_index": 71}},
    "S-13": {"score": 85, "figures": {"late_deliveries": 90, "payment_delays": 85, "insolvency_index": 80}},
}

server = MCPServer("risk", version="1.0.0", log_level="WARNING")


@server.tool()
def score(supplier: str) -> dict[str, Any]:
    """The risk score of a supplier and the figures it is the mean of."""
    if supplier not in SCORES:
        raise ToolError(f"no such supplier: {supplier}")
    return {"supplier": supplier, **SCORES[supplier]}


if __name__ == "__main__":
    serve(server)
