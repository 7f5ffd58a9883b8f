"""A server that is a child process: the official client reaches it, nobody else's session does, and it always ends.

Without a cage, so that what is tested here is the gateway's own; in cages: `test_caged_stdio.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.mcp.crew import Sharing
from gateway.mcp.process import Uncaged
from gateway.mcp.stdio import StdioServer
from gateway.model import Intent
from gateway.upstream.registry import McpTarget
from tests.mcp.world import MODERN, REFERENCE, World, answer_of, connected, gateway

SPEAKER = """
import json, os, signal, sys
stubborn = "stubborn" in sys.argv
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("a line that is no message", flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    if message["method"] == "initialize":
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}, "resources": {}}, "serverInfo": {}}
    elif message["method"] == "tools/call" and message["params"]["name"] == "crash":
        os._exit(3)
    elif message["method"] == "tools/call" and message["params"]["name"] == "flood":
        sys.stdout.write("x" * 200_000)
        sys.stdout.flush()
        continue
    else:
        result = {"content": [{"type": "text", "text": json.dumps(
            {"environment": sorted(os.environ), "id": message["id"], "pid": os.getpid()})}]}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
while stubborn:
    signal.pause()
"""


@asynccontextmanager
async def child_gateway(folder: Path, command: tuple[str, ...], **options: object) -> AsyncIterator[tuple[World, StdioServer]]:
    environment = {"GIVEN": "yes", "PYTHONUNBUFFERED": "1"}
    target = McpTarget("ref", "stdio", command=command, environment=environment, folder=folder, sandbox="off")

    async def start(_intent: Intent) -> Uncaged:
        return await Uncaged.start(target)

    server = StdioServer("ref", start, **options)  # type: ignore[arg-type]
    try:
        async with gateway(folder, {"ref": target}, others={"ref": server}) as world:
            yield world, server
    finally:
        await server.aclose()


def speaker(folder: Path) -> tuple[str, ...]:
    script = folder / "speaker.py"
    script.write_text(SPEAKER)
    return (sys.executable, str(script))


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_reaches_a_child_process(tmp_path: Path, mode: str) -> None:
    async with child_gateway(tmp_path, (sys.executable, str(REFERENCE), "--stdio")) as (world, server):
        seen: list[float] = []

        async def progress(at: float, total: float | None, message: str | None) -> None:
            seen.append(at)

        async with connected(world, mode) as client:
            assert client.protocol_version == (MODERN if mode == "auto" else "2025-11-25")
            assert "gw_echo" in {tool.name for tool in (await client.list_tools()).tools}
            results = await asyncio.gather(*(client.call_tool("gw_echo", {"n": n}) for n in range(10)))
            await client.call_tool("test_tool_with_progress", {}, progress_callback=progress)
        assert [result.structured_content["arguments"]["n"] for result in results] == list(range(10))
        assert seen == [0, 50, 100]
        assert server.running() == 1
    assert server.running() == 0


async def test_a_client_of_the_stateless_era_is_told_to_shake_hands(tmp_path: Path) -> None:
    async with child_gateway(tmp_path, speaker(tmp_path)) as (world, _):
        answer = await world.modern("anna", "server/discover")
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == -32022
        assert MODERN not in answer.json()["error"]["data"]["supported"]


@pytest.mark.parametrize("legacy", [Sharing.PRINCIPAL, Sharing.SESSION])
async def test_a_principals_sessions_share_a_child_or_have_their_own_and_no_other_principal_reaches_one(
    tmp_path: Path, legacy: Sharing
) -> None:
    async with child_gateway(tmp_path, speaker(tmp_path), legacy=legacy) as (world, server):
        anna, other, ben = await world.handshake("anna"), await world.handshake("anna"), await world.handshake("ben")
        assert len({anna, other, ben}) == 3
        assert server.running() == (2 if legacy is Sharing.PRINCIPAL else 3)
        pids = []
        for person, session in (("anna", anna), ("anna", other), ("ben", ben)):
            answer = answer_of(await world.legacy(person, "tools/call", session=session, name="who"))
            pids.append(json.loads(answer["result"]["content"][0]["text"])["pid"])
        assert (pids[0] == pids[1]) is (legacy is Sharing.PRINCIPAL)
        assert pids[2] not in pids[:2]
        stolen = await world.legacy("ben", "tools/call", session=anna, name="who")
        assert stolen.status_code == 404
        none = await world.legacy("ben", "tools/call", name="who")
        assert none.status_code == 400


async def test_a_child_gets_a_minimal_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAILIWICK_SECRET", "s3cret")
    async with child_gateway(tmp_path, speaker(tmp_path)) as (world, _):
        session = await world.handshake("anna")
        answer = answer_of(await world.legacy("anna", "tools/call", session=session, name="who"))
        environment = answer["result"]["content"][0]["text"]
    assert "BAILIWICK_SECRET" not in environment
    assert "GIVEN" in environment


async def test_a_child_that_dies_fails_its_calls_and_its_session_is_unknown_afterwards(tmp_path: Path) -> None:
    async with child_gateway(tmp_path, speaker(tmp_path)) as (world, _):
        session = await world.handshake("anna")
        died = (await world.legacy("anna", "tools/call", session=session, name="crash")).json()
        assert died["error"]["code"] == -31502
        assert died["error"]["data"]["code"] == "upstream-closed"
        again = await world.legacy("anna", "tools/call", session=session, name="who")
        assert again.status_code == 404


async def test_how_a_child_ended_and_its_last_words_are_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    command = (sys.executable, "-c", "import not_a_module_of_anybody")
    async with child_gateway(tmp_path, command) as (world, _):
        answer = (await world.legacy("anna", "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={})).json()
        assert answer["error"]["code"] == -31502
        async with asyncio.timeout(10):
            while not caplog.records:  # noqa: ASYNC110  a log record wakes nobody
                await asyncio.sleep(0.02)
    assert "ended by itself (exit code 1): ModuleNotFoundError: No module named 'not_a_module_of_anybody'" in caplog.text


async def test_a_line_beyond_its_bound_ends_the_child(tmp_path: Path) -> None:
    async with child_gateway(tmp_path, speaker(tmp_path), line_bytes=65536) as (world, _):
        session = await world.handshake("anna")
        answer = (await world.legacy("anna", "tools/call", session=session, name="flood")).json()
        assert answer["error"]["code"] == -31502


async def test_a_silent_child_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import sys; sys.stdin.read()")
    async with child_gateway(tmp_path, command, silence=0.3) as (world, _):
        answer = (await world.legacy("anna", "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={})).json()
        assert answer["error"]["data"]["code"] == "upstream-timeout"


async def test_a_command_that_is_not_there_is_an_upstream_failure(tmp_path: Path) -> None:
    async with child_gateway(tmp_path, ("/nonexistent/server",)) as (world, _):
        answer = (await world.legacy("anna", "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={})).json()
        assert answer["error"]["data"]["code"] == "upstream-connect"


async def test_of_one_principal_so_many_children_and_no_more(tmp_path: Path) -> None:
    async with child_gateway(tmp_path, speaker(tmp_path), per_principal=2, legacy=Sharing.SESSION) as (world, server):
        sessions = [await world.handshake("anna") for _ in range(3)]
        assert server.running() == 2
        oldest = await world.legacy("anna", "tools/call", session=sessions[0], name="who")
        assert oldest.status_code == 404
        newest = await world.legacy("anna", "tools/call", session=sessions[2], name="who")
        assert newest.status_code == 200


async def test_closing_ends_a_child_that_ignores_every_request_to_end(tmp_path: Path) -> None:
    async with child_gateway(tmp_path, (*speaker(tmp_path), "stubborn")) as (world, server):
        session = await world.handshake("anna")
        answer = answer_of(await world.legacy("anna", "tools/call", session=session, name="who"))
        pid = json.loads(answer["result"]["content"][0]["text"])["pid"]
        await server.aclose()
    assert gone(pid)


async def test_a_question_of_the_servers_is_answered_by_the_gateway(tmp_path: Path) -> None:
    async with child_gateway(tmp_path, (sys.executable, str(REFERENCE), "--stdio")) as (world, _):
        session = await world.handshake("anna")
        answer = answer_of(
            await world.legacy("anna", "tools/call", session=session, name="test_sampling", arguments={"prompt": "x"})
        )
    assert "error" in answer or answer["result"]["isError"]


@pytest.mark.node
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_file_server_from_npm_is_governed(tmp_path: Path, filesystem_server: Path, mode: str) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "note.txt").write_text("forty-two")
    command = ("node", str(filesystem_server), str(shared))
    async with child_gateway(tmp_path, command) as (world, _), connected(world, mode) as client:
        assert "read_text_file" in {tool.name for tool in (await client.list_tools()).tools}
        result = await client.call_tool("read_text_file", {"path": str(shared / "note.txt")})
    assert "forty-two" in result.content[0].text
    assert world.ledger.kinds().count("call.end") == world.ledger.kinds().count("call.start")
