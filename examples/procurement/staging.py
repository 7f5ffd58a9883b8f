"""Where the story is played, and what a step of it is."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from world import World

Cli = Callable[..., Awaitable[tuple[int, str]]]
"""Runs `bailiwick ARGUMENTS --config …`: exit code and standard output."""
PURCHASE = {"intent": "purchase", "supplier": "S-77", "amount": 500, "currency": "EUR", "probe": True}


@dataclass(frozen=True)
class Step:
    """One step: `told` beforehand, `seen` lines afterwards; `ok` None where it was skipped, and `seen` says why."""

    number: str
    told: str
    ok: bool | None
    seen: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Stage:
    """Where the story is played."""

    world: World
    gateway: str
    cli: Cli
    ledger: Path
    scratch: Path
    shared: Path
    files_server: str | None
    """Why the file server of another maker is absent, or None where it is there."""
    workflows: dict[str, str] = field(default_factory=dict)

    async def token(self, person: str) -> str:
        """A fresh access token of a person: each is the start of a workflow of its own."""
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            answer = await http.post(f"{self.gateway}/dev/token", data={"user": person})
            return str(answer.raise_for_status().json()["access_token"])

    async def ask(self, person: str, agent: str, data: dict[str, Any], token: str = "") -> tuple[str, dict[str, Any]]:
        """Send a person's request to an agent through the gateway; the workflow's id and the agent's answer.

        With a token that was used before, the workflow of then goes on.
        """
        message = {"messageId": f"{person}-{agent}", "role": "ROLE_USER", "parts": [{"data": data}]}
        body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
        headers = {"Authorization": f"Bearer {token or await self.token(person)}", "A2A-Version": "1.0"}
        async with httpx.AsyncClient(trust_env=False, timeout=120) as http:
            answer = await http.post(f"{self.gateway}/a2a/{agent}/", json=body, headers=headers)
        result = answer.json()
        workflow = answer.headers.get("bailiwick-workflow", "")
        if "error" in result:
            return workflow, {"status": "refused", "message": result["error"]["message"]}
        parts = [part for artifact in result["result"]["task"]["artifacts"] for part in artifact["parts"]]
        return workflow, parts[-1]["data"]

    async def approvals(self, person: str, path: str = "", body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """The gateway's `/api/approvals`, asked by a person with a token of their own: HTTP status and answer."""
        headers = {"Authorization": f"Bearer {await self.token(person)}"}
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            url = f"{self.gateway}/api/approvals{path}"
            answer = await (http.get(url, headers=headers) if body is None else http.post(url, json=body, headers=headers))
        return answer.status_code, answer.json()

    async def explained(self, decision: str) -> str:
        """What the ledger says about a decision, for those who may read it."""
        _, out = await self.cli("audit", "show", decision, "--json", "--reason", "the story of the refusal")
        record = json.loads(out)
        return str(record.get("values", {}).get("explanation", ""))


def orders(found: list[dict[str, Any]]) -> str:
    """Orders in a line."""
    return ", ".join(f"{order['id']} ({order['amount']} {order['currency']})" for order in found) or "no new order"
