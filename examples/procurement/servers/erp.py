"""The ERP: purchase orders and payments, in memory, numbered from PO-0001 and PAY-0001."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from tool_server import serve

SUPPLIERS = {
    "S-77": {"id": "S-77", "name": "Nordwind Paper GmbH", "status": "active"},
    "S-42": {"id": "S-42", "name": "Fasttrack Supplies KG", "status": "active"},
    "S-13": {"id": "S-13", "name": "Quickship Trading Ltd", "status": "blocked"},
}

server = MCPServer("erp", version="1.0.0", log_level="WARNING")
orders: dict[str, dict[str, Any]] = {}
payments: dict[str, dict[str, Any]] = {}


@server.tool()
def read(entity: str, id: str) -> dict[str, Any]:  # noqa: A002  the argument's name in the ERP's own interface
    """Read one record of "orders", "payments" or "suppliers", or all of them with id "*"."""
    tables: dict[str, dict[str, dict[str, Any]]] = {"orders": orders, "payments": payments, "suppliers": SUPPLIERS}
    if entity not in tables:
        raise ToolError(f"no such entity: {entity}")
    table = tables[entity]
    if id == "*":
        return {"entity": entity, "records": list(table.values())}
    if id not in table:
        raise ToolError(f"no such record in {entity}: {id}")
    return {"entity": entity, "records": [table[id]]}


@server.tool()
def write_po(supplier: str, amount: float, currency: str, cost_center: str) -> dict[str, Any]:
    """Raise a purchase order."""
    if supplier not in SUPPLIERS:
        raise ToolError(f"no such supplier: {supplier}")
    order = {
        "id": f"PO-{len(orders) + 1:04d}",
        "supplier": supplier,
        "amount": amount,
        "currency": currency,
        "cost_center": cost_center,
        "status": "raised",
    }
    orders[order["id"]] = order
    return order


@server.tool()
def pay_invoice(supplier: str, invoice: str, amount: float, currency: str) -> dict[str, Any]:
    """Pay a supplier's invoice."""
    if supplier not in SUPPLIERS:
        raise ToolError(f"no such supplier: {supplier}")
    number = f"PAY-{len(payments) + 1:04d}"
    payments[number] = {"id": number, "supplier": supplier, "invoice": invoice, "amount": amount, "currency": currency}
    return payments[number]


if __name__ == "__main__":
    serve(server)
