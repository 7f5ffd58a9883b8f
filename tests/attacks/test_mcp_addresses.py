"""Addresses of resources travel as they were written, and no spelling is a way around policy: each is decided in one form."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gateway.mcp.repeated import encoded
from policies.bundle import load_texts
from policies.engine import Engine
from tests.attacks.test_mcp_oracles import ERAS, FILES, answer_of
from tests.mcp.world import World, gateway, modern_body, modern_headers
from tests.upstream.wire import Reader, Upstream, Writer, upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = """\
p, user:dev/anna, acme, res:ref/file:///open/*, read, allow, -, -, A-1
p, user:dev/anna, acme, res:ref/file:///open/*, subscribe, allow, -, -, A-2
p, user:dev/anna, acme, res:ref/file:///open/secret, *, deny, -, -, A-3
p, user:dev/anna, acme, res:ref/memo://anna.notes/*, read, allow, -, -, A-4
p, user:dev/anna, acme, res:ref/memo://anna.notes/secret, *, deny, -, -, A-5
"""
LISTED = [
    "FILE:///open/A",
    "file:///open/a%20(1)",
    "Memo://Anna.Notes/Plan",
    "MEMO://ANNA.NOTES/secret",
    "FILE:///open/secret",
    "FILE:///closed/b",
]
READABLE = LISTED[:3]
DENIED = [
    "FILE:///closed/b", "File:///closed/b", "fILE:///closed/%62", "FILE:///open/secret", "FILE:///open/%73ecret",
    "file:///open/s%65cret", "MEMO://anna.notes/secret", "memo://ANNA.NOTES/secret", "Memo://Anna.Notes/%73ecret",
    "memo://anna.notes:/secret", "MEMO:anna.notes/secret",
]  # fmt: skip
"""Every one is something that policy denies, spelled so that it may look like another."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def judged(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, Upstream]]:
    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while request := await there.request(reader):
            sent = json.loads(request.partition(b"\r\n\r\n")[2])
            method, params = sent["method"], sent.get("params", {})
            result = {
                "resources/list": {"resources": [{"uri": uri, "name": "n"} for uri in LISTED]},
                "resources/templates/list": {"resourceTemplates": [{"uriTemplate": "Memo://Anna.Notes/{+any}", "name": "n"}]},
                "resources/read": {"contents": [{"uri": params.get("uri"), "text": "told"}]},
                "server/discover": {"supportedVersions": ["2026-07-28"], "capabilities": {"resources": {"subscribe": True}}},
            }.get(method, {}) | {"resultType": "complete"}  # fmt: skip
            body = json.dumps({"jsonrpc": "2.0", "id": sent.get("id"), "result": result}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    files = FILES | {"grants/people.csv": RULES}
    folder = tmp_path_factory.mktemp("addresses")
    async with upstream(script) as there, gateway(folder, {"ref": f"http://127.0.0.1:{there.port}/mcp"}) as world:
        world.judge = Engine(load_texts(files)).decide
        yield world, there


@pytest.fixture
def asked(judged: tuple[World, Upstream]) -> tuple[World, Upstream]:
    judged[0].forget()
    judged[1].requests.clear()
    return judged


async def ask(world: World, era: str, server: str, method: str, **params: Any) -> Any:
    if era == "legacy":
        return await world.legacy("anna", method, server=server, **params)
    headers = modern_headers(method) | ({"mcp-name": encoded(params["uri"])} if "uri" in params else {})
    return await world.post("anna", modern_body(method, **params), server=server, headers=headers)


def heard(there: Upstream, method: str) -> list[dict[str, Any]]:
    """Parameters of what the server was asked of this kind."""
    sent = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in there.requests]
    return [message["params"] for message in sent if message["method"] == method]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("server", ["ref", ""])
async def test_an_address_goes_from_the_list_to_the_reader_and_back_to_the_server_untouched(
    asked: tuple[World, Upstream], server: str, era: str
) -> None:
    world, there = asked
    listed = answer_of(await ask(world, era, server, "resources/list"))["result"]["resources"]
    assert [each["uri"] for each in listed] == READABLE
    for uri in READABLE:
        answer = answer_of(await ask(world, era, server, "resources/read", uri=uri))
        assert answer["result"]["contents"] == [{"uri": uri, "text": "told"}]
    assert [params["uri"] for params in heard(there, "resources/read")] == READABLE


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("server", ["ref", ""])
@pytest.mark.parametrize("uri", DENIED)
async def test_no_spelling_reads_what_policy_denies(asked: tuple[World, Upstream], uri: str, server: str, era: str) -> None:
    world, there = asked
    answer = await ask(world, era, server, "resources/read", uri=uri)
    assert "told" not in answer.text
    assert "error" in answer_of(answer)
    assert heard(there, "resources/read") == []


@pytest.mark.parametrize("uri", DENIED)
async def test_no_spelling_subscribes_to_or_completes_what_policy_denies(asked: tuple[World, Upstream], uri: str) -> None:
    world, there = asked
    assert "error" in answer_of(await ask(world, "legacy", "ref", "resources/subscribe", uri=uri))
    ref = {"type": "ref/resource", "uri": uri}
    for server in ("ref", ""):
        for era in ERAS:
            answer = await ask(world, era, server, "completion/complete", ref=ref, argument={"name": "x", "value": ""})
            assert "error" in answer_of(answer)
    assert heard(there, "resources/subscribe") == heard(there, "completion/complete") == []


async def test_what_is_subscribed_to_is_asked_for_as_it_was_written_and_nothing_that_is_denied(
    asked: tuple[World, Upstream],
) -> None:
    world, there = asked
    wanted = {"resourceSubscriptions": ["FILE:///open/A", *DENIED]}
    await ask(world, "modern", "ref", "subscriptions/listen", notifications=wanted)
    assert [params["notifications"] for params in heard(there, "subscriptions/listen")] == [
        {"resourceSubscriptions": ["FILE:///open/A"]}
    ]
    await ask(world, "legacy", "ref", "resources/subscribe", uri="FILE:///open/A")
    assert [params["uri"] for params in heard(there, "resources/subscribe")] == ["FILE:///open/A"]
