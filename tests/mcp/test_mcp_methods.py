"""Each method of MCP through the gateway, in every revision, against the reference server: the same as direct but for policy."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.mcp import errors
from gateway.mcp.methods import LEGACY, METHODS
from tests.mcp.world import DENY, HIDDEN, World, answer_of, gateway, modern_body, modern_headers, reference_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/mcp.md"
HANDSHAKES = [version for version in LEGACY if version != "2024-11-05"]
TEMPLATE = "res:ref/test://template/*"


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with reference_server() as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory, server_url: str) -> AsyncIterator[World]:
    async with gateway(tmp_path_factory.mktemp("methods"), {"ref": server_url}) as world:
        yield world


class Leg:
    """One caller in one revision, direct or through the gateway."""

    def __init__(self, world: World, version: str, url: str = "") -> None:
        self._world, self.version, self._url, self._session = world, version, url, ""

    @property
    def modern(self) -> bool:
        return self.version not in LEGACY

    async def send(self, method: str, rpc_id: Any = 1, **params: Any) -> httpx.Response:
        if self.modern:
            headers, body = modern_headers(method, **params), modern_body(method, rpc_id, **params)
        else:
            headers = {} if method == "initialize" else {"mcp-protocol-version": self.version}
            headers |= {"mcp-session-id": self._session} if self._session else {}
            body = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if rpc_id is None else {"id": rpc_id})
        if not self._url:
            return await self._world.post("anna", body, headers=headers)
        usual = {"accept": "application/json, text/event-stream"}
        return await self._world.client.post(self._url, json=body, headers=usual | headers)

    async def open(self) -> Leg:
        if not self.modern:
            info = {"name": "test", "version": "1"}
            answer = await self.send("initialize", protocolVersion=self.version, capabilities={}, clientInfo=info)
            self._session = answer.headers["mcp-session-id"]
            assert (await self.send("notifications/initialized", None)).status_code == 202
        return self

    async def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        return answer_of(await self.send(method, **params))


@pytest_asyncio.fixture(loop_scope="module", params=["2026-07-28", *HANDSHAKES])
async def leg(shared: World, request: pytest.FixtureRequest) -> Leg:
    shared.forget()
    leg = await Leg(shared, request.param).open()
    shared.forget()
    return leg


REQUESTS: dict[str, dict[str, Any]] = {
    "tools/list": {},
    "resources/list": {},
    "resources/templates/list": {},
    "prompts/list": {},
    "tools/call": {"name": "test_simple_text", "arguments": {}},
    "resources/read": {"uri": "test://static-text"},
    "prompts/get": {"name": "test_simple_prompt"},
    "completion/complete": {
        "ref": {"type": "ref/prompt", "name": "test_prompt_with_arguments"},
        "argument": {"name": "arg1", "value": "par"},
    },
}


@pytest.mark.parametrize("method", REQUESTS)
async def test_an_answer_is_the_servers_own(leg: Leg, shared: World, server_url: str, method: str) -> None:
    direct = await Leg(shared, leg.version, server_url).open()
    through, own = await leg(method, **REQUESTS[method]), await direct(method, **REQUESTS[method])
    for answer in (through, own):  # how long it may be kept, and by whom, is the gateway's to say
        answer["result"].pop("ttlMs", None)
        answer["result"].pop("cacheScope", None)
    assert through == own


@pytest.mark.parametrize("method", [method for method in REQUESTS if method.endswith("/list")])
async def test_a_list_can_be_kept_by_this_caller_alone(leg: Leg, method: str) -> None:
    result = (await leg(method))["result"]
    kept = {key: result[key] for key in ("ttlMs", "cacheScope") if key in result}
    if leg.modern:
        assert kept.pop("cacheScope") == "private"
        assert 0 <= kept.pop("ttlMs") <= 30_000
    assert kept == {}


OBJECTS = {
    "tools/list": ("tools", "name", "ref.", "test_simple_text"),
    "resources/list": ("resources", "uri", "res:ref/", "test://static-text"),
    "prompts/list": ("prompts", "name", "prompt:ref/", "test_simple_prompt"),
}


@pytest.mark.parametrize("method", OBJECTS)
async def test_a_list_lacks_what_the_caller_could_not_use_and_keeps_the_order_of_the_rest(
    leg: Leg, shared: World, method: str
) -> None:
    member, key, prefix, one = OBJECTS[method]
    everything = [entry[key] for entry in (await leg(method))["result"][member]]
    shared.verdicts["*", prefix + one] = HIDDEN
    rest = [entry[key] for entry in (await leg(method))["result"][member]]
    assert one in everything
    assert rest == [name for name in everything if name != one]


async def test_a_template_is_listed_where_there_is_anything_to_read_under_it(leg: Leg, shared: World) -> None:
    assert len((await leg("resources/templates/list"))["result"]["resourceTemplates"]) == 1
    shared.verdicts["*", TEMPLATE] = HIDDEN
    assert (await leg("resources/templates/list"))["result"]["resourceTemplates"] == []


def completing(ref: dict[str, Any]) -> dict[str, Any]:
    return {"ref": ref, "argument": {"name": "id", "value": "p"}}


ASKED = {
    "a resource": ("resources/read", {"uri": "test://static-text"}, "res:ref/test://static-text", "Resource not found"),
    "a prompt": ("prompts/get", {"name": "test_simple_prompt"}, "prompt:ref/test_simple_prompt", "Unknown prompt: {}"),
    "a tool": ("tools/call", {"name": "test_simple_text"}, "ref.test_simple_text", "Unknown tool: {}"),
    "a prompt's completion": (
        "completion/complete",
        completing({"type": "ref/prompt", "name": "test_simple_prompt"}),
        "prompt:ref/test_simple_prompt",
        "Unknown prompt: {}",
    ),
    "a template's completion": (
        "completion/complete",
        completing({"type": "ref/resource", "uri": "test://template/{id}/data"}),
        TEMPLATE,
        "Resource not found",
    ),
}


@pytest.mark.parametrize("what", ASKED)
async def test_what_a_caller_may_not_know_of_is_answered_as_the_unknown(leg: Leg, shared: World, what: str) -> None:
    method, params, found, text = ASKED[what]
    shared.verdicts["*", found] = HIDDEN
    answer = await leg.send(method, **params)
    error = answer.json()["error"]
    assert answer.status_code == (400 if leg.modern else 200)
    assert error["code"] == (-32602 if leg.modern or method != "resources/read" else -32002)
    assert error["message"] == text.format(params.get("name", "test_simple_prompt"))
    assert error["data"]["code"] == "not-available"


@pytest.mark.parametrize("what", [what for what in ASKED if what != "a tool"])
async def test_a_denial_that_may_be_known_is_an_error_with_a_reason_and_a_sentence(leg: Leg, shared: World, what: str) -> None:
    method, params, found, _ = ASKED[what]
    shared.verdicts["*", found] = DENY
    answer = await leg.send(method, **params)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (200, -31403)
    assert error["data"]["code"] == "user-lacks-right"
    assert error["data"]["decision"] in error["message"]


async def test_a_resource_inside_of_a_prompt_is_for_whom_may_read_it(leg: Leg, shared: World) -> None:
    asked = {"name": "test_prompt_with_embedded_resource", "arguments": {"resourceUri": "test://inside"}}
    before = (await leg("prompts/get", **asked))["result"]["messages"]
    shared.verdicts["*", "res:ref/test://inside"] = HIDDEN
    after = (await leg("prompts/get", **asked))["result"]["messages"]
    assert [message["content"]["type"] for message in before].count("resource") == 1
    assert [message["role"] for message in after] == [message["role"] for message in before]
    withheld = {"type": "text", "text": "[withheld by policy]"}
    for message, was in zip(after, before, strict=True):
        assert message["content"] == (withheld if was["content"]["type"] == "resource" else was["content"])


async def test_the_log_level_reaches_the_server_and_is_one_of_the_protocols(leg: Leg) -> None:
    if leg.modern:
        assert (await leg.send("logging/setLevel", level="info")).status_code == 404
        return
    assert (await leg("logging/setLevel", level="warning"))["result"] == {}
    assert (await leg("logging/setLevel", level="chatty"))["error"]["code"] == -32602


@pytest.mark.parametrize("method", ["resources/subscribe", "resources/unsubscribe"])
async def test_a_subscription_is_asked_for_as_such(leg: Leg, shared: World, method: str) -> None:
    answer = await leg.send(method, uri="test://static-text")
    if leg.modern:
        assert answer.status_code == 404
        return
    assert answer_of(answer)["result"] == {}
    assert (shared.asked[-1].action, shared.asked[-1].resource) == ("subscribe", "res:ref/test://static-text")


async def test_a_ping_is_answered_here_in_the_era_that_has_it(leg: Leg) -> None:
    answer = await leg.send("ping", "p")
    if leg.modern:
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, -32601)
    else:
        assert answer.json() == {"jsonrpc": "2.0", "id": "p", "result": {}}


NOTICES = ["notifications/progress", "notifications/roots/list_changed", "notifications/tasks/status", "notifications/cancelled"]


@pytest.mark.parametrize("method", NOTICES)
async def test_a_notification_is_taken_in_its_own_era(leg: Leg, method: str) -> None:
    if leg.modern:
        headers, body = modern_headers(method), {"jsonrpc": "2.0", "method": method, "params": {"requestId": 7}}
        world = leg._world
        answer = await world.post("anna", body, headers=headers)
        assert answer.status_code == (202 if method == "notifications/cancelled" else 404)
    else:
        answer = await leg.send(method, None, progressToken="t", progress=1, requestId=7)
        assert (answer.status_code, answer.content) == (202, b"")


async def test_the_page_shows_every_row_of_the_table_and_no_other() -> None:
    lines = re.findall(r"^\| `([a-zA-Z_/]+)` \| (\S+) \| (\S+) \|", PAGE.read_text(), re.MULTILINE)
    assert {name: (legacy, modern) for name, legacy, modern in lines} == {
        row.name: (row.legacy.value if row.legacy else "–", row.modern.value if row.modern else "–") for row in METHODS.values()
    }


async def test_the_page_has_every_code_that_the_gateway_says_and_no_other() -> None:
    table = PAGE.read_text().partition("## Errors\n")[2].partition("\n## ")[0]
    said = {
        value for value in vars(errors).values() if isinstance(value, int) and not isinstance(value, bool) and value < -30_000
    }
    assert {int(code) for code in re.findall(r"^\| `(-\d+)` \|", table, re.MULTILINE)} == said
