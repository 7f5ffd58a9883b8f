"""Real clients see through the gateway what they see of the server itself, and a denial as something that a model can read."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from .conftest import ERAS, OTHERS, Drivers, Reports

CLIENTS = {
    "mcp auto": "mcp_sdk",
    "mcp legacy": "mcp_sdk",
    "fastmcp": "frameworks",
    "openai-agents": "frameworks",
    "langchain": "langchain",
    "typescript 1": "clients",
    "typescript 2": "clients",
    "typescript 2 auto": "clients",
    "mcp-remote": "clients",
    "inspector": "clients",
}
LACKS = {
    "openai-agents": {"progress"},
    "langchain": {"resources", "hidden"},
    "inspector": {"progress", "resources", "hidden", "permitted"},
}
"""What a client has no way to say, or is not asked because each question is a process of its own."""
DENIED_AS = {"fastmcp": "ToolError", "openai-agents": "text", "langchain": "text"}
"""How a client tells of a result that is an error; the others give it as a value."""
NODE = {client for client, driver in CLIENTS.items() if driver == "clients"}
INDEX = {client for client, driver in CLIENTS.items() if driver in {"frameworks", "langchain"}}
pytestmark = pytest.mark.timeout(400)


def marked(client: str) -> Any:
    marks = [pytest.mark.node] if client in NODE else [pytest.mark.index] if client in INDEX else []
    return pytest.param(client, marks=marks)


@pytest.fixture(params=[marked(client) for client in CLIENTS])
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def seen(drivers: Drivers, client: str) -> Reports:
    reports = drivers.reports(CLIENTS[client], client)
    for kind, report in reports.items():
        if "failed" in report:  # shown beside whatever test then misses a part of the report
            print(client, "at", kind, "went wrong:", report["failed"])
    return reports


PREFIX = {"server": "", "aggregate": "ref__"}


@pytest.fixture(params=PREFIX)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_real_client_connects_does_all_it_can_and_closes_cleanly(seen: Reports, client: str, kind: str) -> None:
    expected = {"tools", "structured", "denied", "resource", "prompt", "others", "closed"}
    expected |= {"progress", "resources", "hidden", "permitted"} - LACKS.get(client, set())
    for report in (seen["direct"], seen[kind]):
        assert "failed" not in report, report["failed"]
        assert expected <= report.keys()


def test_a_real_client_lists_every_tool_that_it_may_call_and_no_other(seen: Reports, kind: str) -> None:
    assert "gw_sleep" in seen["direct"]["tools"]
    expected = [f"{PREFIX[kind]}{tool}" for tool in seen["direct"]["tools"] if tool != "gw_sleep"]
    assert seen[kind]["tools"] == sorted(expected + (OTHERS if kind == "aggregate" else []))


def test_a_real_client_gets_structured_content_equal_to_the_servers(seen: Reports, kind: str) -> None:
    assert seen[kind]["structured"] == seen["direct"]["structured"]
    assert seen[kind]["structured"]["nested"]["list"] == [1, 2.5, "drei", None, True, {"": {}}]


def test_a_real_client_hears_of_progress_in_the_servers_order(seen: Reports, client: str, kind: str) -> None:
    if "progress" in LACKS.get(client, ()):
        assert "progress" not in seen["direct"]
    elif client == "mcp-remote":  # may lose what comes right before a result, directly too
        assert seen[kind]["progress"] == [0, 50, 100][: len(seen[kind]["progress"])] != []
    else:
        assert seen[kind]["progress"] == seen["direct"]["progress"] == [0, 50, 100]


def test_a_real_client_reads_resources_and_prompts_as_the_server_gives_them(seen: Reports, client: str, kind: str) -> None:
    direct, through = seen["direct"], seen[kind]
    assert through["resource"] == direct["resource"] == "This is the content of the static text resource."
    assert through["prompt"] == direct["prompt"] == "This is a simple prompt for testing."
    assert through.get("resources") == direct.get("resources")


def test_a_real_client_meets_a_denial_as_a_text_with_a_reason_and_a_decision(seen: Reports, client: str, kind: str) -> None:
    denied = seen[kind]["denied"]
    assert denied["how"] == DENIED_AS.get(client, "value")
    assert denied["error"] is True
    assert re.search(r"\(code: user-lacks-right\).* decision [0-9A-Za-z-]{20,}", denied["text"])
    assert seen[kind].get("permitted") == seen["direct"].get("permitted")


def test_a_real_client_meets_a_hidden_tool_as_an_unknown_one(seen: Reports, client: str, kind: str) -> None:
    if "hidden" in LACKS.get(client, ()):
        assert "hidden" not in seen["direct"]
    else:
        assert f"Unknown tool: {PREFIX[kind]}gw_sleep" in seen[kind]["hidden"]


def test_a_real_client_calls_servers_of_both_eras_whichever_it_speaks_itself(seen: Reports) -> None:
    told = [json.loads(text) for text in seen["aggregate"]["others"]]
    assert [(each["of"], each["name"]) for each in told] == [(era, "echo") for era in ERAS]
