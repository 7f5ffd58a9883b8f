"""The contract archive.  What it returns is confidential, and holds bank details that policy redacts on the way."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import MCPServer
from tool_server import serve

CONTRACTS: list[dict[str, Any]] = [
    {
        "id": "C-2041",
        "supplier": "S-77",
        "title": "Framework agreement, office and print paper",
        "valid_until": "2027-12-31",
        "ceiling": 250000,
        "currency": "EUR",
        "payment_terms": "30 days net",
        "iban": "DE89370400440532013000",
        "bank_account": {"holder": "Nordwind Paper GmbH", "number": "0532013000"},
    },
]

server = MCPServer("contracts", version="1.0.0", log_level="WARNING")


@server.tool()
def search(supplier: str, query: str) -> dict[str, Any]:
    """Contracts with a supplier whose text holds the query; an empty query matches all of them."""
    wanted = query.lower()
    found = [c for c in CONTRACTS if c["supplier"] == supplier and wanted in f"{c['title']} {c['payment_terms']}".lower()]
    return {"supplier": supplier, "query": query, "contracts": found}


if __name__ == "__main__":
    serve(server)
