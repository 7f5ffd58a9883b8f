"""Raises purchase orders in the ERP, and pays invoices there."""

from __future__ import annotations

from typing import Any

from gateway_client import call_tool
from scripted_agent import Answer, gave_up, misunderstood, ok, serve


async def script(request: dict[str, Any], delegation: str) -> Answer:
    match request.get("intent"):
        case "order":
            order = {key: request[key] for key in ("supplier", "amount", "currency")}
            raised = await call_tool("erp", "write_po", {**order, "cost_center": "CC-100"}, delegation)
            return ok(raised, order=raised.value) if raised.status == "ok" else gave_up(raised)
        case "pay":
            invoice = {key: request[key] for key in ("supplier", "invoice", "amount", "currency")}
            paid = await call_tool("erp", "pay_invoice", invoice, delegation)
            return ok(paid, payment=paid.value) if paid.status == "ok" else gave_up(paid)
        case _:
            return misunderstood(request)


if __name__ == "__main__":
    serve(script, description="Raises purchase orders and pays invoices in the ERP", intents=("order", "pay"))
