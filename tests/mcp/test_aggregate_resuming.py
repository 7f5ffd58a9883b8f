"""`/mcp`: an answer whose stream breaks is resumed: by the gateway where the server broke it, else by the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.sealed import Sealed
from gateway.settings import Limits
from tests.mcp.aggregate_world import Heard, asked, upstreams
from tests.mcp.scripted import END, SSE, event, scripted, where
from tests.mcp.world import DENY, World, gateway
from tests.upstream.wire import Upstream, Writer, upstream

KEY = Sealed([b"k" * 32])
VERSION = {"mcp-protocol-version": "2025-11-25"}
BROKEN = {"name": "old__broken", "arguments": {}, "_meta": {"progressToken": "p"}}


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    yield from upstreams()


@asynccontextmanager
async def replicas(folder: Path, servers: dict[str, str]) -> AsyncIterator[tuple[World, World]]:
    async with (
        gateway(folder, servers, sealed=KEY) as one,
        gateway(folder, servers, sealed=KEY, public_url=one.url) as other,
    ):
        yield one, other


def headers_of(world: World, session: str, person: str = "anna", last: str = "") -> dict[str, str]:
    found = world.token(person) | VERSION | {"accept": "text/event-stream", "mcp-session-id": session}
    return found | ({"last-event-id": last} if last else {"accept": "application/json, text/event-stream"})


async def first_event(world: World, session: str, version: str = "2025-11-25") -> str:
    """The id of the first event of an answer; then the client is gone."""
    headers = headers_of(world, session) | {"mcp-protocol-version": version}
    body = {"jsonrpc": "2.0", "id": "mine", "method": "tools/call", "params": BROKEN}
    last = ""
    async with world.client.stream("POST", "/mcp", json=body, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            last = line[4:] if line.startswith("id: ") else last
            if last and line.startswith("data:"):
                assert len(line) > 6 or version == "2025-11-25"  # earlier ones know no event without data
                return last
    raise AssertionError("an answer without an event that could be resumed")


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_server_that_breaks_its_stream_is_asked_for_the_rest(tmp_path: Path, servers: dict[str, str], era: str) -> None:
    async with replicas(tmp_path, servers) as (world, _):
        result = (await asked(world, "tools/call", era=era, **BROKEN))["result"]
        assert result["content"][0]["text"] == "mended"
        starts = [e for e in world.ledger.entries if e.kind == "call.start" and e.fields["resource"] == "old.broken"]
    first, *resumed = starts
    assert len(resumed) == 2  # on the first stream the server said nothing
    assert {(e.fields["direction"], tuple(e.fields["about"])) for e in resumed} == {("resume", (first.id,))}  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["2025-11-25", "2025-06-18"])
async def test_a_client_goes_on_with_its_answer_at_another_replica(tmp_path: Path, servers: dict[str, str], version: str) -> None:
    async with asyncio.timeout(60), replicas(tmp_path, servers) as (one, other):
        session = await one.handshake("anna", "")
        last = await first_event(one, session, version)
        headers = headers_of(other, session, last=last) | {"mcp-protocol-version": version}
        async with other.client.stream("GET", "/mcp", headers=headers) as response:
            assert response.status_code == 200, await response.aread()
            heard, said = Heard(response), dict[str, Any]()
            while "id" not in said:
                said = await heard.next()
        resumed = [e for e in other.ledger.entries if e.fields.get("direction") == "resume"]
    assert said["id"] == "mine"
    assert said["result"]["content"][0]["text"] == "mended"
    assert resumed


async def test_an_event_of_somebody_else_of_another_session_or_from_elsewhere_cannot_be_resumed(
    tmp_path: Path, servers: dict[str, str]
) -> None:
    async with asyncio.timeout(60), replicas(tmp_path, servers) as (world, _):
        session, another = await world.handshake("anna", ""), await world.handshake("anna", "")
        theirs = await world.handshake("bert", "")
        last = await first_event(world, session)
        world.ledger.entries.clear()
        for person, whose, event in (
            ("anna", another, last),
            ("bert", theirs, last),
            ("anna", session, "x" + last),
            ("anna", session, "7"),
        ):
            answer = await world.client.get("/mcp", headers=headers_of(world, whose, person, event))
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, -32600)
        mounted = await world.handshake("anna", "old")
        answer = await world.client.get("/mcp/old", headers=headers_of(world, mounted, last=last))
        assert answer.status_code == 404
        denied = [e.fields["refused"]["code"] for e in world.ledger.entries if e.kind == "decision.deny"]  # type: ignore[index, call-overload]
        assert denied == ["unknown-session"] * 5


async def test_what_policy_denies_meanwhile_is_not_said_to_whoever_resumes(tmp_path: Path, servers: dict[str, str]) -> None:
    async with asyncio.timeout(60), replicas(tmp_path, servers) as (one, other):
        session = await one.handshake("anna", "")
        last = await first_event(one, session)
        other.verdicts["*", "old.broken"] = DENY
        answer = await other.client.get("/mcp", headers=headers_of(other, session, last=last))
        assert "mended" not in answer.text
        assert other.ledger.entries[-1].kind == "decision.deny"


async def test_a_server_that_ends_its_streams_at_once_does_not_fill_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.mcp.aggregate.resuming.RETRY_SECONDS", 3600.0)
    monkeypatch.setattr("gateway.mcp.aggregate.resuming.QUICK", 3)
    streams: list[bytes] = []

    async def say(_: Upstream, __: dict[str, Any], head: bytes, writer: Writer) -> None:
        streams.append(head)
        notice = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}
        writer.write(SSE + event(notice, name=f"e{len(streams)}", retry=1) + END)

    limits = Limits(call_seconds=3)
    async with upstream(scripted(say)) as there, gateway(tmp_path, {"old": where(there)}, limits=limits) as world:
        session = await world.handshake("anna", "")
        answer = await world.legacy("anna", "tools/call", server="", session=session, name="old__t", arguments={})
        assert "-31502" in answer.text
        assert [head[:3] for head in streams] == [b"POS", b"GET", b"GET", b"GET"]
