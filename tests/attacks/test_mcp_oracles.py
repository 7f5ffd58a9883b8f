"""What a caller may not know of: asked for, completed, listed, or guessed at, it is as what is not there.  Real policy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from policies import engine as engine_module
from policies.bundle import load
from policies.engine import Engine
from tests.mcp.world import World, answer_of, gateway
from tests.upstream.wire import Reader, Upstream, Writer, upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHIPPED = Path(engine_module.__file__).with_name("default")
RULES = """\
p, user:dev/anna, acme, ref.echo, call, allow, -, -, A-1
p, user:dev/anna, acme, prompt:ref/greet, get, allow, -, -, A-2
p, user:dev/anna, acme, res:ref/file:///open/*, read, allow, -, -, A-3
p, user:dev/anna, acme, res:ref/file:///open/secret, read, deny, -, -, A-4
p, user:dev/ben, acme, prompt:ref/greet, get, allow, -, -, B-1
p, user:dev/eve, acme, other.echo, call, allow, -, -, E-1
"""
FILES = {
    "model.conf": (SHIPPED / "model.conf").read_text(),
    "roles.csv": "",
    "tools.yaml": "tenants: [acme]\ntools:\n  ref.echo: {}\n  ref.hidden: {}\n  other.echo: {}\n",
    "conditions.yaml": "",
    "obligations.yaml": "",
    "grants/people.csv": RULES,
}
ERAS = ["modern", "legacy"]
RESULTS: dict[str, dict[str, Any]] = {
    "tools/list": {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ("echo", "hidden", "new", "*")]},
    "prompts/list": {"prompts": [{"name": name} for name in ("greet", "hidden", "*", "odd name")]},
    "resources/list": {
        "resources": [
            {"uri": uri, "name": "n"}
            for uri in (
                "file:///open/a",
                "file:///open/secret",
                "file:///closed/b",
                "file:///open/../closed/b",
                "file:///open/%2e%2e/b",
            )
        ]
    },
    "resources/templates/list": {
        "resourceTemplates": [
            {"uriTemplate": uri, "name": "n"}
            for uri in (
                "file:///open/{name}",
                "file:///closed/{name}",
                "file:///{path}",
                "{+any}",
                "file:///open/../{x}",
                "gone://{x}",
            )
        ]
    },
    "tools/call": {"content": []},
    "prompts/get": {"messages": []},
    "resources/read": {"contents": [{"uri": "file:///open/a", "text": "x"}]},
    "completion/complete": {"completion": {"values": ["told"]}},
    "server/discover": {"supportedVersions": ["2026-07-28"]},
    "initialize": {"protocolVersion": "2025-11-25", "serverInfo": {"name": "n", "version": "1"}},
}
OFFERED = {
    name: {"listChanged": True, "vendor": 1} for name in ("tools", "prompts", "resources", "completions", "logging", "tasks", "x")
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def judged(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, Upstream]]:
    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while request := await there.request(reader):
            sent = json.loads(request.partition(b"\r\n\r\n")[2])
            result = RESULTS.get(sent["method"], {}) | {
                "resultType": "complete",
                "capabilities": OFFERED,
                "cacheScope": "public",
                "ttlMs": 10**9,
            }
            body = json.dumps({"jsonrpc": "2.0", "id": sent.get("id"), "result": result}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    folder = tmp_path_factory.mktemp("bundle")
    (folder / "grants").mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    engine = Engine(load(folder))
    async with upstream(script) as there:
        url = f"http://127.0.0.1:{there.port}/mcp"
        async with gateway(tmp_path_factory.mktemp("oracles"), {"ref": url, "other": url}) as world:
            world.judge = engine.decide
            yield world, there


@pytest.fixture
def asked(judged: tuple[World, Upstream]) -> tuple[World, Upstream]:
    world, there = judged
    world.forget()
    there.requests.clear()
    return judged


async def ask(world: World, era: str, method: str, person: str = "anna", **params: Any) -> httpx.Response:
    return await (world.modern if era == "modern" else world.legacy)(person, method, **params)


def without(answer: httpx.Response, *said: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body, with the ids of the call and what the caller said itself blanked."""
    text, decision = answer.text, answer.headers["bailiwick-decision"]
    for one in (decision, answer.headers.get("bailiwick-workflow", decision), *said):
        text = text.replace(one, "*")
    skipped = {"date", "content-length", "bailiwick-decision", "bailiwick-workflow"}
    return answer.status_code, {key: value for key, value in answer.headers.items() if key not in skipped}, text


def completing(**ref: str) -> dict[str, Any]:
    return {"ref": ref, "argument": {"name": "x", "value": ""}}


def template(uri: str) -> dict[str, Any]:
    return completing(type="ref/resource", uri=uri)


PAIRS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a tool": ("tools/call", {"name": "hidden"}, {"name": "nobody"}),
    "a tool of no name that rules know": ("tools/call", {"name": "hidden"}, {"name": "*"}),
    "a prompt": ("prompts/get", {"name": "hidden"}, {"name": "nobody"}),
    "a prompt of a name with a star": ("prompts/get", {"name": "hidden"}, {"name": "*"}),
    "a resource": ("resources/read", {"uri": "file:///closed/b"}, {"uri": "file:///nothing"}),
    "a resource that a deny rule names": ("resources/read", {"uri": "file:///open/secret"}, {"uri": "file:///nothing"}),
    "a prompt's completion": (
        "completion/complete", completing(type="ref/prompt", name="hidden"), completing(type="ref/prompt", name="nobody")
    ),
    "a template's completion": ("completion/complete", template("file:///closed/{x}"), template("gone://{x}")),
    "a resource's completion": ("completion/complete", template("file:///open/secret"), template("gone://x")),
}  # fmt: skip


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("what", PAIRS)
async def test_the_hidden_is_answered_as_the_unknown_byte_for_byte(asked: tuple[World, Upstream], what: str, era: str) -> None:
    world, there = asked
    method, hidden, unknown = PAIRS[what]
    first, second = await ask(world, era, method, **hidden), await ask(world, era, method, **unknown)
    assert "error" in first.json()
    assert without(first, "hidden") == without(second, str(unknown.get("name", "nobody")), "nobody")
    assert there.requests == []
    assert world.ledger.kinds() == ["decision.deny", "decision.deny"]


@pytest.mark.parametrize("era", ERAS)
async def test_lists_show_what_could_be_used_and_no_trace_of_the_rest(asked: tuple[World, Upstream], era: str) -> None:
    world, _ = asked
    found = {}
    for method, member, key in (
        ("tools/list", "tools", "name"), ("prompts/list", "prompts", "name"), ("resources/list", "resources", "uri"),
        ("resources/templates/list", "resourceTemplates", "uriTemplate"),
    ):  # fmt: skip
        result = answer_of(await ask(world, era, method))["result"]
        found[member] = [entry[key] for entry in result[member]]
        assert ("cacheScope" in result, result.get("cacheScope")) == ((True, "private") if era == "modern" else (False, None))
    assert found == {
        "tools": ["echo"],
        "prompts": ["greet"],
        "resources": ["file:///open/a"],
        "resourceTemplates": ["file:///open/{name}", "file:///{path}", "{+any}"],
    }


@pytest.mark.parametrize("era", ERAS)
async def test_what_is_listed_can_be_asked_for(asked: tuple[World, Upstream], era: str) -> None:
    world, there = asked
    for method, params in (
        ("tools/call", {"name": "echo"}), ("prompts/get", {"name": "greet"}), ("resources/read", {"uri": "file:///open/a"}),
        ("completion/complete", completing(type="ref/prompt", name="greet")), ("completion/complete", template("file:///open/{name}")),
    ):  # fmt: skip
        assert "result" in answer_of(await ask(world, era, method, **params)), method
    assert len(there.requests) == 5


@pytest.mark.parametrize("era", ERAS)
async def test_a_server_of_which_only_a_prompt_may_be_used_is_there_and_offers_prompts_alone(
    asked: tuple[World, Upstream], era: str
) -> None:
    world, _ = asked
    method = "server/discover" if era == "modern" else "initialize"
    params = {} if era == "modern" else {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    for person, offered in (
        ("ben", {"prompts", "completions", "logging"}),
        ("anna", {"tools", "resources", "prompts", "completions", "logging"}),
    ):
        capabilities = answer_of(await ask(world, era, method, person, **params))["result"]["capabilities"]
        assert set(capabilities) == offered
        assert not any("vendor" in said for said in capabilities.values())
    assert (await ask(world, era, method, "eve", **params)).status_code == 404
    assert answer_of(await ask(world, era, "resources/list", "ben"))["result"]["resources"] == []


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    "uri",
    [
        "file:///open/../closed/b", "file:///open/%2e%2e/closed/b", "file:///open/%252e%252e/closed/b", "file:///open//closed",
        "file:///open/..%2fclosed/b", "file:///open\\..\\closed\\b", "file:///open/a#/../../closed", "FILE:///closed/b",
        "file://localhost/closed/b", "file:///closed/b?x", "file:///open/.../b", "file:///open/a\u0000", "//open/a", "open/a",
        "file:///open/\u202eb", "file:///open/%c0%ae%c0%ae/closed",
    ],
)  # fmt: skip
async def test_a_path_that_climbs_out_of_what_is_granted_reaches_no_server(
    asked: tuple[World, Upstream], uri: str, era: str
) -> None:
    world, there = asked
    header = {"mcp-name": uri} if uri.isascii() and uri.isprintable() else {}
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": uri}}
    if era == "modern":
        meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
        body["params"]["_meta"] = meta
        answer = await world.post(
            "anna", body, headers={"mcp-protocol-version": "2026-07-28", "mcp-method": "resources/read"} | header
        )
    else:
        answer = await world.post("anna", body, headers={"mcp-protocol-version": "2025-11-25"})
    assert "error" in answer.json()
    assert there.requests == []


@pytest.mark.parametrize("era", ERAS)
async def test_a_server_that_answers_with_another_resource_than_was_asked_for_is_not_passed_on(
    asked: tuple[World, Upstream], monkeypatch: pytest.MonkeyPatch, era: str
) -> None:
    world, _ = asked
    for uri, passes in (
        ("file:///open/a", True), ("file:///open/b", True), ("file:///closed/b", False), ("file:///open/secret", False),
        ("file:///open/../closed/b", False), ("", False), (None, False),
    ):  # fmt: skip
        monkeypatch.setitem(RESULTS, "resources/read", {"contents": [{"uri": "file:///open/a"}, {"uri": uri, "text": "told"}]})
        answer = await ask(world, era, "resources/read", uri="file:///open/a")
        assert ("told" in answer.text) is passes, uri
        assert passes or answer.json()["error"]["data"]["code"] == "upstream-protocol"


async def test_a_list_from_before_grants_nothing(asked: tuple[World, Upstream]) -> None:
    world, there = asked
    assert "echo" in (await ask(world, "modern", "tools/list")).text
    judge = world.judge
    there.requests.clear()
    try:
        world.judge = Engine(load_without_rules()).decide
        assert (await ask(world, "modern", "tools/call", name="echo")).status_code == 404
    finally:
        world.judge = judge
    assert there.requests == []


def load_without_rules() -> Any:
    return load(SHIPPED)
