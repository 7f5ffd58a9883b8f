"""Prepares purchases: has the contract reviewed and the risk assessed, then has the order raised.  Sends mail.

It judges nothing: whether the order may be raised is for the gateway's policy.  `order-directly` is the steered path, without
reviews.
"""

from __future__ import annotations

import asyncio
from typing import Any

from gateway_client import Outcome, ask_agent, call_tool
from scripted_agent import Answer, gave_up, misunderstood, ok, serve


async def script(request: dict[str, Any], delegation: str) -> Answer:
    match request.get("intent"):
        case "purchase":
            return await purchase(request, delegation)
        case "order-directly":
            raised = await order(request, delegation)
            return ok(raised, order=raised.value["order"]) if raised.status == "ok" else gave_up(raised)
        case "mail":
            sent = await call_tool("mail", "send", {key: request[key] for key in ("to", "body")}, delegation)
            return ok(sent, mail=sent.value) if sent.status == "ok" else gave_up(sent)
        case _:
            return misunderstood(request)


async def purchase(request: dict[str, Any], delegation: str) -> Answer:
    supplier = request["supplier"]
    reviews = await asyncio.gather(
        ask_agent("contract-review", {"intent": "review", "supplier": supplier}, delegation),
        ask_agent("supplier-risk", {"intent": "assess", "supplier": supplier, "probe": bool(request.get("probe"))}, delegation),
    )
    for review in reviews:
        if review.status != "ok":
            return gave_up(review, *reviews)
    raised = await order(request, delegation)
    return ok(*reviews, raised, order=raised.value["order"]) if raised.status == "ok" else gave_up(raised, *reviews, raised)


async def order(request: dict[str, Any], delegation: str) -> Outcome:
    wanted = {key: request[key] for key in ("supplier", "amount", "currency")}
    return await ask_agent("erp-integration", {"intent": "order", **wanted}, delegation)


if __name__ == "__main__":
    serve(script, description="Prepares purchases and writes to suppliers", intents=("purchase", "order-directly", "mail"))
