"""Ids of requests come back equal, digit by digit, or the request is refused; none is changed on its way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.mcp.world import World, gateway, modern_headers
from tests.upstream.wire import Reader, Upstream, Writer, upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

EQUAL = [
    "0", "-1", "9007199254740993", "9223372036854775807", "-9223372036854775808", "18446744073709551615", '"0"', '""',
    '"18446744073709551616"', '"\\u00e9 \\ud83d\\ude00"',
]  # fmt: skip
REFUSED = [
    "18446744073709551616", "-9223372036854775809", "123456789012345678901234567890", "1.0", "1e3", "9007199254740993.0",
    "true", "null", "[1]", "{}",
]  # fmt: skip
META = '"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def echoing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, Upstream]]:
    """A server that answers under the very digits that it was asked under."""

    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while request := await there.request(reader):
            body = request.partition(b"\r\n\r\n")[2]
            if json.loads(body).get("id") is None:
                writer.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
                continue
            result = {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {}, "content": []}
            said = {"jsonrpc": "2.0", "id": json.loads(body)["id"], "result": result}
            text = json.dumps(said).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(text) + text)

    async with upstream(script) as there:
        url = f"http://127.0.0.1:{there.port}/mcp"
        async with gateway(tmp_path_factory.mktemp("ids"), {"ref": url}) as world:
            yield world, there


async def asked(world: World, server: str, era: str, rpc_id: str) -> Any:
    name = "t" if server else "ref__t"
    meta = f", {META}" if era == "modern" else ""
    body = f'{{"jsonrpc": "2.0", "id": {rpc_id}, "method": "tools/call", "params": {{"name": "{name}"{meta}}}}}'
    headers = modern_headers("tools/call", name=name) if era == "modern" else {"mcp-protocol-version": "2025-11-25"}
    return await world.post("anna", body.encode(), server=server, headers=headers)


@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize("server", ["ref", ""])
@pytest.mark.parametrize("rpc_id", EQUAL)
async def test_an_id_comes_back_as_it_was(echoing: tuple[World, Upstream], rpc_id: str, server: str, era: str) -> None:
    answer = await asked(echoing[0], server, era, rpc_id)
    assert "result" in answer.json(), answer.text
    said = json.loads(answer.text, parse_int=str, parse_float=str)["id"]
    assert said == json.loads(rpc_id, parse_int=str, parse_float=str)


@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize("server", ["ref", ""])
@pytest.mark.parametrize("rpc_id", REFUSED)
async def test_an_id_that_could_not_come_back_as_it_was_is_an_invalid_request(
    echoing: tuple[World, Upstream], rpc_id: str, server: str, era: str
) -> None:
    world, there = echoing
    there.requests.clear()
    answer = await asked(world, server, era, rpc_id)
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["id"]) == (400, -32600, None)
    assert there.requests == []


@pytest.mark.parametrize("server", ["ref", ""])
@pytest.mark.parametrize(
    ("method", "member"), [("notifications/cancelled", "requestId"), ("notifications/progress", "progressToken")]
)
@pytest.mark.parametrize("value", REFUSED)
async def test_a_notice_about_a_request_that_cannot_be_is_refused(
    echoing: tuple[World, Upstream], value: str, method: str, member: str, server: str
) -> None:
    world, there = echoing
    there.requests.clear()
    body = f'{{"jsonrpc": "2.0", "method": "{method}", "params": {{"{member}": {value}, "progress": 1}}}}'
    answer = await world.post("anna", body.encode(), server=server, headers={"mcp-protocol-version": "2025-11-25"})
    assert answer.json()["error"]["code"] == -32602
    assert there.requests == []
