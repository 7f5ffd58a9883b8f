"""Looks up what has been agreed with a supplier, and has a text scanned for what must not leave the company."""

from __future__ import annotations

from typing import Any

from gateway_client import call_tool
from scripted_agent import Answer, gave_up, misunderstood, ok, serve


async def script(request: dict[str, Any], delegation: str) -> Answer:
    match request.get("intent"):
        case "review":
            found = await call_tool("contracts", "search", {"supplier": request["supplier"], "query": ""}, delegation)
            return ok(found, contracts=found.value.get("contracts", [])) if found.status == "ok" else gave_up(found)
        case "scan":
            found = await call_tool("contracts", "scan", {"text": request["text"]}, delegation)
            return ok(found, scan=found.value) if found.status == "ok" else gave_up(found)
        case _:
            return misunderstood(request)


if __name__ == "__main__":
    serve(script, description="Finds and reads contracts with suppliers", intents=("review", "scan"))
