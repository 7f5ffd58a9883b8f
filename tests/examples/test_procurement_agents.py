"""The agents, asked through a stand-in for the gateway: what they call, for whom, and how a refusal ends."""

from __future__ import annotations

import contextlib
import io
import json
from types import ModuleType
from typing import Any

import pytest
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.helpers.proto_helpers import new_data_message
from a2a.types import Role, SendMessageRequest, TaskState
from starlette.responses import JSONResponse, Response

PURCHASE = {"intent": "purchase", "supplier": "S-77", "amount": 500, "currency": "EUR"}


def denied(rpc_id: Any) -> Response:
    """A visible tool, denied: a result that says so (MCP)."""
    meta = {"bailiwick/code": "user-lacks-right", "bailiwick/decision": "decision-7"}
    result = {"resultType": "complete", "isError": True, "content": [{"type": "text", "text": "Denied by policy"}], "_meta": meta}
    return JSONResponse({"jsonrpc": "2.0", "id": rpc_id, "result": result})


def hidden(rpc_id: Any) -> Response:
    """A tool that the caller may not know of (MCP)."""
    data = {"code": "not-available", "decision": "decision-7"}
    return JSONResponse({"jsonrpc": "2.0", "id": rpc_id, "error": {"code": -32602, "message": "Unknown tool", "data": data}})


def unauthenticated(rpc_id: Any) -> Response:
    data = {"code": "invalid-credential", "decision": "decision-7"}
    return JSONResponse({"jsonrpc": "2.0", "id": rpc_id, "error": {"code": -32000, "message": "No", "data": data}}, 401)


def send_denied(rpc_id: Any) -> Response:
    """A denial in A2A's own shape."""
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "POLICY_DENIED",
        "domain": "bailiwick",
        "metadata": {"code": "agent-lacks-right", "decisionId": "decision-7"},
    }
    return JSONResponse({"jsonrpc": "2.0", "id": rpc_id, "error": {"code": -32000, "message": "Denied", "data": [info]}})


def unrecorded(rpc_id: Any) -> Response:
    """The gateway fails closed: what cannot be recorded is not sent (A2A)."""
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "metadata": {"code": "ledger-unavailable", "decisionId": "decision-7"},
    }
    return JSONResponse({"jsonrpc": "2.0", "id": rpc_id, "error": {"code": -32603, "message": "Later", "data": [info]}}, 503)


def unreachable(rpc_id: Any) -> Response:
    data = {"code": "upstream-error", "decision": "decision-7"}
    return JSONResponse({"jsonrpc": "2.0", "id": rpc_id, "error": {"code": -31502, "message": "upstream", "data": data}})


def run_here(code: str) -> dict[str, Any]:
    """In the place of a sandbox: runs the agents' own two snippets, whose text this repository holds."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "snippet", "exec"), {})
    return {"stdout": printed.getvalue(), "stderr": "", "exit_code": 0, "reason": "ok"}


async def test_a_purchase_is_reviewed_assessed_and_raised(world: Any, stand_in: Any, client: ModuleType) -> None:
    before = await world.erp_orders()
    stand_in.sandbox = run_here
    outcome = await client.ask_agent("procurement-analyst", PURCHASE, "paul")
    assert outcome.status == "ok"
    assert outcome.decision == "decision-1"
    assert await world.erp_orders() == [*before, outcome.value["order"]]
    contracts, risk, erp = (call["value"] for call in outcome.value["calls"])
    assert contracts["contracts"][0]["id"] == "C-2041"
    assert risk["score"] == 31
    assert risk["computed"] == {"score": 31}
    assert erp["order"]["cost_center"] == "CC-100"


async def test_every_call_shows_the_agents_own_secret_and_the_token_that_came_with_the_request(
    stand_in: Any, client: ModuleType
) -> None:
    await client.ask_agent("procurement-analyst", PURCHASE, "paul")
    analyst = "paul>procurement-analyst"
    assert set(stand_in.calls) == {
        ("a2a:procurement-analyst", "persons-program", "paul"),
        ("a2a:contract-review", "procurement-analyst", analyst),
        ("a2a:supplier-risk", "procurement-analyst", analyst),
        ("a2a:erp-integration", "procurement-analyst", analyst),
        ("contracts.search", "contract-review", f"{analyst}>contract-review"),
        ("risk.score", "supplier-risk", f"{analyst}>supplier-risk"),
        ("sandbox.run_python", "supplier-risk", f"{analyst}>supplier-risk"),
        ("erp.write_po", "erp-integration", f"{analyst}>erp-integration"),
    }


async def test_the_steered_path_goes_straight_to_the_erp(stand_in: Any, client: ModuleType) -> None:
    outcome = await client.ask_agent("procurement-analyst", PURCHASE | {"intent": "order-directly"}, "paul")
    assert outcome.status == "ok"
    assert [target for target, *_ in stand_in.calls] == ["a2a:procurement-analyst", "a2a:erp-integration", "erp.write_po"]


async def test_an_ordinary_report_leads_to_nothing_else(stand_in: Any, client: ModuleType) -> None:
    request = {"intent": "report", "campaign": "spring", "quarter": "Q2"}
    outcome = await client.ask_agent("campaign-reporter", request, "mia")
    assert outcome.status == "ok"
    assert outcome.value["report"]["figures"]["leads"] == 431
    assert [target for target, *_ in stand_in.calls] == ["a2a:campaign-reporter", "crm.campaign_report"]


async def test_an_instruction_in_a_report_is_followed_and_its_refusal_told(world: Any, stand_in: Any, client: ModuleType) -> None:
    before = await world.erp_orders()
    with stand_in.refusing("erp.write_po", denied):
        request = {"intent": "report", "campaign": "autumn", "quarter": "Q4"}
        outcome = await client.ask_agent("campaign-reporter", request, "mia")
    assert outcome.status == "ok"
    followed = outcome.value["followed"]
    assert (followed["status"], followed["code"], followed["decision"]) == ("refused", "user-lacks-right", "decision-7")
    chain = "mia>campaign-reporter>procurement-analyst>erp-integration"
    assert stand_in.calls[-1] == ("erp.write_po", "erp-integration", chain)
    assert await world.erp_orders() == before


@pytest.mark.parametrize(
    ("what", "how", "code"),
    [
        ("contracts.search", denied, "user-lacks-right"),
        ("risk.score", hidden, "not-available"),
        ("mcp:contracts", unauthenticated, "invalid-credential"),
        ("a2a:supplier-risk", send_denied, "agent-lacks-right"),
        ("card:contract-review", unauthenticated, "invalid-credential"),
        ("a2a:erp-integration", send_denied, "agent-lacks-right"),
        ("a2a:erp-integration", unrecorded, "ledger-unavailable"),
    ],
)
async def test_a_refusal_anywhere_ends_in_an_answer_with_code_and_decision(
    world: Any, stand_in: Any, client: ModuleType, what: str, how: Any, code: str
) -> None:
    before = await world.erp_orders()
    with stand_in.refusing(what, how):
        outcome = await client.ask_agent("procurement-analyst", PURCHASE, "paul")
    assert (outcome.status, outcome.code, outcome.decision) == ("refused", code, "decision-7")
    assert outcome.value["calls"]
    assert await world.erp_orders() == before


async def test_a_call_whose_server_does_not_answer_has_failed_rather_than_been_refused(stand_in: Any, client: ModuleType) -> None:
    with stand_in.refusing("crm.campaign_report", unreachable):
        request = {"intent": "report", "campaign": "spring", "quarter": "Q2"}
        outcome = await client.ask_agent("campaign-reporter", request, "mia")
    assert (outcome.status, outcome.decision) == ("failed", "decision-7")


async def test_a_tools_own_error_has_failed_and_bears_the_decision_that_let_it_through(client: ModuleType) -> None:
    outcome = await client.call_tool("risk", "score", {"supplier": "S-0"}, "paul")
    assert (outcome.status, outcome.code, outcome.decision) == ("failed", "", "decision-1")


async def test_a_refused_sandbox_is_told_and_the_risk_score_stands(stand_in: Any, client: ModuleType) -> None:
    with stand_in.refusing("sandbox.run_python", denied):
        outcome = await client.ask_agent("supplier-risk", {"intent": "assess", "supplier": "S-77"}, "paul")
    assert outcome.status == "ok"
    assert outcome.value["score"] == 31
    assert outcome.value["computed"] == {}
    assert outcome.value["calls"][1]["code"] == "user-lacks-right"


async def test_the_probe_reports_what_happened_inside(stand_in: Any, client: ModuleType) -> None:
    told = {"read /etc/passwd": "PermissionError", "open a socket": "PermissionError"}
    stand_in.sandbox = lambda code: {"stdout": json.dumps(told)} if "/etc/passwd" in code else run_here(code)
    outcome = await client.ask_agent("supplier-risk", {"intent": "assess", "supplier": "S-77", "probe": True}, "paul")
    assert outcome.value["probe"] == told
    assert outcome.value["computed"] == {"score": 31}


async def test_the_probe_would_succeed_without_a_sandbox(stand_in: Any, client: ModuleType) -> None:
    stand_in.sandbox = run_here
    outcome = await client.ask_agent("supplier-risk", {"intent": "assess", "supplier": "S-77", "probe": True}, "paul")
    assert set(outcome.value["probe"].values()) == {"succeeded"}


@pytest.mark.parametrize("request_data", [{"intent": "sing"}, {}, {"intent": "purchase"}, {"intent": "purchase", "supplier": 1}])
async def test_a_request_that_makes_no_sense_gets_an_answer(client: ModuleType, request_data: dict[str, Any]) -> None:
    outcome = await client.ask_agent("procurement-analyst", request_data, "paul")
    assert outcome.status == "failed"
    assert outcome.message


async def test_a_gateway_that_is_not_there_is_a_failure(client: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_URL", "http://127.0.0.1:9")
    assert (await client.call_tool("risk", "score", {"supplier": "S-77"}, "paul")).status == "failed"
    assert (await client.ask_agent("supplier-risk", {}, "paul")).status == "failed"


async def test_an_agent_streams_its_work(world: Any, client: ModuleType) -> None:
    import httpx

    async with httpx.AsyncClient(headers={"Bailiwick-Delegation": "mia"}, timeout=30) as http:
        card = await A2ACardResolver(http, world.agent_urls["campaign-reporter"]).get_agent_card()
        agent = ClientFactory(ClientConfig(httpx_client=http, streaming=True)).create(card)
        message = new_data_message({"intent": "report", "campaign": "spring", "quarter": "Q2"}, role=Role.ROLE_USER)
        events = [event async for event in agent.send_message(SendMessageRequest(message=message))]
    assert card.capabilities.streaming
    states = [event.status_update.status.state for event in events if event.HasField("status_update")]
    assert states == [TaskState.TASK_STATE_WORKING, TaskState.TASK_STATE_COMPLETED]
    assert sum(event.HasField("artifact_update") for event in events) == 1
