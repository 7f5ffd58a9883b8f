"""One message, two readings: what the gateway judges must be what the server does.  Each bypass by name."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio

from tests.mcp.world import DENY, HIDDEN, MODERN, World, answer_of, gateway, modern_body, modern_headers, reference_server
from tests.upstream.wire import Reader, Upstream, Writer, upstream

V = '"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}'
META = f'"_meta": {{{V}}}'


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recorded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, Upstream]]:
    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while request := await there.request(reader):
            sent = json.loads(request.partition(b"\r\n\r\n")[2])
            result = {"tools": [], "content": [], "resultType": "complete"}
            body = json.dumps({"jsonrpc": "2.0", "id": sent.get("id"), "result": result}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    folder = tmp_path_factory.mktemp("watched")
    async with upstream(script) as there, gateway(folder, {"ref": f"http://127.0.0.1:{there.port}/mcp"}) as world:
        yield world, there


@pytest.fixture
def watched(recorded: tuple[World, Upstream]) -> tuple[World, Upstream]:
    """A gateway before a server that remembers every byte that it got."""
    world, there = recorded
    world.forget()
    there.requests.clear()
    return recorded


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def referring(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    with reference_server() as url:
        async with gateway(tmp_path_factory.mktemp("ref"), {"ref": url, "other": url}) as world:
            yield world


@pytest.fixture
def world_ref(referring: World) -> World:
    """A gateway before the reference server."""
    referring.forget()
    return referring


def call(params: str, extra: str = "") -> bytes:
    return f'{{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {{{params}, {META}}}{extra}}}'.encode()


SAFE = '"name": "safe", "arguments": {"amount": 1}'
DIFFERENTIALS = {
    "a duplicate name": call('"name": "danger", "name": "safe"'),
    "a duplicate name in disguise of an escape": call('"name": "danger", "n\\u0061me": "safe"'),
    "a name in capitals beside the name": call('"name": "safe", "Name": "danger"'),
    "arguments in capitals instead of arguments": call('"name": "safe", "Arguments": {"amount": 999}'),
    "a Kelvin sign for a k": call(SAFE).replace(b'"_meta": {', '"_meta": {"progressTo\u212aen": 1, '.encode()),
    "a long s for an s": call('"name": "safe", "argument\u017f": {"amount": 999}'),
    "a name with a NUL behind it": call('"name": "safe", "name\\u0000": "danger"'),
    "a duplicate argument": call('"name": "safe", "arguments": {"amount": 999, "amount": 1}'),
    "a duplicate deep inside": call('"name": "safe", "arguments": {"a": [{"b": {"c": 1, "c": 2}}]}'),
    "an argument in capitals beside the argument": call('"name": "safe", "arguments": {"amount": 1, "Amount": 999}'),
    "a duplicate method": call(SAFE, ', "method": "ping"'),
    "a method in capitals beside the method": call(SAFE, ', "METHOD": "tools/list"'),
    "a duplicate params": call(SAFE, ', "params": {"name": "danger"}'),
    "params in capitals beside params": call(SAFE, ', "Params": {"name": "danger"}'),
    "a duplicate id": call(SAFE, ', "id": 2'),
    "an id in capitals beside the id": call(SAFE, ', "ID": 2'),
    "a result in a request": call(SAFE, ', "result": {}'),
    "an error in capitals in a request": call(SAFE, ', "Error": {}'),
    "a duplicate _meta": call(f'{SAFE}, "_meta": {{}}'),
    "a version in capitals inside _meta": call(SAFE).replace(
        b'"_meta": {', b'"_meta": {"io.modelcontextprotocol/ProtocolVersion": "x", '
    ),
    "a duplicate inside _meta": call(SAFE).replace(b'"_meta": {', b'"_meta": {"progressToken": 1, "progressToken": 2, '),
    "a number that is none": call('"name": "safe", "arguments": {"amount": NaN}'),
    "an infinite number": call('"name": "safe", "arguments": {"amount": Infinity}'),
    "a number too big for a double": call('"name": "safe", "arguments": {"amount": 1e999}'),
    "half a character": call('"name": "safe", "arguments": {"amount": "\\ud800"}'),
    "bytes that are no UTF-8": call('"name": "safe", "arguments": {"amount": "?"}').replace(b"?", b"\xc0\xaf"),
    "a byte order mark": b"\xef\xbb\xbf" + call(SAFE),
    "UTF-16": call(SAFE).decode().encode("utf-16"),
    "a batch": b"[" + call(SAFE) + b"]",
    "two messages": call(SAFE) + b"\n" + call('"name": "danger"'),
    "a comment": call(SAFE) + b"// x",
    "a trailing comma": call('"name": "safe", "arguments": {"amount": 1,}'),
    "single quotes": call(SAFE).replace(b'"safe"', b"'safe'"),
    "another version of JSON-RPC": call(SAFE).replace(b'"2.0"', b'"1.0"'),
    "an id that is a list": call(SAFE).replace(b'"id": 1', b'"id": [1]'),
    "an id that is null": call(SAFE).replace(b'"id": 1', b'"id": null'),
    "an id that is a boolean": call(SAFE).replace(b'"id": 1', b'"id": true'),
    "a method that is a list": call(SAFE).replace(b'"tools/call"', b'["tools/call"]'),
    "params that are a list": b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": ["safe"]}',
    "arguments that are a list": call('"name": "safe", "arguments": [1]'),
    "a name that is a list": call('"name": ["safe"]'),
    "a name with a line break": call('"name": "sa\\nfe"'),
    "no name": call('"arguments": {}'),
    "an empty body": b"",
    "a posted answer": b'{"jsonrpc": "2.0", "id": 1, "result": {}}',
}


@pytest.mark.parametrize("body", DIFFERENTIALS.values(), ids=DIFFERENTIALS.keys())
@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_message_with_two_readings_is_refused(watched: tuple[World, Upstream], body: bytes, era: str) -> None:
    world, there = watched
    headers = modern_headers("tools/call", name="safe")
    if era == "legacy":
        headers = {"mcp-protocol-version": "2025-11-25"}
        body = body.replace(V.encode(), b'"x": 1')
    answer = await world.post("anna", body, headers=headers)
    assert 400 <= answer.status_code < 500 or answer.json()["error"]["code"] == -32602
    assert answer.json()["error"]["code"] in {-32700, -32600, -32602, -32020}
    assert there.requests == []
    assert world.ledger.kinds() == ["decision.deny"]


LYING_HEADERS = {
    "another method": {"mcp-method": "tools/list"},
    "another name": {"mcp-name": "danger"},
    "no method": {"mcp-method": None},
    "no name": {"mcp-name": None},
    "another version": {"mcp-protocol-version": "2025-11-25"},
    "no version": {"mcp-protocol-version": None},
    "a name in another case": {"mcp-name": "Safe"},
    "a sentinel of another name": {"mcp-name": "=?base64?ZGFuZ2Vy?="},
    "a broken sentinel": {"mcp-name": "=?base64?!!!?="},
    "a sentinel that is not canonical": {"mcp-name": "=?base64?c2FmZR==?="},
    "a parameter that the body does not have": {"mcp-param-region": "eu"},
}


@pytest.mark.parametrize("changes", LYING_HEADERS.values(), ids=LYING_HEADERS.keys())
async def test_a_header_that_says_something_else_than_the_body_is_refused(
    watched: tuple[World, Upstream], changes: dict[str, str | None]
) -> None:
    world, there = watched
    headers = modern_headers("tools/call", name="safe") | changes
    sent = {name: value for name, value in headers.items() if value is not None}
    answer = await world.post("anna", modern_body("tools/call", name="safe", arguments={"amount": 1}), headers=sent)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32020
    assert answer.json()["id"] == 1
    assert there.requests == []


@pytest.mark.parametrize("name", ["mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id"])
async def test_a_routing_header_on_two_lines_is_refused(watched: tuple[World, Upstream], name: str) -> None:
    world, there = watched
    usual = modern_headers("tools/call", name="safe") | world.token("anna")
    usual |= {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    value = usual.get(name, "x")
    lines = [(key, text) for key, text in usual.items() if key != name] + [(name, value), (name, value)]
    body = json.dumps(modern_body("tools/call", name="safe")).encode()
    answer = await world.client.post("/mcp/ref", content=body, headers=lines)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32020
    assert there.requests == []


async def test_a_message_of_one_era_with_the_headers_of_the_other_is_refused(watched: tuple[World, Upstream]) -> None:
    world, there = watched
    for headers in ({}, {"mcp-protocol-version": "2025-06-18"}):
        answer = await world.post("anna", modern_body("tools/call", name="safe"), headers=headers)
        assert answer.json()["error"]["code"] == -32020
    assert there.requests == []


@pytest.mark.parametrize("version", ["2026-07-29", "1.0", "draft", "9999-99-99"])
async def test_a_revision_that_is_not_served_is_refused(watched: tuple[World, Upstream], version: str) -> None:
    world, there = watched
    answer = await world.post(
        "anna", {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}, headers={"mcp-protocol-version": version}
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == -32022
    assert error["data"]["requested"] == version
    assert MODERN in error["data"]["supported"]
    assert there.requests == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' * 70 + b"1" + b"}" * 70,
        b"[" * 5000 + b"]" * 5000,
        b"[" * 2_000_000,
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","arguments":{"a":'
        + b"[" * 70
        + b"]" * 70
        + b"}}}",
    ],
    ids=["objects", "lists", "never closed", "arguments"],
)
async def test_a_message_nested_too_deep_is_refused(watched: tuple[World, Upstream], body: bytes) -> None:
    world, there = watched
    answer = await world.post("anna", body, headers={"mcp-protocol-version": "2025-11-25"})
    assert answer.status_code == 400
    assert there.requests == []


async def test_what_is_judged_is_what_is_sent(watched: tuple[World, Upstream]) -> None:
    """Numbers included: the policy sees, as a Decimal, the very digits that the server gets."""
    world, there = watched
    arguments = b'{"a": 0.1, "b": 1.10, "c": 1e2, "d": 0.30000000000000004, "e": 0.1000000000000000055, "f": 9007199254740993}'
    body = json.dumps(modern_body("tools/call", name="safe", arguments="?")).encode().replace(b'"?"', arguments)
    answer = await world.post("anna", body, headers=modern_headers("tools/call", name="safe"))
    assert answer.status_code == 200
    sent = there.requests[0].partition(b"\r\n\r\n")[2]
    got = json.loads(sent, parse_float=Decimal)["params"]["arguments"]
    judged = next(request for request in world.asked if request.action == "call").arguments
    assert got == dict(judged or {})
    assert {key: str(value) for key, value in got.items()} == {key: str(value) for key, value in (judged or {}).items()}


async def test_nothing_of_the_callers_that_was_not_checked_is_sent_on(watched: tuple[World, Upstream]) -> None:
    world, there = watched
    for forbidden in ("sampling:ref", "elicitation:ref", "roots:ref", "extension:ref/x"):
        world.verdicts["*", forbidden] = DENY
    body = modern_body(
        "tools/call",
        name="safe",
        arguments={"amount": 1},
        task={"ttl": 1},
        inputResponses={"x": {}},
        extra="x",
        meta={
            "baggage": "user=root",
            "bailiwick/decision": "forged",
            "io.modelcontextprotocol/clientCapabilities": {
                "sampling": {},
                "elicitation": {},
                "roots": {},
                "extensions": {"x": {}},
            },
            "progressToken": "t",
        },
    )
    headers = modern_headers("tools/call", name="safe") | {
        "cookie": "session=secret",
        "origin": world.url,
        "x-forwarded-for": "1.2.3.4",
        "forwarded": "for=1.2.3.4",
        "x-injected": "1",
        "baggage": "user=root",
        "last-event-id": "9",
        "mcp-session-id": "x",
        "proxy-authorization": "Basic x",
        "te": "trailers",
    }
    answer = await world.post("anna", body | {"extra": 1}, headers=headers)
    assert answer.status_code == 200
    head, _, sent = there.requests[0].partition(b"\r\n\r\n")
    names = {line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
    assert names == {
        b"host",
        b"accept-encoding",
        b"content-type",
        b"accept",
        b"traceparent",
        b"mcp-protocol-version",
        b"mcp-method",
        b"mcp-name",
        b"content-length",
    }
    message = json.loads(sent)
    assert set(message) == {"jsonrpc", "id", "method", "params"}
    assert set(message["params"]) == {"name", "arguments", "extra", "_meta"}  # what is unknown has one spelling, and goes on
    meta = message["params"]["_meta"]
    assert set(meta) == {
        "io.modelcontextprotocol/protocolVersion",
        "io.modelcontextprotocol/clientCapabilities",
        "progressToken",
        "traceparent",
    }
    assert meta["io.modelcontextprotocol/clientCapabilities"] == {}


async def test_a_name_that_cannot_stand_in_a_header_cannot_break_out_of_it(watched: tuple[World, Upstream]) -> None:
    world, there = watched
    name = "Überweisung 💶"
    sentinel = f"=?base64?{base64.b64encode(name.encode()).decode()}?="
    body = modern_body("tools/call", name=name)
    answer = await world.post(
        "anna", body, headers={"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": sentinel}
    )
    assert answer.status_code == 200
    assert f"mcp-name: {sentinel}\r\n".encode() in there.requests[0]


async def test_of_the_callers_headers_only_parameters_that_the_body_repeats_go_on(watched: tuple[World, Upstream]) -> None:
    world, there = watched
    headers = modern_headers("tools/call", name="safe") | {"mcp-param-region": "eu", "mcp-param-n": "5"}
    body = modern_body("tools/call", name="safe", arguments={"region": "eu", "in": {"n": 5}})
    assert (await world.post("anna", body, headers=headers)).status_code == 200
    assert b"mcp-param-region: eu\r\n" in there.requests[0]


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_hidden_tool_is_answered_as_an_unknown_one_byte_for_byte(world_ref: World, era: str) -> None:
    """gw_big is there and hidden; gone and other are not there at all."""
    for name in ("gw_big", "gone__"):
        world_ref.verdicts["*", f"ref.{name}"] = HIDDEN
    answers = []
    for name in ("gw_big", "gone__"):
        if era == "modern":
            response = await world_ref.modern("anna", "tools/call", name=name, arguments={})
        else:
            response = await world_ref.legacy("anna", "tools/call", name=name, arguments={})
        answers.append(without_ids(response, name))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize("method", ["tools/list", "tools/call", "initialize", "server/discover", "ping", "prompts/list"])
async def test_a_hidden_server_is_answered_as_an_unknown_one_byte_for_byte(world_ref: World, era: str, method: str) -> None:
    world_ref.verdicts["*", "ref"] = HIDDEN
    world_ref.verdicts["*", "nothere"] = HIDDEN
    world_ref.verdicts["*", "ref.gw_echo"] = HIDDEN
    world_ref.verdicts["*", "nothere.gw_echo"] = HIDDEN
    params: dict[str, Any] = {"name": "gw_echo"} if method == "tools/call" else {}
    answers = []
    for server in ("ref", "nothere"):
        ask = world_ref.modern if era == "modern" else world_ref.legacy
        answers.append(without_ids(await ask("anna", method, server=server, **params), server))
    assert answers[0] == answers[1]


async def test_a_server_that_is_hidden_from_one_is_there_for_another(world_ref: World) -> None:
    world_ref.verdicts["user:dev/ben", "ref"] = HIDDEN
    assert (await world_ref.modern("anna", "tools/list")).status_code == 200
    assert (await world_ref.modern("ben", "tools/list")).status_code == 404


async def test_a_stranger_learns_nothing_of_servers(world_ref: World) -> None:
    there, nowhere = await world_ref.modern(None, "tools/list"), await world_ref.modern(None, "tools/list", server="nothere")
    assert there.status_code == nowhere.status_code == 401
    assert without_ids(there, "ref") == without_ids(nowhere, "nothere")
    expected = f'Bearer resource_metadata="{world_ref.url}/.well-known/oauth-protected-resource/mcp/ref"'
    assert there.headers["www-authenticate"] == expected
    wrong = await world_ref.post(None, modern_body("tools/list"), headers={"authorization": "Bearer nonsense"})
    assert wrong.status_code == 401
    assert 'error="invalid_token"' in wrong.headers["www-authenticate"]


@pytest.mark.parametrize(
    "path", ["/mcp/..%2fref", "/mcp/ref/", "/mcp/REF", "/mcp/ref%00", "/mcp/ref%0d%0ax:%20y", "/mcp//", "/mcp/ref%22"]
)
async def test_a_path_that_is_nearly_a_servers_is_no_servers(world_ref: World, path: str) -> None:
    body = json.dumps(modern_body("tools/list")).encode()
    headers = modern_headers("tools/list") | {"content-type": "application/json"}
    stranger = await world_ref.client.post(path, content=body, headers=headers)
    assert stranger.status_code == 401
    known = await world_ref.client.post(path, content=body, headers=headers | world_ref.token("anna"))
    assert known.status_code == 404


async def test_another_persons_session_is_unknown(world_ref: World) -> None:
    anna = await world_ref.handshake("anna")
    assert anna
    assert (await world_ref.legacy("anna", "tools/list", session=anna)).status_code == 200
    stolen = await world_ref.legacy("ben", "tools/list", session=anna)
    forged = await world_ref.legacy("ben", "tools/list", session="A" * len(anna))
    assert stolen.status_code == forged.status_code == 404
    assert without_ids(stolen, "") == without_ids(forged, "")
    elsewhere = await world_ref.legacy("anna", "tools/list", session=anna, server="other")
    assert elsewhere.status_code == 404
    flipped = await world_ref.legacy("anna", "tools/list", session=anna[:-2] + ("AA" if anna[-2:] != "AA" else "BB"))
    assert flipped.status_code == 404


async def test_an_upstreams_session_id_is_never_shown(world_ref: World) -> None:
    anna = await world_ref.handshake("anna")
    answer = answer_of(await world_ref.legacy("anna", "tools/call", session=anna, name="gw_echo", arguments={}))
    upstreams = answer["result"]["structuredContent"]["headers"]["mcp-session-id"]
    assert upstreams != anna
    assert (await world_ref.legacy("anna", "tools/list", session=upstreams)).status_code == 404


async def test_a_rebound_host_or_a_foreign_origin_is_refused(world_ref: World) -> None:
    body = modern_body("tools/list")
    for headers in ({"host": "evil.example.com"}, {"origin": "https://evil.example.com"}, {"origin": "null"}):
        answer = await world_ref.post("anna", body, headers=modern_headers("tools/list") | headers)
        assert answer.status_code == 403
    assert (
        await world_ref.post("anna", body, headers=modern_headers("tools/list") | {"origin": world_ref.url})
    ).status_code == 200


async def test_a_denial_says_its_code_and_nothing_of_its_rule(world_ref: World) -> None:
    world_ref.verdicts["*", "ref.gw_big"] = DENY
    answer = await world_ref.modern("anna", "tools/call", name="gw_big", arguments={"n": 1})
    assert "sha256:0" not in answer.text
    assert "user-lacks-right" in answer.text


def without_ids(response: Any, name: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body, with what differs from call to call and the name that the caller said itself blanked."""
    decision = response.headers["bailiwick-decision"]

    def blank(text: str) -> str:
        text = text.replace(decision, "<decision>").replace(response.headers.get("bailiwick-workflow", "\0"), "<workflow>")
        return text.replace(name, "<name>") if name else text

    headers = {key: blank(value) for key, value in response.headers.items() if key not in {"date", "content-length"}}
    return response.status_code, headers, blank(response.text)
