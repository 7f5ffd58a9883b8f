"""Members, headers and capabilities that say one thing to the gateway and another one to the server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gateway.mcp.repeated import Repeats, encoded, repeats
from policies import names
from tests.mcp.world import ALLOW, DENY, MODERN, World, answer_of, gateway, modern_body, modern_headers
from tests.upstream.wire import Reader, Upstream, Writer, upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCHEMA = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "amount": {"type": "integer", "x-mcp-header": "Amount"},
        "deep": {"type": "object", "properties": {"flag": {"type": "boolean", "x-mcp-header": "Flag"}}},
    },
}


def mark(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}}


BROKEN = {
    "an object": mark({"type": "object", "x-mcp-header": "A"}),
    "a number": mark({"type": "number", "x-mcp-header": "A"}),
    "no type": mark({"x-mcp-header": "A"}),
    "several types": mark({"type": ["string", "null"], "x-mcp-header": "A"}),
    "a line break": mark({"type": "string", "x-mcp-header": "A\r\nX-Evil: 1"}),
    "an empty name": mark({"type": "string", "x-mcp-header": ""}),
    "no text": mark({"type": "string", "x-mcp-header": 7}),
    "the root": {"type": "object", "x-mcp-header": "A"},
    "under an array": mark({"type": "array", "items": {"type": "string", "x-mcp-header": "A"}}),
    "under a choice": {"type": "object", "anyOf": [mark({"type": "string", "x-mcp-header": "A"})]},
    "twice": {
        "type": "object",
        "properties": {name: {"type": "string", "x-mcp-header": text} for name, text in (("a", "Same"), ("b", "same"))},
    },
}
PAY = {"name": "pay", "inputSchema": SCHEMA}
TOOLS = [PAY, *({"name": f"t{n}", "inputSchema": schema} for n, schema in enumerate(BROKEN.values()))]


def approved(server: str, tool: str) -> Repeats:
    return repeats(SCHEMA) or () if (server, tool) == ("ref", "pay") else ()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recorded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, Upstream]]:
    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while request := await there.request(reader):
            sent = json.loads(request.partition(b"\r\n\r\n")[2])
            result = {
                "tools": TOOLS, "content": [], "messages": [], "contents": [], "completion": {"values": []},
                "capabilities": {"tools": {}}, "protocolVersion": "2025-11-25", "supportedVersions": [MODERN],
                "resultType": "complete",
            }  # fmt: skip
            body = json.dumps({"jsonrpc": "2.0", "id": sent.get("id"), "result": result}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    folder = tmp_path_factory.mktemp("members")
    async with (
        upstream(script) as there,
        gateway(folder, {"ref": f"http://127.0.0.1:{there.port}/mcp"}, repeats=approved) as world,
    ):
        yield world, there


@pytest.fixture
def watched(recorded: tuple[World, Upstream]) -> tuple[World, Upstream]:
    world, there = recorded
    world.forget()
    there.requests.clear()
    return recorded


V = '"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}'
SAFE = '"type": "ref/prompt", "name": "safe"'
OPENING = '"protocolVersion": "2025-11-25", "clientInfo": {}, "capabilities": {}'
REF = '"argument": {"name": "a", "value": "b"}'
TWO_READINGS = {
    "a prompt's name twice": ("prompts/get", '"name": "danger", "name": "safe"'),
    "a prompt's name in capitals": ("prompts/get", '"name": "safe", "NAME": "danger"'),
    "a prompt's name with a NUL": ("prompts/get", '"name": "safe", "name\\u0000": "danger"'),
    "a prompt's argument in capitals": ("prompts/get", '"name": "safe", "arguments": {"a": "1", "A": "2"}'),
    "a prompt's arguments as a list": ("prompts/get", '"name": "safe", "arguments": ["a"]'),
    "a resource's address twice": ("resources/read", '"uri": "file:///danger", "uri": "file:///safe"'),
    "a resource's address in capitals": ("resources/read", '"uri": "file:///safe", "Uri": "file:///danger"'),
    "a resource's address that is a list": ("resources/read", '"uri": ["file:///safe"]'),
    "a reference of two kinds": ("completion/complete", '"ref": {' + SAFE + ', "uri": "file:///x"}, ' + REF),
    "a reference with its type twice": ("completion/complete", '"ref": {"type": "ref/resource", ' + SAFE + "}, " + REF),
    "a reference in capitals": ("completion/complete", '"ref": {' + SAFE + ', "Name": "danger"}, ' + REF),
    "a second reference in capitals": (
        "completion/complete", '"ref": {' + SAFE + '}, "Ref": {"type": "ref/prompt", "name": "x"}, ' + REF
    ),
    "a reference of an unknown kind": ("completion/complete", '"ref": {"type": "ref/tool", "name": "safe"}, ' + REF),
    "a level twice": ("logging/setLevel", '"level": "debug", "level": "error"'),
    "a level in capitals": ("logging/setLevel", '"level": "error", "Level": "debug"'),
    "capabilities twice": ("initialize", OPENING + ', "capabilities": {"roots": {}}'),
    "capabilities in capitals": ("initialize", OPENING + ', "Capabilities": {"roots": {}}'),
    "a cursor in capitals": ("tools/list", '"cursor": "a", "Cursor": "b"'),
}  # fmt: skip


@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize("what", TWO_READINGS)
async def test_a_request_of_two_readings_reaches_nobody_whatever_it_asks_for(
    watched: tuple[World, Upstream], what: str, era: str
) -> None:
    world, there = watched
    method, params = TWO_READINGS[what]
    if era == "modern":
        headers = modern_headers(method) | {"mcp-name": "file:///safe" if "uri" in params else "safe"}
        params += f", {V}"
    else:
        headers = {"mcp-protocol-version": "2025-11-25"}
    body = f'{{"jsonrpc": "2.0", "id": 1, "method": "{method}", "params": {{{params}}}}}'.encode()
    answer = await world.post("anna", body, headers=headers)
    assert answer.json()["error"]["code"] in {-32700, -32600, -32602, -32601, -32020}
    assert there.requests == []


@pytest.mark.parametrize(("method", "member"), [("prompts/get", "name"), ("resources/read", "uri")])
async def test_a_name_in_the_header_is_the_one_in_the_body(watched: tuple[World, Upstream], method: str, member: str) -> None:
    world, there = watched
    for said, status in (("test://safe", 200), ("test://other", 400), ("Test://safe", 400), ("", 400), (None, 400)):
        headers = modern_headers(method) | ({} if said is None else {"mcp-name": said})
        answer = await world.post("anna", modern_body(method, **{member: "test://safe"}), headers=headers)
        assert answer.status_code == status, said
    (request,) = there.requests
    assert b"mcp-name: test://safe\r\n" in request


ADDRESSES = {
    "file:///a/b": "file:///a/b",
    "file:///a%20(1).txt": "file:///a%20%281%29.txt",
    "file:///%7Eann/b%c3%a9": "file:///~ann/b%C3%A9",
    "test://t/é": "test://t/%C3%A9",
    "file:///a%281%29": "file:///a%281%29",
    "file:///a/*": "file:///a/%2A",
    "HTTP://h/(1)": "http://h/%281%29",
    "http://h": "http://h/",
    "urn:a,b": "urn:a%2Cb",
    "HTTP://h/%41": "http://h/A",
    "http://H/%41": "http://h/A",
    "http://h:80/%41": "http://h/A",
    "users://Bob/%41": "users://bob/A",
    "URN:a%41": "urn:aA",
    "Memo://Anna.Notes/Plan": "memo://anna.notes/Plan",
}


@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize("uri", ADDRESSES)
async def test_an_address_is_sent_exactly_as_it_was_written_and_decided_in_its_one_form(
    watched: tuple[World, Upstream], uri: str, era: str
) -> None:
    world, there = watched
    if era == "modern":
        headers = modern_headers("resources/read") | {"mcp-name": encoded(uri)}
        await world.post("anna", modern_body("resources/read", uri=uri), headers=headers)
    else:
        await world.legacy("anna", "resources/read", uri=uri)
    head, _, body = there.requests[0].partition(b"\r\n\r\n")
    assert json.loads(body)["params"]["uri"] == uri
    assert world.asked[0].resource == f"res:ref/{ADDRESSES[uri]}" == names.resource("ref", uri)
    assert era == "legacy" or f"mcp-name: {encoded(uri)}\r\n".encode() in head


WHOLE = {"region": "eu", "amount": 7, "deep": {"flag": True}, "note": "n"}
RIGHT = {"mcp-param-region": "eu", "mcp-param-amount": "7", "mcp-param-flag": "true"}
WRONG: dict[str, dict[str, str | None]] = {
    "one is missing": {"mcp-param-flag": None},
    "another value": {"mcp-param-region": "us"},
    "another argument's value": {"mcp-param-region": "n"},
    "another number": {"mcp-param-amount": "8"},
    "a number in words": {"mcp-param-amount": "7e0"},
    "a broken sentinel": {"mcp-param-region": "=?base64?ZXV=?="},
    "the value of nothing": {"mcp-param-else": "zzz"},
}


async def pay(world: World, arguments: dict[str, Any], headers: dict[str, Any]) -> Any:
    sent = modern_headers("tools/call", name="pay") | {name: value for name, value in headers.items() if value is not None}
    return await world.post("anna", modern_body("tools/call", name="pay", arguments=arguments), headers=sent)


@pytest.mark.parametrize("what", WRONG)
async def test_headers_that_an_approved_definition_wants_are_held_to_it(watched: tuple[World, Upstream], what: str) -> None:
    world, there = watched
    answer = await pay(world, WHOLE, RIGHT | WRONG[what])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32020)
    assert there.requests == []


async def test_headers_that_repeat_their_arguments_go_on_written_anew(watched: tuple[World, Upstream]) -> None:
    world, there = watched
    assert (
        await pay(world, WHOLE, RIGHT | {"mcp-param-amount": "7.0", "mcp-param-region": "=?base64?ZXU=?="})
    ).status_code == 200
    assert (await pay(world, {"note": "n", "region": None}, {})).status_code == 200
    assert (await pay(world, {"note": "n"}, {"mcp-param-region": "n"})).status_code == 400
    first, second = (request.partition(b"\r\n\r\n")[0] for request in there.requests)
    for line in (b"mcp-param-region: eu", b"mcp-param-amount: 7\r\n", b"mcp-param-flag: true"):
        assert line in first
    assert b"mcp-param" not in second


async def test_a_tool_whose_marks_for_headers_are_broken_is_not_listed_where_clients_read_them(
    watched: tuple[World, Upstream],
) -> None:
    world, _ = watched
    listed = answer_of(await world.modern("anna", "tools/list"))["result"]["tools"]
    assert listed == [{"name": "pay", "inputSchema": SCHEMA}]
    assert len(answer_of(await world.legacy("anna", "tools/list"))["result"]["tools"]) == len(TOOLS)


async def test_no_capability_that_policy_denies_or_nobody_knows_is_declared_to_a_server(
    watched: tuple[World, Upstream],
) -> None:
    world, there = watched
    everything = {
        "sampling": {"context": {}, "tools": {}}, "elicitation": {"form": {}, "url": {}}, "roots": {"listChanged": True},
        "tasks": {"list": {}}, "experimental": {"x": {}}, "unheard": {}, "Sampling": {},
        "extensions": {f"io.modelcontextprotocol/{name}": {} for name in ("tasks", "ui", "*", "..")} | {"x*": {}, "*": {}},
    }  # fmt: skip

    kinds = ("sampling:", "elicitation:", "roots:", "task:", "extension:")
    world.judge = lambda request: DENY if request.resource.startswith(kinds) else ALLOW
    try:
        meta = {"io.modelcontextprotocol/clientCapabilities": everything}
        assert (await world.modern("anna", "tools/call", name="x", arguments={}, meta=meta)).status_code == 200
        info = {"protocolVersion": "2025-11-25", "clientInfo": {"name": "n", "version": "1"}}
        assert (await world.legacy("anna", "initialize", capabilities=everything, **info)).status_code == 200
    finally:
        world.judge = None
    modern, legacy = (json.loads(request.partition(b"\r\n\r\n")[2])["params"] for request in there.requests)
    assert modern["_meta"]["io.modelcontextprotocol/clientCapabilities"] == {}
    assert legacy["capabilities"] == {}


async def test_an_extension_that_is_granted_is_declared_and_no_other(watched: tuple[World, Upstream]) -> None:
    world, there = watched
    ui, other = "io.modelcontextprotocol/ui", "com.example/other"
    world.verdicts["*", f"extension:ref/{other}"] = DENY
    meta = {"io.modelcontextprotocol/clientCapabilities": {"extensions": {ui: {"mimeTypes": ["text/html"]}, other: {}}}}
    await world.modern("anna", "tools/call", name="x", arguments={}, meta=meta)
    sent = json.loads(there.requests[0].partition(b"\r\n\r\n")[2])["params"]["_meta"]
    assert sent["io.modelcontextprotocol/clientCapabilities"]["extensions"] == {ui: {"mimeTypes": ["text/html"]}}


NOTICES = {
    "notifications/progress": ({"progressToken": "t", "progress": 1}, True),
    "notifications/roots/list_changed": ({}, True),
    "notifications/tasks/status": ({"taskId": "t"}, False),
    "notifications/message": ({"level": "info", "data": "x"}, False),
}


@pytest.mark.parametrize("method", NOTICES)
async def test_a_notice_goes_on_where_it_is_a_clients_to_give(watched: tuple[World, Upstream], method: str) -> None:
    world, there = watched
    params, goes_on = NOTICES[method]
    answer = await world.legacy("anna", method, rpc_id=None, **params)
    assert (answer.status_code == 202) is (method != "notifications/message")
    assert [json.loads(request.partition(b"\r\n\r\n")[2])["method"] for request in there.requests] == [method] * goes_on


async def test_a_server_that_may_not_ask_for_folders_does_not_hear_that_they_changed(watched: tuple[World, Upstream]) -> None:
    world, there = watched
    world.verdicts["*", "roots:ref"] = DENY
    answer = await world.legacy("anna", "notifications/roots/list_changed", rpc_id=None)
    assert (answer.status_code, there.requests) == (202, [])
    assert world.ledger.kinds() == ["call.start", "call.end"]


async def test_who_names_no_revision_speaks_the_first_one_that_had_no_name_for_it(watched: tuple[World, Upstream]) -> None:
    world, there = watched
    answer = await world.post("anna", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert "result" in answer.json()
    assert b"mcp-protocol-version: 2025-03-26\r\n" in there.requests[0]
    assert world.ledger.entries[0].fields["proto_ver"] == "2025-03-26"
