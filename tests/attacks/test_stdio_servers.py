"""What callers try against servers that the gateway starts, by name; what the servers try from their cages: `tests/stdio`."""

from __future__ import annotations

import asyncio
import json
import secrets
import stat
from pathlib import Path

import pytest

from gateway.mcp.crew import Sharing
from gateway.sandbox.user_folders import UserFolders
from sandbox import lasting
from tests.mcp.world import answer_of
from tests.stdio.test_eras import Peers, peer

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


async def test_a_client_names_a_program_of_its_own(tmp_path: Path) -> None:
    mark = tmp_path / "started"
    wanted = {"command": ["/usr/bin/touch", str(mark)], "args": [str(mark)], "env": {"PATH": str(tmp_path)}, "cwd": "/"}
    async with peer(tmp_path, "legacy", "modern") as peers:
        said = await peers.world.legacy("anna", "initialize", **HELLO, **wanted, _meta={"command": wanted["command"]})
        told = json.loads(answer_of(said)["result"]["instructions"])
        assert answer_of(said)["result"]["serverInfo"]["name"] == "peer"
        await peers.world.modern("anna", "tools/call", name="who", arguments=wanted)
        assert not mark.exists()
        assert told["clientInfo"]["name"] == "test"
        assert {process.process.returncode for process in peers.started} == {None}


async def test_a_placeholder_of_the_settings_is_sent_by_a_caller(tmp_path: Path) -> None:
    async with peer(tmp_path, "modern") as peers:
        said = await peers.who("anna", meta={"com.example/x": "{folder}"})
        assert said["meta"]["com.example/x"] == "{folder}"


@pytest.mark.parametrize("legacy", [Sharing.SESSION, Sharing.PRINCIPAL, Sharing.PERSON, Sharing.TENANT])
async def test_a_session_is_used_by_another_person(tmp_path: Path, legacy: Sharing) -> None:
    async with peer(tmp_path, "legacy", legacy=legacy) as peers:
        anna, ben = await peers.world.handshake("anna"), await peers.world.handshake("ben")
        assert (await peers.who("anna", anna))["era"] == "legacy"
        for method in ("tools/call", "notifications/cancelled", "ping", "logging/setLevel"):
            rpc_id = None if method.startswith("notifications/") else 9
            stolen = await peers.world.legacy("ben", method, session=anna, rpc_id=rpc_id, name="who", requestId=1, level="info")
            assert stolen.status_code == 404, method
        headers = peers.world.token("ben") | {"mcp-protocol-version": "2025-11-25", "mcp-session-id": anna}
        for verb in ("GET", "DELETE"):
            got = await peers.world.client.request(verb, "/mcp/ref", headers=headers | {"accept": "text/event-stream"})
            assert got.status_code == 404, verb
        assert (await peers.who("anna", anna))["era"] == (await peers.who("ben", ben))["era"] == "legacy"


async def slow(peers: Peers, session: str, rpc_id: object) -> asyncio.Task[object]:
    before = [method for method, _ in (await peers.who("anna", session, rpc_id="look"))["seen"]].count("tools/call")
    task: asyncio.Task[object] = asyncio.create_task(
        peers.world.legacy("anna", "tools/call", session=session, name="slow", rpc_id=rpc_id)  # type: ignore[arg-type]
    )
    async with asyncio.timeout(10):
        while [m for m, _ in (await peers.who("anna", session, rpc_id="look"))["seen"]].count("tools/call") < before + 2:
            pass
    return task


async def test_a_request_is_cancelled_by_an_id_of_another_type_or_by_the_number_that_the_server_knows(tmp_path: Path) -> None:
    async with peer(tmp_path, "legacy") as peers:
        session = await peers.world.handshake("anna")
        waiting = await slow(peers, session, "5")
        for wanted in (5, 5.0, True, 1, 2, 3, 4, 6, 7, None, ["5"], {"5": 5}):
            await peers.world.legacy("anna", "notifications/cancelled", session=session, rpc_id=None, requestId=wanted)
        seen = (await peers.who("anna", session))["seen"]
        assert [wanted for method, wanted in seen if method == "notifications/cancelled"] == []
        await peers.world.legacy("anna", "notifications/cancelled", session=session, rpc_id=None, requestId="5")
        await waiting


@pytest.mark.parametrize(
    "subject", ["../../escape", "user:dev/anna/../ben", "/etc", "\0", "a" * 4000, "\N{RIGHT-TO-LEFT OVERRIDE}x"]
)
def test_a_persons_name_is_a_path(tmp_path: Path, subject: str) -> None:
    tmp_path.chmod(0o711)
    folders = UserFolders(tmp_path / "folders", secrets.token_bytes(32))
    wanted = folders.of("acme", subject, "../other", 1 << 20)
    assert wanted.path.resolve().is_relative_to(tmp_path / "folders")
    assert len(wanted.path.relative_to(tmp_path / "folders").parts) == 2
    assert wanted.path != folders.of("acme", subject + "x", "../other", 1 << 20).path
    held = lasting.claim(wanted)
    assert stat.S_IMODE(wanted.path.stat().st_mode) == 0o700
    lasting.release(held)
    assert folders.erase(subject + "x") == 0
    assert folders.erase(subject) == 1


def test_a_link_stands_where_folders_are_kept(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "folders").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="must be a folder that this user owns"):
        UserFolders(tmp_path / "folders", b"x" * 32).of("acme", "anna", "memory", 1 << 20)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(OSError, match="must be a folder that this user owns"):
        UserFolders(tmp_path / "open", b"x" * 32).of("acme", "anna", "memory", 1 << 20)
