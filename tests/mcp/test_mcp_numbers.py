"""Numbers of an answer arrive as the server wrote them, in its digits where no double holds them; and answers have a bound."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mcp.strict import UnreadableError, dumps, loads_answer
from gateway.settings import Limits
from tests.mcp.world import World, gateway
from tests.upstream.wire import Reader, Upstream, Writer, saying, upstream

WRITTEN = [
    "1.0", "1", "-0.0", "-0", "1e5", "1.5E-3", "18446744073709551615", "18446744073709551616", "-9223372036854775809", "1e400",
    "123456789012345678901234567890", "0.30000000000000004", "0.1000000000000000055511151231257827", "9007199254740993",
]  # fmt: skip


def exact(text: str | bytes) -> Any:
    """Every number as what was written, and whether it is a whole one."""
    return json.loads(
        text, parse_float=lambda said: ("float", Decimal(said)), parse_int=lambda said: (Decimal(said), said == "-0")
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def counted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    numbers = ", ".join(WRITTEN)
    result = f'{{"content": [], "resultType": "complete", "x-unknown": {{"a": null}}, "structuredContent": {{"n": [{numbers}]}}}}'

    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while await there.request(reader):
            body = f'{{"jsonrpc": "2.0", "id": 1, "result": {result}}}'.encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    folder = tmp_path_factory.mktemp("numbers")
    async with upstream(script) as there, gateway(folder, {"ref": f"http://127.0.0.1:{there.port}/mcp"}) as world:
        yield world


@pytest.mark.asyncio(loop_scope="module")
async def test_structured_content_keeps_every_number_and_every_unknown_member(counted: World) -> None:
    answer = await counted.modern("anna", "tools/call", name="t", arguments={})
    result = exact(answer.content)["result"]
    assert result["structuredContent"]["n"] == exact(f"[{', '.join(WRITTEN)}]")
    assert result["x-unknown"] == {"a": None}


numbers = st.one_of(
    st.integers().map(str),
    st.integers(-(10**40), 10**40).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(allow_nan=False, allow_infinity=False, places=25).map(lambda n: format(n, "f")),
    st.tuples(st.integers(-999, 999), st.integers(-400, 400)).map(lambda pair: f"{pair[0]}.5e{pair[1]}"),
    st.sampled_from(WRITTEN),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(numbers, max_size=6))
def test_a_number_is_the_same_double_or_the_same_digits(written: list[str]) -> None:
    text = f"[{', '.join(written)}]"
    said = dumps(loads_answer(text.encode()))
    for before, after in zip(
        json.loads(text, parse_int=str, parse_float=str), json.loads(said, parse_int=str, parse_float=str), strict=True
    ):
        assert after == before or float(after) == float(before)
        if before.lstrip("-").isdigit():
            assert (Decimal(after), after == "-0") == (Decimal(before), before == "-0")


@pytest.mark.parametrize("text", [b"NaN", b"[Infinity]", b"1.", b"01", b"[1,]", b"\xff", b'"\x00"', b"[" * 100_000, b"9" * 5000])
def test_what_is_no_json_or_a_number_without_end_is_unreadable(text: bytes) -> None:
    with pytest.raises(UnreadableError):
        loads_answer(text)


BIG = b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"%s"}],"resultType":"complete"}}' % (b"x" * 5000)
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


@pytest.mark.parametrize("said", [WHOLE % len(BIG) + BIG, STREAM + b"data: " + BIG + b"\n\n"], ids=["whole", "as an event"])
async def test_a_result_larger_than_the_limit_is_an_error_and_nothing_of_it_is_released(tmp_path: Path, said: bytes) -> None:
    async with upstream(saying(said)) as there:
        url = f"http://127.0.0.1:{there.port}/mcp"
        async with gateway(tmp_path, {"ref": url}, limits=Limits(response_bytes=4096)) as world:
            answer = await world.modern("anna", "tools/call", name="t", arguments={})
    assert answer.json()["error"]["data"]["code"] == "upstream-too-large"
    assert "xxx" not in answer.text
