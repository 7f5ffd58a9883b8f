"""The part of the story that policy holds over several calls and several people: each refusal, and what cures it."""

from __future__ import annotations

import json
from typing import Any

from staging import PURCHASE, Stage, Step, orders

Answer = dict[str, Any]
ORDER = {"supplier": "S-77", "currency": "EUR"}
INVOICE = ORDER | {"intent": "pay", "invoice": "R-1", "amount": 500}
OUTSIDE, INSIDE = "sales@supplier.example", "fiona@acme.example"
TERMS = "The agreement's ceiling is 250000 EUR."
GREETING = "Thank you, the paper has come."


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
        f"asked past the gateway, the ERP shows {orders(new)}",
        f"the history of step 1: {', '.join(f'{tool} {state}' for tool, state in steps)}",
    ]
    return Step("1b", told, ok, tuple(seen), {"workflow": workflow, "answer": answer, "orders": new, "steps": steps})


async def reviewed(stage: Stage) -> Step:
    """1c: the fixed steps count for the same supplier alone, and the score is bounded."""
    told = (
        "Paul wants the same from S-42, all steps done: its score is 74, and 60 is the most. Refused. In that workflow he orders "
        "from S-77 instead: what was read was another supplier's contract. Refused. The steps for S-77 cure it."
    )
    token, before = await stage.token("paul"), await stage.world.erp_orders()
    risky = await _asked(stage, "paul", "procurement-analyst", PURCHASE | {"supplier": "S-42", "probe": False}, token)
    other = await _asked(stage, "paul", "procurement-analyst", PURCHASE | {"intent": "order-directly"}, token)
    between = await stage.world.erp_orders()
    cure = await _asked(stage, "paul", "procurement-analyst", PURCHASE | {"probe": False}, token)
    new = [order for order in await stage.world.erp_orders() if order not in between]
    bounded, same = "'score' is at most 60", "with the same supplier"
    ok = (
        _refused(risky, "step-missing", bounded)
        and "contracts.search" not in risky["message"]
        and _refused(other, "step-missing", same)
        and between == before
        and cure["status"] == "ok"
        and len(new) == 1
    )
    seen = (_line("S-42", risky), _line("S-77, unread", other), f"S-77, read and scored: {cure['status']}, {orders(new)}")
    return Step("1c", told, ok, seen, {"risky": risky, "other": other, "cure": cure, "orders": new})


async def approved(stage: Stage) -> Step:
    """6: above 10,000 EUR somebody else says yes."""
    told = (
        "Paul asks for an order of 12,000 EUR. Above 10,000 the call waits for a finance controller. Paul cannot approve what is "
        "done for himself. Fiona looks at the exact call and approves it; Paul asks again, and the same call goes on."
    )
    token, before = await stage.token("paul"), await stage.world.erp_orders()
    order = PURCHASE | {"amount": 12000, "probe": False}
    workflow, parked = await stage.ask("paul", "procurement-analyst", order, token)
    stage.workflows["large"] = workflow
    seen = [_line("12,000 EUR", parked)]
    _, listed = await stage.approvals("fiona")
    waiting = [one for one in listed.get("approvals", ()) if one["workflow"] == workflow]
    if not waiting:
        return Step("6", told, False, (*seen, "nothing waits for Fiona"), {"token": token, "parked": parked})
    path, yes = f"/{waiting[0]['id']}", {"digest": waiting[0]["digest"]}
    own, _ = await stage.approvals("paul", f"{path}/approve", yes)
    _, shown = await stage.approvals("fiona", path)
    between = await stage.world.erp_orders()
    hers, _ = await stage.approvals("fiona", f"{path}/approve", {"digest": shown["digest"]})
    again = order | {"intent": "order-directly"}
    cure = await _asked(stage, "paul", "procurement-analyst", again, token)
    new = [order for order in await stage.world.erp_orders() if order not in between]
    arguments = shown["call"]["params"]["arguments"]
    seen += [
        f"Paul approves it himself: HTTP {own}",
        f"Fiona is shown {shown['resource']} {json.dumps(arguments)}, and approves it: HTTP {hers}",
        f"the same call again: {cure['status']}; asked past the gateway, the ERP shows {orders(new)}",
    ]
    ok = (
        parked.get("code") == "approval-required"
        and between == before
        and (own, hers) == (403, 200)
        and arguments["amount"] == 12000
        and cure["status"] == "ok"
        and [order["amount"] for order in new] == [12000]
    )
    return Step("6", told, ok, tuple(seen), {"token": token, "parked": parked, "cure": cure, "orders": new})


async def budgeted(stage: Stage, large: Step) -> Step:
    """7: a workflow has a budget, whoever approves."""
    told = (
        "In the workflow of the 12,000 Paul asks for 240,000 more. One order of that size could be approved, but a workflow may "
        "come to 250,000: refused, and nobody is asked. A smaller order goes through."
    )
    token, before = large.facts["token"], await stage.world.erp_orders()
    much = await _asked(stage, "paul", "procurement-analyst", ORDER | {"intent": "order-directly", "amount": 240000}, token)
    cure = await _asked(stage, "paul", "procurement-analyst", ORDER | {"intent": "order-directly", "amount": 8000}, token)
    new = [order for order in await stage.world.erp_orders() if order not in before]
    _, listed = await stage.approvals("fiona")
    ok = (
        _refused(much, "budget-spent", "may come to 250000")
        and listed["approvals"] == []
        and cure["status"] == "ok"
        and [order["amount"] for order in new] == [8000]
    )
    seen = (_line("240,000 EUR", much), f"8,000 EUR: {cure['status']}; asked past the gateway, the ERP shows {orders(new)}")
    return Step("7", told, ok, seen, {"much": much, "cure": cure, "orders": new})


async def separated(stage: Stage) -> Step:
    """8: whoever ordered does not pay."""
    told = (
        "Paul may pay invoices up to 5,000 EUR. Not S-77's: he ordered there, if in other workflows. Refused. Fiona, who did "
        "not, pays it."
    )
    before = await stage.world.erp_orders("payments")
    his = await _asked(stage, "paul", "erp-integration", INVOICE)
    between = await stage.world.erp_orders("payments")
    hers = await _asked(stage, "fiona", "erp-integration", INVOICE)
    new = [payment for payment in await stage.world.erp_orders("payments") if payment not in between]
    ok = _refused(his, "same-hands", "another person") and between == before and hers["status"] == "ok" and len(new) == 1
    seen = (_line("paid by Paul", his), f"paid by Fiona: {hers['status']}, {', '.join(payment['id'] for payment in new)}")
    return Step("8", told, ok, seen, {"his": his, "hers": hers, "payments": new})


async def contained(stage: Stage) -> Step:
    """9: what was read does not leave."""
    told = (
        "Paul has a contract read. From then on that workflow mails nobody outside the company: refused. The same mail to Fiona "
        "goes. So does a text to the supplier that contract-review has had scanned and found clean, to the letter."
    )
    token = await stage.token("paul")
    to = {"intent": "mail", "to": OUTSIDE}
    read = await _asked(stage, "paul", "contract-review", {"intent": "review", "supplier": "S-77"}, token)
    leak = await _asked(stage, "paul", "procurement-analyst", to | {"body": TERMS}, token)
    inside = await _asked(stage, "paul", "procurement-analyst", to | {"to": INSIDE, "body": TERMS}, token)
    scanned = await _asked(stage, "paul", "contract-review", {"intent": "scan", "text": GREETING}, token)
    clean = await _asked(stage, "paul", "procurement-analyst", to | {"body": GREETING}, token)
    again = await _asked(stage, "paul", "procurement-analyst", to | {"body": TERMS}, token)
    ok = (
        read["status"] == inside["status"] == scanned["status"] == clean["status"] == "ok"
        and _refused(leak, "dataflow", "first call contracts.scan")
        and _refused(again, "dataflow", "first call contracts.scan")
    )
    seen = (
        _line(f"mail to {OUTSIDE}", leak),
        f"the same to {INSIDE}: {inside['status']}",
        f"a scanned text to {OUTSIDE}: {clean['status']}; another text after that: {again['status']}, code {again.get('code')}",
    )
    return Step("9", told, ok, seen, {"leak": leak, "inside": inside, "clean": clean, "again": again})


async def _asked(stage: Stage, person: str, agent: str, data: dict[str, Any], token: str = "") -> Answer:
    return (await stage.ask(person, agent, data, token))[1]


def _refused(answer: Answer, code: str, cure: str) -> bool:
    return answer["status"] == "refused" and answer.get("code") == code and cure in answer["message"]


def _line(what: str, answer: Answer) -> str:
    """How a request ended: a refusal with its code, and what it tells the agent to do."""
    if answer["status"] == "ok":
        return f"{what}: ok"
    return f"{what}: {answer['status']}, code {answer.get('code')}: {answer.get('message')}"
