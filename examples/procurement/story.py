"""The procurement story: what is told of each step, what then happened, and whether the two agree.

Nothing here reaches into the gateway: people speak to it by HTTP, auditors by its command line.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from world import World

Cli = Callable[..., Awaitable[tuple[int, str]]]
"""Runs `bailiwick ARGUMENTS --config …`: exit code and standard output."""
PURCHASE = {"intent": "purchase", "supplier": "S-77", "amount": 500, "currency": "EUR", "probe": True}
REPORT = {"intent": "report", "quarter": "2026-Q3"}


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

    async def ask(self, person: str, agent: str, data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Send a person's request to an agent through the gateway; the workflow's id and the agent's answer."""
        message = {"messageId": f"{person}-{agent}", "role": "ROLE_USER", "parts": [{"data": data}]}
        body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
        headers = {"Authorization": f"Bearer {await self.token(person)}", "A2A-Version": "1.0"}
        async with httpx.AsyncClient(trust_env=False, timeout=120) as http:
            answer = await http.post(f"{self.gateway}/a2a/{agent}/", json=body, headers=headers)
        result = answer.json()
        workflow = answer.headers.get("bailiwick-workflow", "")
        if "error" in result:
            return workflow, {"status": "refused", "message": result["error"]["message"]}
        parts = [part for artifact in result["result"]["task"]["artifacts"] for part in artifact["parts"]]
        return workflow, parts[-1]["data"]

    async def explained(self, decision: str) -> str:
        """What the ledger says about a decision, for those who may read it."""
        _, out = await self.cli("audit", "show", decision, "--json", "--reason", "the story of the refusal")
        record = json.loads(out)
        return str(record.get("values", {}).get("explanation", ""))


async def purchase(stage: Stage) -> Step:
    """1: a purchase by somebody who may."""
    told = (
        "Paul, a procurement manager, asks for a purchase order of 500 EUR. procurement-analyst asks contract-review and "
        "supplier-risk in parallel, then erp-integration, which calls erp.write_po. Allowed: the order exists in the ERP."
    )
    before = await stage.world.erp_orders()
    workflow, answer = await stage.ask("paul", "procurement-analyst", PURCHASE)
    stage.workflows["purchase"] = workflow
    new = [order for order in await stage.world.erp_orders() if order not in before]
    ok = answer["status"] == "ok" and len(new) == 1 and new[0]["amount"] == 500
    seen = [f"{call['target']}: {call['status']}" for call in answer.get("calls", ())]
    seen.append(f"asked past the gateway, the ERP shows {_orders(new)}")
    return Step("1", told, ok, tuple(seen), {"workflow": workflow, "answer": answer, "orders": new})


async def hurried(stage: Stage) -> Step:
    """1b: the same order by the same person, without the steps that must come first."""
    told = (
        "Paul asks for the same order at once, without the contract and without the score. His right is the same; the "
        "workflow purchase-order has both steps fixed: refused, and the agent is told what to do first. Step 1 did just that."
    )
    before = await stage.world.erp_orders()
    workflow, answer = await stage.ask("paul", "procurement-analyst", PURCHASE | {"intent": "order-directly"})
    stage.workflows["hurried"] = workflow
    new = [order for order in await stage.world.erp_orders() if order not in before]
    _, history = await stage.cli("workflows", "show", stage.workflows["purchase"], "--json")
    steps = [(step["resource"], step["state"]) for step in json.loads(history)["steps"]]
    done = [(tool, "ok") for tool in ("contracts.search", "erp.write_po", "risk.score")]
    ok = answer.get("code") == "step-missing" and "first call" in answer["message"] and not new and sorted(steps) == done
    seen = [
        f"the order: {answer['status']}, code {answer.get('code')}",
        f"told to the agent: {answer.get('message')}",
        f"asked past the gateway, the ERP shows {_orders(new)}",
        f"the history of step 1: {', '.join(f'{tool} {state}' for tool, state in steps)}",
    ]
    return Step("1b", told, ok, tuple(seen), {"workflow": workflow, "answer": answer, "orders": new, "steps": steps})


async def report(stage: Stage) -> Step:
    """2a: a report by somebody who may."""
    told = "Mia, a marketing manager, asks campaign-reporter for the spring campaign's report. Allowed."
    workflow, answer = await stage.ask("mia", "campaign-reporter", REPORT | {"campaign": "spring"})
    stage.workflows["report"] = workflow
    ok = answer["status"] == "ok" and "followed" not in answer
    return Step("2a", told, ok, (f"crm.campaign_report: {answer['status']}",), {"workflow": workflow, "answer": answer})


async def steered(stage: Stage) -> Step:
    """2b: the same person's workflow is steered towards a write that she may not do."""
    told = (
        "Mia asks for the autumn campaign's report. Its text carries an injected instruction, which the naive reporter follows: "
        "through procurement-analyst and erp-integration to erp.write_po. Every agent on the way may do its part. Mia may not: "
        "refused."
    )
    before = await stage.world.erp_orders()
    workflow, answer = await stage.ask("mia", "campaign-reporter", REPORT | {"campaign": "autumn"})
    stage.workflows["steered"] = workflow
    new = [order for order in await stage.world.erp_orders() if order not in before]
    followed = answer.get("followed", {})
    decision = followed.get("decision", "")
    explanation = await stage.explained(decision) if decision else ""
    whose, where = "user:dev/mia" in explanation, "no rule" in explanation
    seen = [
        f"the report itself: {answer['status']}",
        f"the injected order: {followed.get('status')}, code {followed.get('code')}, decision {decision}",
        f"the ledger explains: {explanation}",
        f"asked past the gateway, the ERP shows {_orders(new)}",
    ]
    via = "campaign-reporter,procurement-analyst,erp-integration"
    arguments = json.dumps({"supplier": "S-77", "amount": 500, "currency": "EUR"})
    who = ("--for", "user:dev/mia", "--groups", "marketing-managers", "--via", via)
    code, out = await stage.cli("explain", *who, "--call", "erp.write_po", "--args", arguments, "--json")
    says = json.loads(out)
    seen.append(f"bailiwick explain says the same beforehand: decision {says['decision']}")
    agents_may = "AGT-9" in out and "AGT-3" in out and "AGT-13" in out
    ok = (
        followed.get("status") == "refused"
        and not new
        and whose
        and where
        and code == 1
        and says["decision"] is False
        and agents_may
    )
    facts = {"workflow": workflow, "answer": answer, "orders": new, "explanation": explanation, "explain": says}
    return Step("2b", told, ok, tuple(seen), facts)


def isolated(first: Step) -> Step:
    """3: what the first workflow's code did inside the sandbox."""
    told = (
        "In Paul's workflow, supplier-risk worked its score out with sandbox.run_python. A second snippet there reads a file "
        "outside its scope and opens a socket: both fail inside."
    )
    calls = first.facts["answer"].get("calls", ())
    risk = next((call.get("value", {}) for call in calls if call["target"] == "a2a:supplier-risk"), {})
    probe = risk.get("probe", {})
    ok = bool(risk.get("computed", {}).get("score")) and len(probe) == 2 and "succeeded" not in probe.values()
    seen = [f"the score, computed isolated: {risk.get('computed')}", *(f"{what}: {came}" for what, came in probe.items())]
    return Step("3", told, ok, tuple(seen), {"risk": risk})


async def proven(stage: Stage) -> Step:
    """4: the tree of the steered workflow, and the proof that nobody touched the record of it."""
    told = (
        "bailiwick audit trace draws Mia's steered workflow. bailiwick audit verify passes. On a copy of the ledger one byte of "
        "the refusal's record is changed: verify fails and names the record."
    )
    workflow = stage.workflows["steered"]
    _, tree = await stage.cli("audit", "trace", workflow, "--reason", "the story of the refusal")
    drawn = all(
        word in tree for word in ("user:dev/mia", "campaign-reporter", "procurement-analyst", "erp-integration", "erp.write_po")
    )
    clean, verdict = await stage.cli("audit", "verify")
    copy = stage.scratch / "tampered.db"
    with sqlite3.connect(stage.ledger) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    try:
        identity = change_one_byte(copy, workflow)
    except LookupError as error:
        return Step("4", told, False, (*tree.splitlines(), "", f"nothing to tamper with: {error}"))
    broken, finding = await stage.cli("audit", "verify", "--ledger", str(copy))
    ok = drawn and clean == 0 and broken == 1 and identity in finding
    seen = [*tree.splitlines(), "", f"verify: exit {clean}", *verdict.splitlines()]
    seen += ["", f"verify of the copy in which one byte of {identity} was changed: exit {broken}", *finding.splitlines()]
    return Step("4", told, ok, tuple(seen), {"tampered": identity, "finding": finding})


def change_one_byte(database: Path, workflow: str) -> str:
    """Turn `deny` into `denx` in the record of the workflow's refusal, in the file itself and past every trigger; its id."""
    data = bytearray(database.read_bytes())
    end = data.find(f'"workflow":"{workflow}"'.encode())
    while end >= 0:
        start = data.rfind(b'{"action"', 0, end)
        leaf = bytes(data[start:end])
        if b'"kind":"decision.deny"' in leaf:
            data[start + leaf.index(b'"effect":"deny"') + len(b'"effect":"den')] = ord("x")
            database.write_bytes(data)
            identity = leaf.index(b'"id":"') + len(b'"id":"')
            return leaf[identity : identity + 36].decode()
        end = data.find(f'"workflow":"{workflow}"'.encode(), end + 1)
    raise LookupError("no record of a refusal in this workflow")


async def another_maker(stage: Stage) -> Step:
    """5: an upstream that was not written here."""
    told = (
        "The file server of another maker (npm @modelcontextprotocol/server-filesystem) runs behind the gateway in a "
        "cage; the official Python client reads a file through it. Writing is granted to nobody: the tool is not even shown."
    )
    if stage.files_server is not None:
        return Step("5", told, None, (f"SKIPPED: {stage.files_server}",))
    headers = {"Authorization": f"Bearer {await stage.token('paul')}"}
    path = str(stage.shared / "terms.txt")
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http,
        Client(streamable_http_client(f"{stage.gateway}/mcp/files", http_client=http), cache=None) as client,
    ):
        shown = sorted(tool.name for tool in (await client.list_tools()).tools)
        result = await client.call_tool("read_text_file", {"path": path})
    text = " ".join(block.text for block in result.content if block.type == "text").strip()
    ok = not result.is_error and bool(text) and "write_file" not in shown
    return Step("5", told, ok, (f"tools shown: {', '.join(shown)}", f"terms.txt: {text[:120]}"), {"tools": shown, "text": text})


async def play(stage: Stage) -> AsyncIterator[Step]:
    """All steps in order, each as it ends."""
    first = await purchase(stage)
    yield first
    yield await hurried(stage)
    yield await report(stage)
    yield await steered(stage)
    yield isolated(first)
    yield await proven(stage)
    yield await another_maker(stage)


async def install_file_server(here: Path, folder: Path) -> str | None:
    """Install the pinned file server (its lock file's hashes are checked) into an empty folder; the reason where that failed."""
    if not (shutil.which("node") and shutil.which("npm")):
        return "node and npm are not installed"
    for name in ("package.json", "package-lock.json"):
        shutil.copy(here / "filesystem" / name, folder / name)
    npm = await asyncio.create_subprocess_exec(
        "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=folder,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(180):
            _, errors = await npm.communicate()
    except TimeoutError:
        npm.kill()
        await npm.wait()
        return "npm did not finish within three minutes"
    return None if npm.returncode == 0 else f"npm ci failed: {errors.decode(errors='replace').strip()[-200:]}"


def _orders(orders: list[dict[str, Any]]) -> str:
    return ", ".join(f"{order['id']} ({order['amount']} {order['currency']})" for order in orders) or "no new order"
