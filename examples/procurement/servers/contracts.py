"""The contract archive.  What it returns is confidential, and holds bank details that policy redacts on the way.

It also scans a text that is to leave the company for anything that stands in a contract.
"""

from __future__ import annotations

from collections.abc import Iterator
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


@server.tool()
def scan(text: str) -> dict[str, Any]:
    """Whether a text is clean of what stands in the contracts, and the names of the fields whose values it holds."""
    plain = _plain(text)
    found = {name for contract in CONTRACTS for name, value in _values(contract) if _plain(value) in plain}
    return {"clean": not found, "found": sorted(found)}


def _values(document: dict[str, Any], field: str = "") -> Iterator[tuple[str, str]]:
    """Each value as text, with the name of its outermost field; which supplier it is, and its currency, is no secret."""
    for name, value in document.items():
        if name in {"supplier", "currency"}:
            continue
        if isinstance(value, dict):
            yield from _values(value, field or name)
        else:
            yield field or name, str(value)


def _plain(text: str) -> str:
    """In lower case, letters and digits alone: "250,000" is 250000."""
    return "".join(letter for letter in text.lower() if letter.isalnum())


if __name__ == "__main__":
    serve(server)
