"""What is wrong with a request is told as the server itself tells it, and the first thing that is wrong is what is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.mcp.errors import refused
from gateway.model import Refused
from gateway.reasons import Code
from gateway.settings import Limits
from tests.mcp.world import DENY, MODERN, World, answer_of, gateway, modern_body, modern_headers, reference_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

VERSION, CAPABILITIES = "io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientCapabilities"
USUAL = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
LEGACY = {"mcp-protocol-version": "2025-11-25"}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
Headers = dict[str, str]


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with reference_server() as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory, server_url: str) -> AsyncIterator[World]:
    async with gateway(tmp_path_factory.mktemp("ladder"), {"ref": server_url}, limits=Limits(body_bytes=65536)) as world:
        yield world


@pytest.fixture
def world(shared: World) -> World:
    shared.forget()
    return shared


def about(method: str = "tools/list", *, meta: Any = None, **params: Any) -> tuple[Any, Headers]:
    """A good request of the stateless era, and its headers."""
    return modern_body(method, 1, meta, **params), modern_headers(method, **params)


def broken(change: Callable[[dict[str, Any], dict[str, Any], Headers], object], method: str = "tools/list", **params: Any) -> Any:
    """The same after a change of (body, _meta, headers)."""
    body, headers = about(method, **params)
    change(body, body["params"]["_meta"], headers)
    return body, headers


def set_to(key: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any], Headers], object]:
    return lambda body, _meta, _headers: body.__setitem__(key, value)


def said(key: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any], Headers], object]:
    return lambda _body, meta, _headers: meta.__setitem__(key, value)


def line(key: str, value: str) -> Callable[[dict[str, Any], dict[str, Any], Headers], object]:
    return lambda _body, _meta, headers: headers.__setitem__(key, value)


def no_line(key: str) -> Callable[[dict[str, Any], dict[str, Any], Headers], object]:
    return lambda _body, _meta, headers: headers.pop(key)


def both_versions(_body: dict[str, Any], meta: dict[str, Any], headers: Headers) -> None:
    meta[VERSION] = headers["mcp-protocol-version"] = "v9"


CANCELLED = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
SAME: dict[str, Any] = {
    "a good request": about(),
    "only JSON accepted": broken(line("accept", "application/json")),
    "only streams accepted": broken(line("accept", "text/event-stream")),
    "anything accepted": broken(line("accept", "*/*")),
    "kinds accepted": broken(line("accept", "application/*, text/*")),
    "pages accepted": broken(line("accept", "text/html")),
    "with weights": broken(line("accept", "application/json;q=0.5, text/event-stream;q=0.1")),
    "a charset": broken(line("content-type", "application/json; charset=utf-8")),
    "no JSON": (b"{", about()[1]),
    "nothing": (b"", about()[1]),
    "no JSON after a handshake": (b"{", LEGACY),
    "a batch": ([about()[0]], about()[1]),
    "an empty batch": (b"[]", about()[1]),
    "another JSON-RPC": broken(set_to("jsonrpc", "1.0")),
    "an id of null": broken(set_to("id", None)),
    "an id of a fraction": broken(set_to("id", 1.5)),
    "an id of true": broken(set_to("id", True)),
    "a list of parameters": broken(set_to("params", [1])),
    "a method that is none": broken(set_to("method", 1)),
    "an answer": ({"jsonrpc": "2.0", "id": 1, "result": {}}, about()[1]),
    "no _meta": broken(lambda body, _meta, _headers: body["params"].clear()),
    "no capabilities": broken(lambda _body, meta, _headers: meta.pop(CAPABILITIES)),
    "no version": broken(lambda _body, meta, _headers: meta.pop(VERSION)),
    "capabilities that are none": broken(said(CAPABILITIES, 5)),
    "a version that is none": broken(said(VERSION, 5)),
    "a version in the body alone": broken(said(VERSION, "v9")),
    "a version in the header alone": broken(line("mcp-protocol-version", "v9")),
    "a version that nobody speaks": broken(both_versions),
    "no method in the header": broken(no_line("mcp-method")),
    "another method in the header": broken(line("mcp-method", "ping")),
    "a method in capitals": broken(line("mcp-method", "Tools/List")),
    "no name in the header": broken(no_line("mcp-name"), "tools/call", name="gw_echo"),
    "another name in the header": broken(line("mcp-name", "x"), "tools/call", name="gw_echo"),
    "no name in the body": about("tools/call"),
    "a name where none belongs": broken(line("mcp-name", "x")),
    "an unknown method": about("x/y"),
    "a handshake in the stateless era": about("initialize"),
    "a ping in the stateless era": about("ping"),
    "a level in the stateless era": about("logging/setLevel", level="info"),
    "no session": (LIST, LEGACY),
    "an invented session": (LIST, LEGACY | {"mcp-session-id": "nope"}),
    "an unknown tool": about("tools/call", name="zz"),
    "an unknown prompt": about("prompts/get", name="zz"),
    "an unknown resource": about("resources/read", uri="test://zz"),
    "a cursor that is none": about(cursor=5),
    "a reference that is none": about("completion/complete", ref={"type": "x"}, argument={"name": "a", "value": "b"}),
    "no argument to complete": about("completion/complete", ref={"type": "ref/prompt", "name": "test_simple_prompt"}),
    "arguments in a list": about("tools/call", name="gw_echo", arguments=[1]),
    "a level that is none": about(meta={"io.modelcontextprotocol/logLevel": "x"}),
    "a cancellation": (CANCELLED, modern_headers("notifications/cancelled")),
}
OWN: dict[str, tuple[Any, tuple[int, int], tuple[int, int]]] = {
    "another kind of content": (broken(line("content-type", "text/plain")), (400, 0), (415, -32600)),
    "a batch after a handshake": ([LIST], (400, -32602), (400, -32600)),
    "the stateless era without its header": (broken(no_line("mcp-protocol-version")), (400, -32600), (400, -32020)),
    "an unknown method without a session": ((LIST | {"method": "x/y"}, LEGACY), (400, -32600), (200, -32601)),
    "a version that no handshake has": ((LIST, {"mcp-protocol-version": "v9"}), (400, -32602), (400, -32022)),
    "an invented cursor": (about(cursor="zz"), (200, 0), (400, -32602)),
    "a token that is true": (about(meta={"progressToken": True}), (200, 0), (400, -32602)),
    "an unknown notification": (
        ({"jsonrpc": "2.0", "method": "notifications/x"}, modern_headers("notifications/x")), (202, 0), (404, -32601)
    ),
}  # fmt: skip
"""Where the gateway is stricter than the reference server, or says more plainly what is wrong."""


async def told(client: httpx.AsyncClient, url: str, request: Any, token: Headers) -> tuple[int, int]:
    """The answer's status and its error's code, 0 for none."""
    body, headers = request if isinstance(request, tuple) else (request, LEGACY)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await client.post(url, content=content, headers=USUAL | headers | token)
    kind = answer.headers.get("content-type", "")
    spoken = answer_of(answer) if answer.content and kind.startswith(("application/json", "text/event-stream")) else {}
    return answer.status_code, spoken.get("error", {}).get("code", 0) if isinstance(spoken, dict) else 0


@pytest.mark.parametrize("what", SAME)
async def test_what_is_wrong_is_told_as_the_server_tells_it(world: World, server_url: str, what: str) -> None:
    direct = await told(world.client, server_url, SAME[what], {})
    through = await told(world.client, "/mcp/ref", SAME[what], world.token("anna"))
    if direct[1] == 0 and direct[0] >= 400:  # the server says it by the status alone
        assert through[0] == direct[0]
    else:
        assert through == direct


@pytest.mark.parametrize("what", OWN)
async def test_what_is_told_otherwise_than_by_the_server_is_told_on_purpose(world: World, server_url: str, what: str) -> None:
    request, by_server, by_gateway = OWN[what]
    assert await told(world.client, server_url, request, {}) == by_server
    assert await told(world.client, "/mcp/ref", request, world.token("anna")) == by_gateway


Rung = tuple[str, Callable[[dict[str, Any], Headers], Any], tuple[int, int]]


def _params(body: dict[str, Any], _headers: Headers, **changes: Any) -> None:
    body["params"] |= changes


def _without(body: dict[str, Any], _headers: Headers) -> None:
    body["params"]["_meta"].pop(CAPABILITIES, None)


DENIED = "denied by policy"
RUNGS: list[Rung] = [
    ("another host", lambda _, headers: headers.update({"host": "evil.example"}), (403, -32600)),
    ("too large", lambda body, _: body.update({"x": "x" * 70_000}), (413, -32600)),
    ("a stranger", lambda _, headers: headers.pop("authorization"), (401, -32600)),
    ("nothing that it accepts", lambda _, headers: headers.update({"accept": "text/html"}), (406, -32600)),
    ("no JSON", lambda body, _: body.update({"raw": b"{"}), (400, -32700)),
    ("no envelope", lambda body, _: body.update({"jsonrpc": "1.0"}), (400, -32600)),
    ("a header twice", lambda _, headers: headers.update({"twice": "mcp-method"}), (400, -32020)),
    ("no capabilities", _without, (400, -32602)),
    ("another method in the header", lambda _, headers: headers.update({"mcp-method": "x"}), (400, -32020)),
    ("a method of the other era", lambda body, _: body.update({"method": "ping"}), (404, -32601)),
    ("a parameter in disguise", lambda body, headers: _params(body, headers, Name="x"), (400, -32600)),
    (DENIED, lambda _body, _headers: None, (200, 0)),
    ("a lying parameter header", lambda _, headers: headers.update({"mcp-param-x": "y"}), (400, -32020)),
]  # fmt: skip


@pytest.mark.parametrize("first", range(len(RUNGS)), ids=[name for name, _, _ in RUNGS])
async def test_of_everything_that_is_wrong_the_first_rung_is_told(world: World, first: int) -> None:
    if any(name == DENIED for name, _, _ in RUNGS[first:]):
        world.verdicts["*", "ref.gw_echo"] = DENY
    body, headers = about("tools/call", name="gw_echo", arguments={})
    headers |= USUAL | world.token("anna")
    for _, breaks, _ in RUNGS[first:]:
        breaks(body, headers)
    if body["method"] == "ping" and headers["mcp-method"] != "x":
        headers["mcp-method"] = "ping"
    raw, twice = body.pop("raw", None), headers.pop("twice", None)
    lines = [*headers.items(), *([(twice, headers[twice])] if twice else [])]
    content = (raw + b" " * (70_000 if "x" in body else 0)) if raw is not None else json.dumps(body).encode()
    answer = await world.client.post("/mcp/ref", content=content, headers=lines)
    code = answer.json().get("error", {}).get("code", 0)
    assert (answer.status_code, code) == RUNGS[first][2]
    assert headers["mcp-protocol-version"] == MODERN


@pytest.mark.parametrize(("what", "status"), [("headers", 431), ("body", 413)])
async def test_what_is_too_large_is_told_apart_whoever_speaks_http(what: str, status: int) -> None:
    """The gateway's own listener says so before it is asked; behind another one the endpoint does."""
    answer = refused(Refused(Code.TOO_LARGE, what), None, "id", knows=True, challenge="")
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (status, -32600)
