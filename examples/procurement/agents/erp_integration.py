"""Raises purchase orders in the ERP."""

from __future__ import annotations

from typing import Any

from gateway_client import call_tool
from scripted_agent import Answer, gave_up, misunderstood, ok, serve


async def script(request: dict[str, Any], delegation: str) -> Answer:
    if request.get("intent") != "order":
        return misunderstood(request)
    order = {key: request[key] for key in ("supplier", "amount", "currency")}
    raised = await call_tool("erp", "write_po", {**order, "cost_center": "CC-100"}, delegation)
    return ok(raised, order=raised.value) if raised.status == "ok" else gave_up(raised)


if __name__ == "__main__":
    serve(script, description="Raises purchase orders in the ERP", intents=("order",))
