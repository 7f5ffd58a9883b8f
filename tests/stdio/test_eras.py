"""A server on stdio speaks the era that it speaks: found out once, shared as the era allows, and nobody's ids meet in it.

Without a cage: what is tested here is the gateway's own side.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.mcp.crew import Sharing
from gateway.mcp.process import Uncaged
from gateway.mcp.stdio import StdioServer
from gateway.model import Intent
from gateway.upstream.registry import McpTarget
from tests.mcp.world import MODERN, World, answer_of, connected, gateway, modern_body, modern_headers

CAN = {"extensions": {"com.example/something": {}}}
PEER = Path(__file__).with_name("peer.py")


class Peers:
    """A gateway with one such server behind it; `started` counts the processes."""

    def __init__(self, world: World, server: StdioServer, started: list[Uncaged]) -> None:
        self.world = world
        self.server = server
        self.started = started

    async def who(self, person: str, session: str = "", name: str = "who", rpc_id: Any = 1, meta: Any = None) -> dict[str, Any]:
        """What the server says of the call; of the stateless era where there is no session."""
        if session:
            said = await self.world.legacy(person, "tools/call", session=session, name=name, rpc_id=rpc_id)
        else:
            said = await self.world.modern(person, "tools/call", name=name, rpc_id=rpc_id, meta=meta)
        found: dict[str, Any] = json.loads(answer_of(said)["result"]["content"][0]["text"])
        return found


@asynccontextmanager
async def peer(folder: Path, *words: str, **options: Any) -> AsyncIterator[Peers]:
    target = McpTarget("ref", "stdio", command=(sys.executable, "-S", "-E", str(PEER), *words), sandbox="off")
    started: list[Uncaged] = []

    async def start(_intent: Intent) -> Uncaged:
        started.append(await Uncaged.start(target, patience=0.3))
        return started[-1]

    server = StdioServer("ref", start, **options)
    try:
        async with gateway(folder, {"ref": target}, others={"ref": server}) as world:
            yield Peers(world, server, started)
    finally:
        await server.aclose()
    assert all(process.ended for process in started)


async def test_callers_of_the_stateless_era_share_a_process_and_their_ids_and_tokens_do_not_meet(tmp_path: Path) -> None:
    async with peer(tmp_path, "modern", "legacy") as peers:
        anna, ben = await asyncio.gather(
            peers.who("anna", rpc_id="same", meta={"progressToken": "same"}), peers.who("ben", rpc_id="same")
        )
        assert anna["pid"] == ben["pid"]
        assert len(peers.started) == 1  # the one that was asked for its era answered, and nobody's call was at stake
        assert isinstance(anna["id"], int)
        assert anna["id"] != ben["id"]
        assert anna["meta"]["progressToken"] == anna["id"]
        said = await peers.world.modern("anna", "tools/call", name="progress", rpc_id="x", meta={"progressToken": "mine"})
        progress = [json.loads(line[6:]) for line in said.text.splitlines() if line.startswith("data: ")]
        assert progress[0]["params"] == {"progressToken": "mine", "progress": 1}
        assert progress[1]["id"] == "x"


async def test_official_clients_of_either_era_are_served_by_a_server_that_speaks_both(tmp_path: Path) -> None:
    async with peer(tmp_path, "modern", "legacy") as peers:
        for mode, version in (("auto", MODERN), ("legacy", "2025-11-25"), (MODERN, MODERN)):
            async with connected(peers.world, mode) as client:
                assert client.protocol_version == version
                assert json.loads((await client.call_tool("who", {})).content[0].text)["era"] == mode.replace(
                    MODERN, "modern"
                ).replace("auto", "modern")
        assert peers.server.running() == 2  # an era is a process's, for as long as it runs


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("speaks", ["modern", "legacy"])
async def test_the_aggregate_bridges_a_client_of_either_era_to_a_server_of_either(tmp_path: Path, mode: str, speaks: str) -> None:
    async with peer(tmp_path, speaks) as peers, connected(peers.world, mode, server="") as client:
        assert client.protocol_version == (MODERN if mode == "auto" else "2025-11-25")
        assert [tool.name for tool in (await client.list_tools()).tools] == ["ref__who"]
        said = [json.loads((await client.call_tool("ref__who", {})).content[0].text) for _ in range(2)]
        assert {each["era"] for each in said} == {speaks}
        assert len({each["pid"] for each in said}) == 1


@pytest.mark.parametrize("word", ["polite", "dies", "silent"])
async def test_a_server_of_handshakes_is_known_after_one_look_and_clients_fall_back(tmp_path: Path, word: str) -> None:
    async with peer(tmp_path, "legacy", word, start_seconds=0.5 if word == "silent" else 30.0) as peers:
        for _ in range(2):
            answer = await peers.world.modern("anna", "tools/list")
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32022)
            assert answer.json()["error"]["data"]["supported"][0] == "2025-11-25"
        assert len(peers.started) == 2  # one that was thrown away, one that answered a handshake and went too
        assert peers.server.running() == 0
        async with connected(peers.world, "auto") as client:
            assert client.protocol_version == "2025-11-25"
        assert peers.server.crew.healthy


async def test_a_server_that_answers_in_no_era_is_an_upstream_failure_and_is_asked_again_later(tmp_path: Path) -> None:
    async with peer(tmp_path, "neither", most_wait=0.0) as peers:
        for looks in (2, 4):
            answer = (await peers.world.modern("anna", "tools/list")).json()
            assert answer["error"]["code"] == -31502
            assert len(peers.started) == looks


async def test_a_server_of_the_stateless_era_alone_names_its_version_to_clients_that_shake_hands(tmp_path: Path) -> None:
    async with peer(tmp_path, "modern", era="modern") as peers:
        info = {"name": "test", "version": "1"}
        answer = await peers.world.legacy("anna", "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=info)
        assert answer.json()["error"]["code"] == -32022
        assert answer.json()["error"]["data"]["supported"] == [MODERN]
        assert peers.started == []
    async with peer(tmp_path, "modern") as peers:
        answer = await peers.world.legacy("anna", "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=info)
        assert "error" in answer.json()
        assert (await peers.who("anna"))["era"] == "modern"


async def test_an_era_that_is_configured_is_not_asked_for(tmp_path: Path) -> None:
    async with peer(tmp_path, "modern", "legacy", era="legacy") as peers:
        answer = await peers.world.modern("anna", "server/discover")
        assert answer.json()["error"]["code"] == -32022
        assert peers.started == []


async def test_hanging_up_in_the_stateless_era_cancels_the_servers_work(tmp_path: Path) -> None:
    async with peer(tmp_path, "modern") as peers:
        await peers.who("anna")
        body, headers = modern_body("tools/call", 7, name="slow"), modern_headers("tools/call", name="slow")
        with pytest.raises(httpx.ReadTimeout):
            await peers.world.client.post(
                "/mcp/ref", json=body, timeout=0.3,
                headers=headers | peers.world.token("anna") | {"accept": "application/json, text/event-stream"},
            )  # fmt: skip
        async with asyncio.timeout(10):
            while "notifications/cancelled" not in {method for method, _ in (await peers.who("ben"))["seen"]}:
                pass
        seen = dict((await peers.who("ben"))["seen"])
        assert isinstance(seen["notifications/cancelled"], int)  # by the number that the server knows it by
        assert peers.server.running() == 1


async def test_a_cancellation_reaches_the_request_of_its_own_session_alone(tmp_path: Path) -> None:
    async with peer(tmp_path, "legacy") as peers:
        mine, other = await peers.world.handshake("anna"), await peers.world.handshake("anna")
        waiting = [
            asyncio.create_task(peers.world.legacy("anna", "tools/call", session=session, name="slow", rpc_id=5))
            for session in (mine, other)
        ]
        async with asyncio.timeout(10):
            while [method for method, _ in (await peers.who("anna", other))["seen"]].count("tools/call") < 2:
                pass
        await peers.world.legacy("anna", "notifications/cancelled", session=mine, rpc_id=None, requestId=5)
        answer = (await waiting[0]).json()
        assert (answer["id"], answer["error"]["code"]) == (5, -32800)
        assert not waiting[1].done()
        waiting[1].cancel()
        await asyncio.wait(waiting)


async def test_clients_that_say_what_they_can_do_have_a_process_of_their_own(tmp_path: Path) -> None:
    async with peer(tmp_path, "legacy") as peers:
        info = {"name": "test", "version": "1"}
        pids = []
        for capabilities in ({}, {}, CAN, CAN):
            answer = answer_of(await peers.world.legacy(
                "anna", "initialize", protocolVersion="2025-11-25", capabilities=capabilities, clientInfo=info
            ))  # fmt: skip
            pids.append(answer["result"]["serverInfo"]["pid"])
        assert pids[0] == pids[1]
        assert len(set(pids)) == 3


async def test_a_process_that_several_share_is_told_of_none_of_their_clients_and_shakes_hands_once(tmp_path: Path) -> None:
    async with peer(tmp_path, "legacy", legacy=Sharing.TENANT) as peers:
        sessions = {person: await peers.world.handshake(person) for person in ("anna", "ben", "carl")}
        found = [await peers.who(person, session) for person, session in sessions.items()]
        assert len({said["pid"] for said in found}) == 1
        methods = [method for method, _ in found[-1]["seen"]]
        assert (methods.count("initialize"), methods.count("notifications/initialized")) == (1, 1)
        answer = answer_of(await peers.world.legacy(
            "dora", "initialize", protocolVersion="2025-11-25", capabilities=CAN, clientInfo={"name": "of dora"}
        ))  # fmt: skip
        told = json.loads(answer["result"]["instructions"])
        assert (told["capabilities"], told["clientInfo"]["name"]) == ({}, "bailiwick")
        stolen = await peers.world.legacy("ben", "tools/call", session=sessions["anna"], name="who")
        assert stolen.status_code == 404


async def test_a_person_has_one_process_whichever_era_their_agents_speak(tmp_path: Path) -> None:
    async with peer(tmp_path, "modern", "legacy", legacy=Sharing.PERSON, modern=Sharing.PERSON) as peers:
        found = [await peers.who("anna"), await peers.who("anna", await peers.world.handshake("anna")), await peers.who("anna")]
        assert [said["era"] for said in found] == ["modern", "legacy", "modern"]
        assert len({said["pid"] for said in found}) == 3
        assert peers.server.running() == 1
        assert [process.ended != "" for process in peers.started] == [True, True, False]


async def test_a_persons_process_begins_anew_for_another_revision(tmp_path: Path) -> None:
    async with peer(tmp_path, "legacy", legacy=Sharing.PERSON) as peers:
        info = {"name": "test", "version": "1"}
        pids = []
        for version in ("2025-11-25", "2025-06-18", "2025-06-18"):
            said = await peers.world.legacy("anna", "initialize", protocolVersion=version, capabilities={}, clientInfo=info)
            assert answer_of(said)["result"]["protocolVersion"] == version
            pids.append(answer_of(said)["result"]["serverInfo"]["pid"])
        assert pids[0] != pids[1] == pids[2]
        assert peers.server.running() == 1
