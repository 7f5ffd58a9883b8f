"""What was decided on is what the server received, for any JSON, in both eras, over sockets.

A text with two readings reaches nobody; every other one arrives as the one value that policy was asked about.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.mcp import hop, road, wire
from gateway.mcp.repeated import decoded, encoded
from gateway.model import Call
from policies import names
from policies.model import AccessRequest
from tests.mcp.world import MODERN, World, gateway
from tests.upstream.wire import Reader, Upstream, Writer, upstream

VERSION = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
OURS = {"traceparent", "tracestate", "baggage", CAPABILITIES}
QUICK = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
HUNT = settings(QUICK, phases=[Phase.generate], max_examples=1500, derandomize=True, database=None)


@dataclass
class Pairs:
    """An object as it is written: members in order, also twice, and which of their names hide behind escapes."""

    members: list[tuple[str, Any, bool]]


def written(value: Any) -> str:
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{_name(name, hidden)}: {written(inner)}" for name, inner, hidden in value.members) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(written(inner) for inner in value) + "]"
    return value.text if isinstance(value, Number) else json.dumps(value)


def _name(name: str, hidden: bool) -> str:
    return (
        '"' + "".join(f"\\u{ord(c):04x}" for c in name) + '"'
        if hidden and all(ord(c) < 0x10000 for c in name)
        else json.dumps(name)
    )


@dataclass(frozen=True)
class Number:
    text: str


def twice(value: Any) -> bool:
    """Whether some object says a member twice."""
    if isinstance(value, Pairs):
        said = [name for name, _, _ in value.members]
        return len(set(said)) < len(said) or any(twice(inner) for _, inner, _ in value.members)
    return isinstance(value, list) and any(twice(inner) for inner in value)


def disguised(params: Pairs) -> bool:
    """Whether a reader that ignores case, or stops at NUL, could take some parameter for another one."""
    said = [name for name, _, _ in params.members]
    folded = [name.casefold() for name in said]
    return len(set(folded)) < len(folded) or any("\0" in name for name in said)


NAMES = st.one_of(
    st.sampled_from(["name", "Name", "arguments", "amount", "Amount", "uri", "x", "_meta", "a\0", "ſ", "K", "progressToken"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
)
NUMBERS = st.one_of(
    st.integers(-(2**66), 2**66).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["-0", "-0.0", "1.0", "1e5", "1E-7", "9007199254740993", "18446744073709551616", "0.1000000000000000055"]),
).map(Number)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(st.characters(exclude_categories=["Cs"]), max_size=8))


@st.composite
def objects(draw: Callable[..., Any], inner: st.SearchStrategy[Any], most: int = 4) -> Pairs:
    """Members of any names; one object in eight says one of them twice."""
    several = {draw(NAMES): (draw(inner), draw(st.booleans())) for _ in range(draw(st.integers(0, most)))}
    members = [(name, value, hidden) for name, (value, hidden) in several.items()]
    return Pairs([*members, members[0]] if members and draw(st.integers(0, 7)) == 0 else members)


TREES = st.recursive(LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), objects(inner)), max_leaves=8)
WORDS = st.one_of(
    st.sampled_from(["pay", "Pay", "safe", "pay/all"]), st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
)
URIS = st.sampled_from(
    ["file:///a/b", "HTTP://Ex.com:80/%7Ea", "test://static", "file:///a/../b", "file:///a%2Fb", "test://t/é", "x"]
)
METHODS = {
    "tools/call": lambda draw: [("name", draw(WORDS), False), ("arguments", draw(objects(TREES)), False)],
    "prompts/get": lambda draw: [("name", draw(WORDS), False), ("arguments", draw(objects(st.text(max_size=3))), False)],
    "resources/read": lambda draw: [("uri", draw(URIS), False)],
}


@dataclass(frozen=True)
class Sample:
    method: str
    params: Pairs
    modern: bool

    @property
    def body(self) -> bytes:
        return written(
            Pairs([("jsonrpc", "2.0", False), ("id", 1, False), ("method", self.method, False), ("params", self.params, False)])
        ).encode()

    def headers(self) -> dict[str, str]:
        if not self.modern:
            return {"mcp-protocol-version": "2025-11-25"}
        said = next(value for name, value, _ in self.params.members if name in {"name", "uri"})
        return {"mcp-protocol-version": MODERN, "mcp-method": self.method, "mcp-name": encoded(said)}


@st.composite
def samples(draw: Callable[..., Any]) -> Sample:
    method, modern = draw(st.sampled_from(sorted(METHODS))), draw(st.booleans())
    members = METHODS[method](draw)
    meta = [] if not modern else [(VERSION, MODERN, False), (CAPABILITIES, Pairs([]), False)]
    meta += draw(objects(TREES, 2)).members if draw(st.integers(0, 3)) == 0 else []
    if meta:
        members.append(("_meta", Pairs(meta), False))
    if draw(st.integers(0, 2)) == 0:
        members += draw(objects(TREES, 2)).members
    return Sample(method, Pairs(members), modern)


@dataclass
class Bench:
    """A gateway and its server on a loop of their own, so that a plain function can ask them."""

    loop: asyncio.AbstractEventLoop
    world: World
    there: Upstream
    seen: Counter[str] = field(default_factory=Counter)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def ask(self, sample: Sample) -> tuple[dict[str, Any], list[bytes], AccessRequest | None]:
        """The answer, what the server got, and what policy was asked about."""
        self.world.forget()
        self.there.requests.clear()
        answer = self.run(self.world.post("anna", sample.body, headers=sample.headers()))
        return answer.json(), list(self.there.requests), self.world.asked[0] if self.world.asked else None


async def _recording(there: Upstream, reader: Reader, writer: Writer) -> None:
    while await there.request(reader):
        body = b'{"jsonrpc": "2.0", "id": 1, "result": {"content": [], "messages": [], "contents": [], "resultType": "complete"}}'
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    stack = AsyncExitStack()

    async def begin(folder: Path) -> Bench:
        there = await stack.enter_async_context(upstream(_recording))
        world = await stack.enter_async_context(gateway(folder, {"ref": f"http://127.0.0.1:{there.port}/mcp"}))
        return Bench(loop, world, there)

    try:
        yield asyncio.run_coroutine_threadsafe(begin(tmp_path_factory.mktemp("fuzz")), loop).result(30)
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def read(text: bytes | str) -> Any:
    """A JSON text as every reader of doubles reads it; whole numbers that 64 bits hold exactly."""
    return json.loads(text, parse_int=lambda n: int(n) if -(2**63) <= int(n) < 2**64 else float(n))


def decided(value: Any) -> Any:
    """The arguments that policy was asked about, as a reader of doubles has them."""
    if isinstance(value, dict):
        return {key: decided(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [decided(inner) for inner in value]
    return float(value) if isinstance(value, Decimal) else value


def law(bench: Bench, sample: Sample) -> None:
    answer, received, asked = bench.ask(sample)
    bench.seen["asked"] += 1
    if not received:
        assert "error" in answer
        bench.seen["refused"] += 1
        return
    bench.seen[sample.method] += 1
    bench.seen["modern" if sample.modern else "legacy"] += 1
    assert not twice(sample.params), "a text with two readings reached the server"
    assert not disguised(sample.params), "a member in disguise reached the server"
    (request,) = received
    head, _, body = request.partition(b"\r\n\r\n")
    said, got = read(sample.body)["params"], read(body)["params"]
    assert asked is not None
    assert read(body)["method"] == sample.method
    sent = {key: value for key, value in got.items() if key != "_meta"}
    told = {key: value for key, value in said.items() if key not in {"_meta", "task", "requestState", "inputResponses"}}
    bench.seen["unknown members"] += len(told) > (1 if sample.method == "resources/read" else 2)
    bench.seen["arguments"] += bool(told.get("arguments"))
    if sample.method == "resources/read":
        assert asked.resource == names.resource("ref", sent.pop("uri")) == names.resource("ref", told.pop("uri"))
    elif sample.method == "prompts/get":
        assert asked.resource == f"prompt:ref/{sent['name']}"
    else:
        assert asked.resource == f"ref.{sent['name']}"
        assert repr(decided(asked.arguments)) == repr(sent["arguments"])
    assert repr(sent) == repr(told)  # also the order, 1 apart from 1.0, and -0.0 from 0.0
    meta = {key: value for key, value in said.get("_meta", {}).items() if key not in OURS and not key.startswith("bailiwick/")}
    assert {key: value for key, value in got["_meta"].items() if key not in OURS} == meta
    if sample.modern:
        lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        assert lines[b"mcp-method"].decode() == sample.method
        assert decoded(lines[b"mcp-name"].decode()) == got.get("name", got.get("uri"))
        assert lines[b"mcp-protocol-version"].decode() == got["_meta"][VERSION] == MODERN


def test_what_was_decided_on_is_what_the_server_received(bench: Bench) -> None:
    bench.seen.clear()

    @QUICK
    @given(samples())
    def every(sample: Sample) -> None:
        law(bench, sample)

    every()
    seen = bench.seen
    assert seen["asked"] / 8 < sum(seen[method] for method in METHODS), "the generator is refused nearly always"
    assert seen["refused"] > seen["asked"] / 20, "nothing was ever refused"
    for what in (*METHODS, "modern", "legacy", "unknown members", "arguments"):
        assert seen[what] > 5, f"hardly ever: {what}"


def _lenient(body: bytes, depth: int) -> Any:
    return json.loads(body)


def _first_wins(call: Call, parent: str | None = None) -> dict[str, Any]:
    """Forwards the bytes that came, as a parser reads them that takes the first of two."""
    message: dict[str, Any] = json.loads(call.arrival.body, object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    return wire.onward(call, parent) | {"params": message["params"] | {"_meta": wire.onward(call, parent)["params"]["_meta"]}}


def _known_alone(call: Call, parent: str | None = None) -> dict[str, Any]:
    sent = wire.onward(call, parent)
    return sent | {
        "params": {key: value for key, value in sent["params"].items() if key in {"name", "arguments", "uri", "_meta"}}
    }


def _rounded(call: Call, parent: str | None = None) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(json.dumps(wire.onward(call, parent)), parse_int=float)
    return message


BUGS: dict[str, tuple[Any, str, Any]] = {
    "a parser that takes the last of two members": (wire, "loads", _lenient),
    "the bytes that came, read by another parser": (hop, "onward", _first_wins),
    "members that are not known are dropped": (hop, "onward", _known_alone),
    "whole numbers become doubles": (hop, "onward", _rounded),
    "an address that has no form is sent": (road, "_ADDRESSED", frozenset()),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    place, name, instead = BUGS[bug]
    monkeypatch.setattr(place, name, instead)

    @HUNT
    @given(samples())
    def every(sample: Sample) -> None:
        law(bench, sample)

    with pytest.raises((AssertionError, BaseExceptionGroup)):
        every()
