"""`/mcp`: what a session of the era of handshakes subscribes to, and its end, the same at every replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.mcp.sealed import Sealed
from gateway.state.store import State
from tests.mcp.aggregate_world import SHARED, Heard, asked, upstreams
from tests.mcp.world import HIDDEN, Notes, World, answer_of, control, gateway

UPDATED = "notifications/resources/updated"
TOOLS = "notifications/tools/list_changed"
VERSION = {"mcp-protocol-version": "2025-11-25"}


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    yield from upstreams()


@pytest.fixture
async def pair(tmp_path: Path, servers: dict[str, str]) -> AsyncIterator[tuple[World, World]]:
    """Two replicas: they share keys and what is known of sessions, and tell each other of changes."""
    async with replicas(tmp_path, servers, Notes()) as both:
        yield both


@asynccontextmanager
async def replicas(folder: Path, servers: dict[str, str], notes: Any) -> AsyncIterator[tuple[World, World]]:
    async with asyncio.timeout(20):
        while any([(await told(servers, server))["streams"] for server in servers]):
            pass  # of the test before
    sealed = Sealed([b"k" * 32])
    async with (
        gateway(folder, servers, sealed=sealed, notes=notes) as one,
        gateway(folder, servers, sealed=sealed, notes=notes, public_url=one.url) as other,
    ):
        one.aggregate._known.tell, other.aggregate._known.tell = other.aggregate.look, one.aggregate.look
        yield one, other


async def told(servers: dict[str, str], server: str, **said: Any) -> dict[str, Any]:
    return await asyncio.to_thread(control, servers[server], **said)


def headers_of(world: World, session: str, person: str = "anna") -> dict[str, str]:
    return world.token(person) | VERSION | {"accept": "text/event-stream", "mcp-session-id": session}


@asynccontextmanager
async def stream(world: World, session: str, person: str = "anna") -> AsyncIterator[Heard]:
    headers = headers_of(world, session, person)
    async with asyncio.timeout(30), world.client.stream("GET", "/mcp", headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        heard = Heard(response)
        assert await heard.line() == ":"
        yield heard


async def subscribed(world: World, session: str, uri: str, method: str = "resources/subscribe") -> dict[str, Any]:
    return answer_of(await world.legacy("anna", method, server="", session=session, uri=uri))


async def updated(servers: dict[str, str], server: str, uri: str) -> None:
    await told(servers, server, say=[{"method": UPDATED, "params": {"uri": uri}}])


async def changed(servers: dict[str, str], server: str, method: str = TOOLS) -> None:
    await told(servers, server, say=[{"method": method}])


async def ended(world: World, session: str, person: str = "anna") -> httpx.Response:
    return await world.client.request("DELETE", "/mcp", headers=headers_of(world, session, person))


@pytest.mark.parametrize("server", ["old", "new"])
async def test_a_session_hears_of_what_it_subscribed_to_and_of_nothing_else(
    pair: tuple[World, World], servers: dict[str, str], server: str
) -> None:
    world, uri = pair[0], f"file:///{server}.txt"
    session = await world.handshake("anna", "")
    async with stream(world, session) as heard:
        await updated(servers, server, uri)  # nobody has subscribed
        assert await subscribed(world, session, uri) == {"jsonrpc": "2.0", "id": 1, "result": {}}
        await updated(servers, server, "file:///other.txt")
        await updated(servers, server, uri)
        assert await heard.next() == {"jsonrpc": "2.0", "method": UPDATED, "params": {"uri": uri}}
        assert (await subscribed(world, session, uri, "resources/unsubscribe"))["result"] == {}
        await updated(servers, server, uri)
        await changed(servers, server)
        assert (await heard.next())["method"] == TOOLS


@pytest.mark.parametrize("server", ["old", "new"])
async def test_a_subscription_counts_at_every_replica_before_and_after_the_stream_begins(
    pair: tuple[World, World], servers: dict[str, str], server: str
) -> None:
    one, other = pair
    uri, later = f"file:///{server}.txt", f"{server}://item/1"
    session = await one.handshake("anna", "")
    assert (await subscribed(one, session, uri))["result"] == {}
    async with stream(other, session) as heard:
        await updated(servers, server, uri)
        assert (await heard.until(UPDATED))["params"] == {"uri": uri}
        assert (await subscribed(one, session, uri, "resources/unsubscribe"))["result"] == {}
        assert (await subscribed(one, session, later))["result"] == {}
        said: dict[str, Any] = {}
        while said.get("params") != {"uri": later}:  # the other replica has been told, and goes by it soon
            await updated(servers, server, later)
            await changed(servers, server)
            said = await heard.next()
        await updated(servers, server, uri)
        await changed(servers, server, "notifications/prompts/list_changed")
        while (said := await heard.next())["method"] != "notifications/prompts/list_changed":
            assert said["method"] == TOOLS or said["params"] == {"uri": later}


async def test_a_subscription_is_its_sessions_alone(pair: tuple[World, World], servers: dict[str, str]) -> None:
    world = pair[0]
    mine, another = await world.handshake("anna", ""), await world.handshake("anna", "")
    assert (await subscribed(world, mine, "file:///old.txt"))["result"] == {}
    stolen = await world.legacy("bert", "resources/subscribe", server="", session=mine, uri="file:///old.txt")
    assert stolen.status_code == 404
    async with stream(world, another) as heard:
        await updated(servers, "old", "file:///old.txt")
        await changed(servers, "old")
        assert (await heard.next())["method"] == TOOLS


async def test_what_may_not_be_subscribed_to_is_as_what_is_not_there_and_what_may_no_longer_is_not_told(
    pair: tuple[World, World], servers: dict[str, str]
) -> None:
    world = pair[0]
    session = await world.handshake("anna", "")
    assert (await subscribed(world, session, "file:///old.txt"))["result"] == {}
    world.verdicts["*", "res:new/file:///new.txt"] = HIDDEN
    world.ledger.entries.clear()
    hidden = await subscribed(world, session, "file:///new.txt")
    unknown = await subscribed(world, session, "file:///nowhere.txt")
    for answer in (hidden, unknown):
        assert (answer["error"]["code"], answer["error"]["message"]) == (-32002, "Resource not found")
    assert [e.kind for e in world.ledger.entries if e.fields.get("method") == "resources/subscribe"] == ["decision.deny"] * 2
    async with stream(world, session) as heard:
        world.verdicts["*", "res:old/file:///old.txt"] = HIDDEN
        await updated(servers, "old", "file:///old.txt")
        await changed(servers, "old")
        assert (await heard.next())["method"] == TOOLS


async def test_every_subscription_is_on_record_with_its_decision(pair: tuple[World, World]) -> None:
    world = pair[0]
    session = await world.handshake("anna", "")
    world.ledger.entries.clear()
    await subscribed(world, session, "file:///old.txt")
    await subscribed(world, session, "file:///old.txt", "resources/unsubscribe")
    found = [
        (e.fields["method"], e.fields["action"], e.fields["resource"]) for e in world.ledger.entries if e.kind == "call.start"
    ]
    for method in ("resources/subscribe", "resources/unsubscribe"):
        assert (method, "subscribe", "res:old/file:///old.txt") in found


async def test_what_cannot_be_subscribed_to_is_refused(pair: tuple[World, World], servers: dict[str, str]) -> None:
    world = pair[0]
    session = await world.handshake("anna", "")
    assert (await subscribed(world, session, SHARED))["error"]["data"]["code"] == "ambiguous"
    answer = await world.legacy("anna", "resources/subscribe", server="", uri="file:///old.txt")
    assert answer.status_code == 400  # no session
    assert (await world.modern("anna", "resources/subscribe", server="", uri="file:///old.txt")).status_code == 404
    await told(servers, "old", subscribes=False)
    try:
        session = await world.handshake("carl", "")
        answer = await world.legacy("carl", "resources/subscribe", server="", session=session, uri="file:///old.txt")
        assert answer.json()["error"]["code"] == -32601
    finally:
        await told(servers, "old", subscribes=True)


async def test_a_session_subscribes_to_so_much_and_no_more(pair: tuple[World, World], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.mcp.aggregate.sessions.SUBSCRIPTIONS", 3)
    world = pair[0]
    session = await world.handshake("anna", "")
    said = [await subscribed(world, session, f"old://item/{n}") for n in (1, 2, 3, 3, 4)]
    assert ["result" in each for each in said] == [True] * 4 + [False]
    assert said[-1]["error"]["code"] == -32602


async def test_the_handshake_says_that_resources_can_be_subscribed_to(pair: tuple[World, World]) -> None:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    offered = (await asked(pair[0], "initialize", era="legacy", **params))["result"]
    assert offered["capabilities"]["resources"] == {"listChanged": True, "subscribe": True}


async def test_an_ended_session_is_unknown_at_every_replica_and_its_stream_ends(
    pair: tuple[World, World], servers: dict[str, str]
) -> None:
    one, other = pair
    session, another = await one.handshake("anna", ""), await one.handshake("anna", "")
    for each in (session, another):
        answer = await one.legacy("anna", "tools/call", server="", session=each, name="old__echo", arguments={})
        assert "result" in answer_of(answer)
    sessions = (await told(servers, "old"))["sessions"]
    assert (await ended(one, session, "bert")).status_code == 404  # somebody else's
    async with stream(one, session) as heard, stream(other, session) as there:
        answer = await ended(one, session)
        assert (answer.status_code, answer.content) == (200, b"")
        assert await heard.next() == {}
        assert await there.next() == {}
    for world in (one, other):
        again = await world.legacy("anna", "tools/list", server="", session=session)
        assert (again.status_code, again.json()["error"]["code"]) == (404, -32600)
        assert (await ended(world, session)).status_code == 404
        assert (await world.client.get("/mcp", headers=headers_of(world, session))).status_code == 404
    async with asyncio.timeout(20):
        while (await told(servers, "old"))["sessions"] != sessions:
            pass  # those of the streams
    assert "result" in answer_of(await one.legacy("anna", "tools/list", server="", session=another))
    assert (await ended(one, another)).status_code == 200
    async with asyncio.timeout(20):
        while (await told(servers, "old"))["sessions"] != sessions - 1:
            pass  # nobody else was there


async def test_what_is_no_session_cannot_be_ended(pair: tuple[World, World]) -> None:
    world = pair[0]
    for headers, status in (({}, 400), ({"mcp-session-id": "nope"}, 404), ({"mcp-protocol-version": "2026-07-28"}, 405)):
        answer = await world.client.request("DELETE", "/mcp", headers=world.token("anna") | VERSION | headers)
        assert answer.status_code == status


async def test_a_note_that_somebody_else_wrote_ends_the_session(tmp_path: Path, servers: dict[str, str]) -> None:
    notes = Notes()
    async with replicas(tmp_path, servers, notes) as (one, other):
        session, theirs = await one.handshake("anna", ""), await one.handshake("bert", "")
        await subscribed(one, session, "file:///old.txt")
        [digest] = notes.rows
        assert "old" not in str(notes.rows)
        await one.legacy("bert", "resources/subscribe", server="", session=theirs, uri="file:///old.txt")
        [foreign] = notes.rows.keys() - {digest}
        notes.rows[digest] = notes.rows[foreign]
        assert (await other.legacy("anna", "tools/list", server="", session=session)).status_code == 404


async def test_sessions_are_known_to_whoever_opens_the_store(tmp_path: Path, servers: dict[str, str]) -> None:
    sealed, sessions = Sealed([b"k" * 32]), list[str]()
    for start in range(2):  # a gateway, and the same after a restart
        state = State.open(f"sqlite:///{tmp_path / 'state.db'}")
        try:
            async with gateway(tmp_path, servers, sealed=sealed, notes=state.tickets, public_url="http://127.0.0.1:1") as world:
                if start == 0:
                    sessions = [await world.handshake("anna", "") for _ in range(2)]
                    await asyncio.gather(*(subscribed(world, sessions[0], f"old://item/{n}") for n in range(8)))
                    assert (await ended(world, sessions[1])).status_code == 200
                    continue
                async with stream(world, sessions[0]) as heard:
                    for n in range(8):
                        await updated(servers, "old", f"old://item/{n}")
                        assert (await heard.until(UPDATED))["params"] == {"uri": f"old://item/{n}"}
                assert (await world.legacy("anna", "tools/list", server="", session=sessions[1])).status_code == 404
        finally:
            await state.close()
