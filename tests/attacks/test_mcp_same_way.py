"""What is hidden takes the way of what is not there: the same stages, questions to Casbin, records, and no word to a server.

Time follows from work, and work is counted here: nothing is measured.  `bench/hidden.py` measures.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from gateway.mcp.repeated import Repeat, Repeats
from gateway.pipeline import Stages
from policies.bundle import load_texts
from policies.engine import Engine
from policies.index import IndexedEnforcer
from tests.attacks.test_mcp_oracles import ERAS, FILES, PAIRS, RESULTS, ask, without
from tests.mcp.world import World, gateway
from tests.upstream.wire import Reader, Upstream, Writer, upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

STAGES = (
    "parse",
    "normalise",
    "decide",
    "fulfil",
    "record_intent",
    "forward",
    "filter",
    "record_outcome",
    "record_refusal",
    "observe",
)
MARKED = (Repeat(("region",), "mcp-param-region", "string"),)
"""The hidden tool's approved definition wants a header."""


class Work:
    """What was done since the last `forget`: stages in their order, and what Casbin was asked."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def over(self, stages: Stages) -> Stages:
        """The same stages, each of which says that it was entered."""
        return dataclasses.replace(stages, **{name: self._noting(name, getattr(stages, name)) for name in STAGES})

    def _noting(self, name: str, stage: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*said: Any) -> Any:
            self.done.append(name)
            return stage(*said)

        return noted


def approved(server: str, tool: str) -> Repeats:
    return MARKED if (server, tool) == ("ref", "hidden") else ()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def working(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, Upstream, Work]]:
    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while request := await there.request(reader):
            sent = json.loads(request.partition(b"\r\n\r\n")[2])
            result = RESULTS.get(sent["method"], {}) | {"resultType": "complete", "capabilities": {"tools": {}, "prompts": {}}}
            body = json.dumps({"jsonrpc": "2.0", "id": sent.get("id"), "result": result}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    engine, work = Engine(load_texts(FILES)), Work()
    async with upstream(script) as there:
        url = f"http://127.0.0.1:{there.port}/mcp"
        servers = {"ref": url, "other": url, "a-server-with-a-long-name-of-its-own": url}
        async with gateway(tmp_path_factory.mktemp("way"), servers, over=work.over, repeats=approved) as world:
            world.judge = engine.decide
            yield world, there, work


@pytest.fixture
def way(working: tuple[World, Upstream, Work], monkeypatch: pytest.MonkeyPatch) -> tuple[World, Upstream, Work]:
    work = working[2]
    candidates, judge = IndexedEnforcer.enforce_ex, IndexedEnforcer.judge

    def enforced(self: IndexedEnforcer, *asked: Any) -> Any:
        work.done.append("casbin")
        return candidates(self, *asked)

    def judged(self: IndexedEnforcer, *asked: Any) -> Any:
        work.done.append("effect")
        return judge(self, *asked)

    monkeypatch.setattr(IndexedEnforcer, "enforce_ex", enforced)
    monkeypatch.setattr(IndexedEnforcer, "judge", judged)
    return working


Shown = tuple[list[str], list[tuple[str, list[str], list[str]]], int, int]


async def worked(
    way: tuple[World, Upstream, Work], era: str, method: str, params: dict[str, Any], server: str
) -> tuple[Shown, Any]:
    """What was done for one request, and its answer: work, records (kind, members, values), requests and connections."""
    world, there, work = way
    world.forget()
    there.requests.clear()
    work.done.clear()
    before = there.connections
    answer = await ask(world, era, method, server=server, **params)
    assert "error" in answer.json()
    records = [(e.kind, sorted(e.fields), [value.name for value in e.values]) for e in world.ledger.entries]
    return (list(work.done), records, len(there.requests), there.connections - before), answer


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("what", PAIRS)
async def test_the_hidden_takes_the_way_of_the_unknown(way: tuple[World, Upstream, Work], what: str, era: str) -> None:
    method, hidden, unknown = PAIRS[what]
    first, _ = await worked(way, era, method, hidden, "ref")
    second, _ = await worked(way, era, method, unknown, "ref")
    assert first == second
    assert "casbin" in first[0]
    assert [kind for kind, _, _ in first[1]] == ["decision.deny"]
    assert first[2:] == (0, 0)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": "echo"}), ("prompts/get", {"name": "greet"}), ("resources/read", {"uri": "file:///open/a"}),
        ("tools/list", {}), ("completion/complete", PAIRS["a prompt's completion"][1]),
    ],
)  # fmt: skip
async def test_a_hidden_server_takes_the_way_of_one_that_is_not_there(
    way: tuple[World, Upstream, Work], method: str, params: dict[str, Any], era: str
) -> None:
    first, one = await worked(way, era, method, params, "other")
    second, other = await worked(way, era, method, params, "nobody")
    assert first == second
    assert without(one, "other") == without(other, "nobody")
    assert one.status_code == 404
    assert [kind for kind, _, _ in first[1]] == ["decision.deny"]
    assert first[2:] == (0, 0)


@pytest.mark.parametrize("verb", ["GET", "DELETE"])
async def test_a_stream_of_a_hidden_server_is_as_one_of_none(way: tuple[World, Upstream, Work], verb: str) -> None:
    world, there, _ = way
    there.requests.clear()
    said = []
    for server in ("other", "nobody"):
        headers = world.token("anna") | {"accept": "text/event-stream", "mcp-protocol-version": "2025-11-25"}
        answer = await world.client.request(verb, f"/mcp/{server}", headers=headers)
        said.append(without(answer, server))
    assert said[0] == said[1]
    assert said[0][0] == 404
    assert there.requests == []


def completing(name: str) -> dict[str, Any]:
    return {"ref": {"type": "ref/prompt", "name": name}, "argument": {"name": "x", "value": ""}}


AGGREGATED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a tool": ("tools/call", {"name": "ref__hidden"}, {"name": "ref__nobody"}),
    "a tool of a hidden server": ("tools/call", {"name": "other__echo"}, {"name": "none__echo"}),
    "a tool of a hidden server whose name is shortened": (
        "tools/call", {"name": "a-server-with-a_65fb7d39__x"}, {"name": "a-server-with-a_00000000__x"}
    ),
    "a tool that is not there of a hidden server": ("tools/call", {"name": "other__nobody"}, {"name": "none__nobody"}),
    "a short name of a hidden server": ("tools/call", {"name": "other__x_01234567"}, {"name": "none__x_01234567"}),
    "a prompt": ("prompts/get", {"name": "ref__hidden"}, {"name": "ref__nobody"}),
    "a prompt of a hidden server": ("prompts/get", {"name": "other__greet"}, {"name": "none__greet"}),
    "a prompt's completion": ("completion/complete", completing("ref__hidden"), completing("ref__nobody")),
    "a completion of a hidden server": ("completion/complete", completing("other__greet"), completing("none__greet")),
    "a resource": ("resources/read", {"uri": "file:///closed/b"}, {"uri": "file:///nothing"}),
    "a template's completion": PAIRS["a template's completion"],
}  # fmt: skip


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("what", AGGREGATED)
async def test_at_the_url_of_all_servers_a_name_that_leads_nowhere_takes_the_way_of_one_that_is_hidden(
    way: tuple[World, Upstream, Work], what: str, era: str
) -> None:
    method, hidden, unknown = AGGREGATED[what]
    first, one = await worked(way, era, method, hidden, "")
    second, other = await worked(way, era, method, unknown, "")
    assert first == second
    said = [params.get("name") or params.get("ref", {}).get("name", "?") for params in (hidden, unknown)]
    assert without(one, said[0]) == without(other, said[1])
    assert first[0].count("decide") == 1
    assert [kind for kind, _, _ in first[1]] == ["decision.deny"]
    assert first[2:] == (0, 0)


@pytest.mark.parametrize("method", ["resources/subscribe", "resources/unsubscribe"])
@pytest.mark.parametrize("server", ["ref", ""])
async def test_subscribing_to_what_is_hidden_is_as_to_what_is_not_there(
    way: tuple[World, Upstream, Work], method: str, server: str
) -> None:
    world = way[0]
    session = "" if server else await world.handshake("anna", "")
    said = []
    for uri in ("file:///closed/b", "file:///nothing"):
        params = {"uri": uri, **({"session": session} if session else {})}
        shown, answer = await worked(way, "legacy", method, params, server)
        said.append((shown, without(answer, uri)))
    assert said[0] == said[1]
    assert said[0][0][0].count("decide") == 1
    assert [kind for kind, _, _ in said[0][0][1]] == ["decision.deny"]
    assert said[0][0][2:] == (0, 0)


@pytest.mark.parametrize("headers", [{}, {"mcp-param-region": "north"}, {"mcp-param-else": "x"}])
async def test_the_headers_that_a_hidden_tool_wants_are_nobodys_business(
    way: tuple[World, Upstream, Work], headers: dict[str, str]
) -> None:
    """Its approved definition has a header repeat an argument; the unknown has none, and both are answered alike."""
    world, there, _ = way
    world.forget()
    there.requests.clear()
    said = []
    for name in ("hidden", "nobody"):
        meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
        params = {"name": name, "arguments": {"region": "south"}, "_meta": meta}
        sent = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": name} | headers
        answer = await world.post("anna", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}, headers=sent)
        said.append(without(answer, name))
    assert said[0] == said[1]
    assert said[0][0] == 400
    assert there.requests == []


async def test_a_planted_shortcut_for_the_unknown_is_noticed(
    way: tuple[World, Upstream, Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = way[0]
    judge = world.judge
    assert judge is not None

    def short(request: Any) -> Any:
        return Engine._list(judge.__self__, request) if request.resource == "ref.nobody" else judge(request)  # type: ignore[attr-defined]

    monkeypatch.setattr(world, "judge", short)
    first, _ = await worked(way, "modern", "tools/call", {"name": "hidden"}, "ref")
    second, _ = await worked(way, "modern", "tools/call", {"name": "nobody"}, "ref")
    assert first != second
