"""The procurement story: what is told of each step, what then happened, and whether the two agree.

Nothing here reaches into the gateway: people speak to it by HTTP, auditors by its command line.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
from controls import approved, budgeted, contained, hurried, reviewed, separated
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from staging import PURCHASE, Stage, Step, orders

REPORT = {"intent": "report", "quarter": "2026-Q3"}


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
    seen.append(f"asked past the gateway, the ERP shows {orders(new)}")
    return Step("1", told, ok, tuple(seen), {"workflow": workflow, "answer": answer, "orders": new})


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
        f"asked past the gateway, the ERP shows {orders(new)}",
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
    yield await reviewed(stage)
    yield await report(stage)
    yield await steered(stage)
    yield isolated(first)
    yield await proven(stage)
    yield await another_maker(stage)
    large = await approved(stage)
    yield large
    yield await budgeted(stage, large)
    yield await separated(stage)
    yield await contained(stage)


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
