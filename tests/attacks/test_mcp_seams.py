"""Where two parts meet: headers beside bodies, members beside twins, pieces beside bytes, a stranger beside a dead ledger."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.mcp import strict
from policies.expression import parse
from policies.values import UNKNOWN, Facts
from tests.mcp.world import MODERN, World, answer_of, gateway, modern_body, modern_headers
from tests.upstream.wire import Reader, Upstream, Writer, upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recorded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, Upstream]]:
    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while request := await there.request(reader):
            sent = json.loads(request.partition(b"\r\n\r\n")[2])
            result = {"content": [], "resultType": "complete"}
            body = json.dumps({"jsonrpc": "2.0", "id": sent.get("id"), "result": result}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    folder: Path = tmp_path_factory.mktemp("seams")
    async with upstream(script) as there, gateway(folder, {"ref": f"http://127.0.0.1:{there.port}/mcp"}) as world:
        yield world, there


@pytest.fixture
def watched(recorded: tuple[World, Upstream]) -> tuple[World, Upstream]:
    world, there = recorded
    world.forget()
    there.requests.clear()
    return recorded


@pytest.mark.parametrize("header", ["mcp-param-amount", "Mcp-Param-Amount", "mcp-param-cost-center", "mcp-param-cost_center"])
async def test_a_parameter_header_does_not_say_of_one_argument_what_is_true_of_another(
    watched: tuple[World, Upstream], header: str
) -> None:
    """Whoever routes or bills by headers would see 999999 where policy saw 5."""
    world, there = watched
    arguments = {"amount": 5, "cost_center": "CC-1", "note": "999999"}
    headers = modern_headers("tools/call", name="pay") | {header: "999999"}
    answer = await world.post("anna", modern_body("tools/call", name="pay", arguments=arguments), headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32020
    assert there.requests == []


async def test_a_parameter_header_that_says_its_own_argument_goes_on(watched: tuple[World, Upstream]) -> None:
    world, there = watched
    headers = modern_headers("tools/call", name="pay") | {"mcp-param-amount": "5", "mcp-param-where": "eu"}
    arguments = {"amount": 5, "region": "eu"}
    answer = await world.post("anna", modern_body("tools/call", name="pay", arguments=arguments), headers=headers)
    assert answer.status_code == 200
    assert b"mcp-param-amount: 5\r\n" in there.requests[0]


async def test_a_trace_state_with_spaces_around_it_is_no_fault_of_the_gateway(watched: tuple[World, Upstream]) -> None:
    world, there = watched
    meta = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": " vendor=1 "}
    answer = await world.modern("anna", "tools/call", name="pay", arguments={}, meta=meta)
    assert answer.status_code == 200, answer.text
    assert b"tracestate: vendor=1\r\n" in there.requests[0]


@pytest.mark.parametrize("many", ["[]", "{}", "1.5", '{"a":1}'])
async def test_a_request_of_very_many_pieces_is_refused_before_anybody_walks_through_it(
    watched: tuple[World, Upstream], many: str
) -> None:
    world, there = watched
    pieces = ",".join([many] * (strict.MAX_NODES + 1))
    version = f'"io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientCapabilities":{{}}'
    params = f'{{"name":"pay","arguments":{{"x":[{pieces}]}},"_meta":{{{version}}}}}'
    body = f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}'.encode()
    answer = await world.post("anna", body, headers=modern_headers("tools/call", name="pay"))
    assert answer_of(answer)["error"]["data"]["code"] == "too-large"
    assert there.requests == []


async def test_a_long_text_is_one_piece_whatever_stands_in_it(watched: tuple[World, Upstream]) -> None:
    world, _ = watched
    answer = await world.modern("anna", "tools/call", name="pay", arguments={"table": '1,[{",' * strict.MAX_NODES})
    assert answer.status_code == 200


async def test_of_a_strangers_body_nothing_is_read_even_where_the_refusal_cannot_be_recorded(
    watched: tuple[World, Upstream],
) -> None:
    world, _ = watched
    world.ledger.down = True
    answer = await world.post(None, modern_body("tools/call", rpc_id="strangers-id", name="pay", arguments={}))
    assert answer.status_code == 503
    assert answer.json()["id"] is None


async def test_a_member_whose_twin_differs_in_case_alone_is_unknown_to_conditions() -> None:
    """Readers that ignore case take the last: `{"amount": 5, "Amount": 900000}` is 900000 to them."""
    condition = parse("args.order.amount <= 10", {"order": "object"})

    def ask(order: dict[str, object]) -> object:
        return condition(Facts(arguments={"order": order}, types={"order": "object"}))

    assert ask({"amount": 5}) is True
    assert ask({"amount": Decimal(5), "note": "x"}) is True
    assert ask({"amount": 5, "Amount": 900000}) is UNKNOWN
    assert ask({"AMOUNT": 900000, "amount": 5}) is UNKNOWN
