"""MCP servers that the gateway starts run in cages of their own: they work there, are on record, and end with their session."""

from __future__ import annotations

import asyncio
import logging
import os
import site
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.mcp.crew import Sharing
from gateway.upstream.registry import McpTarget
from sandbox.engine import CagedRunner
from sandbox.model import Guarantee, Strength
from tests.mcp.world import MODERN, REFERENCE, answer_of, connected
from tests.stdio.world import PROFILES, PYTHON, alive, caged, speaker

STRICT = replace(PROFILES["mcp-stdio"], name="strict", requires={Guarantee.OWN_KERNEL: Strength.HARD})
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


async def test_the_official_client_reaches_an_official_python_server_in_a_cage(tmp_path: Path, runner: CagedRunner) -> None:
    packages = Path(site.getsitepackages()[0])
    target = McpTarget(
        "ref", "stdio", command=(PYTHON, str(REFERENCE), "--stdio"), environment={"PYTHONPATH": str(packages)}, read=(packages,)
    )
    async with caged(tmp_path, target, runner) as scene:
        async with connected(scene.world, "auto") as client:
            assert client.protocol_version == MODERN
            results = await asyncio.gather(*(client.call_tool("gw_echo", {"n": n}) for n in range(10)))
        assert [result.structured_content["arguments"]["n"] for result in results] == list(range(10))
        assert scene.server.running() == 1
    assert scene.server.running() == 0


@pytest.mark.node
async def test_the_file_server_from_npm_reads_what_it_is_given_and_writes_nothing(
    tmp_path: Path, reachable: Path, runner: CagedRunner, filesystem_server: Path
) -> None:
    shared, other = reachable / "shared", reachable / "other"
    for each in (shared, other):
        each.mkdir()
        each.chmod(0o777)
        (each / "note.txt").write_text("forty-two")
    command = ("node", str(filesystem_server), str(shared), str(other))
    target = McpTarget("ref", "stdio", command=command, read=(shared,))
    async with caged(tmp_path, target, runner) as scene, connected(scene.world, "legacy") as client:
        note = await client.call_tool("read_text_file", {"path": str(shared / "note.txt")})
        written = await client.call_tool("write_file", {"path": str(shared / "new.txt"), "content": "x"})
        hidden = await client.call_tool("read_text_file", {"path": str(other / "note.txt")})
    assert "forty-two" in note.content[0].text
    assert written.is_error
    assert hidden.is_error  # the server itself would let its client read it: it is not among what it was given
    assert [path.name for path in shared.iterdir()] == ["note.txt"]


async def test_its_start_and_its_end_are_on_record_with_profile_layers_and_guarantees(
    tmp_path: Path, reachable: Path, runner: CagedRunner
) -> None:
    async with caged(tmp_path, speaker(reachable), runner) as scene:
        await scene.opened()
        kinds = [entry.kind for entry in scene.world.ledger.entries[:4]]
        assert kinds == ["call.start", "sandbox.probe", "sandbox.start", "call.end"]
    (start,), (end,), (probe,) = (scene.entries(f"sandbox.{kind}") for kind in ("start", "end", "probe"))
    assert start.fields["probe"] == probe.fields["probe"] == (await runner.probe()).id
    call = scene.entries("call.start")[0]
    for entry in (start, end):
        assert (entry.fields["server"], entry.fields["profile"]) == ("ref", "mcp-stdio")
        assert (entry.fields["call"], entry.fields["profile_digest"]) == (call.id, PROFILES["mcp-stdio"].digest)
        assert entry.fields["guarantees"]["fs_read"] == entry.fields["guarantees"]["net_none"] == "hard"
        assert "seccomp" in entry.fields["layers"]
    assert (start.fields["backend"], end.fields["start"], end.fields["reason"]) == (runner.name, start.id, "ok")


async def test_where_the_guarantees_are_not_proven_it_is_not_started_and_the_caller_is_told_the_code(
    tmp_path: Path, reachable: Path, runner: CagedRunner
) -> None:
    mark = "MARK=of-one-that-must-not-run"
    target = speaker(reachable, sandbox="strict", environment={"MARK": "of-one-that-must-not-run"})
    async with caged(tmp_path, target, runner, profile=STRICT) as scene:
        answer = (await scene.world.legacy("anna", "initialize", **HELLO)).json()
        assert answer["error"]["data"]["code"] == "isolation-unproven"
        assert "own_kernel" not in str(answer)  # what the machine lacks is nobody's business but the operator's
        assert alive(mark) == 0
        (end,) = scene.entries("sandbox.end")
        assert (end.fields["reason"], end.fields["server"]) == ("refused", "ref")
        assert end.fields["missing"] == {"own_kernel": "wanted hard, got absent"}
        assert scene.entries("sandbox.start") == []


async def test_nothing_is_started_while_the_ledger_is_down(tmp_path: Path, reachable: Path, runner: CagedRunner) -> None:
    target = speaker(reachable, environment={"MARK": "of-one-without-a-record"})
    async with caged(tmp_path, target, runner) as scene:
        append = scene.world.ledger.append

        async def failing(entry: object) -> object:
            scene.world.ledger.down = entry.kind == "sandbox.start"  # type: ignore[attr-defined]
            return await append(entry)  # type: ignore[arg-type]

        scene.world.ledger.append = failing  # type: ignore[method-assign, assignment]
        answer = (await scene.world.legacy("anna", "initialize", **HELLO)).json()
        assert answer["error"]["data"]["code"] == "ledger-unavailable"
        assert alive("MARK=of-one-without-a-record") == 0


async def test_without_a_cage_it_runs_only_where_the_operator_says_so_loudly_and_on_record(
    tmp_path: Path, reachable: Path, runner: CagedRunner, caplog: pytest.LogCaptureFixture
) -> None:
    target = replace(speaker(reachable, sandbox="off"), command=(sys.executable, str(reachable / "speaker.py")))
    async with caged(tmp_path, target, runner) as scene:
        assert (await scene.does("said['uid'] = __import__('os').getuid()"))["uid"] == os.getuid()
        assert "mcp.ref is started WITHOUT A CAGE" in caplog.text
    (start,), (end,) = scene.entries("sandbox.start"), scene.entries("sandbox.end")
    assert (start.fields["profile"], start.fields["guarantees"], start.fields["server"]) == ("off", {}, "ref")
    assert (end.fields["start"], end.fields["reason"]) == (start.id, "ended")


async def test_a_session_that_has_a_cage_of_its_own_shares_no_file_with_another(
    tmp_path: Path, reachable: Path, runner: CagedRunner
) -> None:
    async with caged(tmp_path, speaker(reachable), runner, legacy=Sharing.SESSION) as scene:
        wrote = await scene.does("import os; open(os.environ['HOME'] + '/mine', 'w').write('x'); said['ok'] = os.listdir()")
        assert wrote["ok"] == ["mine"]
        await scene.opened("anna")
        assert await scene.does("import os; said['there'] = os.listdir(os.environ['TMPDIR'])") == {"there": []}
        assert scene.server.running() == 2


async def test_it_begins_in_its_configured_folder_which_it_may_read_and_not_write(
    tmp_path: Path, reachable: Path, runner: CagedRunner
) -> None:
    folder = reachable / "home"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    (folder / "data.txt").write_text("given")
    async with caged(tmp_path, speaker(reachable, folder=folder), runner) as scene:
        said = await scene.does("said['read'] = open('data.txt').read(); open('new.txt', 'w')")
    assert said["read"] == "given"
    assert "raised" in said
    assert [path.name for path in folder.iterdir()] == ["data.txt"]


async def test_what_it_says_on_standard_error_is_in_the_log_harmless_and_bounded(
    tmp_path: Path, reachable: Path, runner: CagedRunner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.mcp")
    async with caged(tmp_path, speaker(reachable), runner) as scene:
        await scene.does("import sys; print('a \\x1b[31mred\\rone', file=sys.stderr, flush=True)")
        await scene.does("import sys; print('y\\n' * 100000, file=sys.stderr, flush=True)")
        assert await scene.does("said['still'] = 1") == {"still": 1}
        async with asyncio.timeout(10):
            while "red" not in caplog.text:  # noqa: ASYNC110  a log record wakes nobody
                await asyncio.sleep(0.01)
    said = [record.getMessage() for record in caplog.records if record.name == "gateway.mcp"]
    assert "ref: a word on standard error" in said
    assert "ref: a \\x1b[31mred\\x0done" in said
    assert len(said) < 60


async def test_a_child_that_nobody_uses_is_ended_and_gone(tmp_path: Path, reachable: Path, runner: CagedRunner) -> None:
    target = speaker(reachable, environment={"MARK": "of-an-idle-one"})
    async with caged(tmp_path, target, runner, keep_seconds=0.2) as scene:
        await scene.opened()
        assert alive("MARK=of-an-idle-one") > 0
        await scene.world.ledger.until("sandbox.end")
        assert alive("MARK=of-an-idle-one") == 0
        again = await scene.world.legacy("anna", "tools/call", session=scene.session, name="any")
        assert again.status_code == 404


async def test_one_that_dies_fails_its_call_and_a_new_session_starts_another(
    tmp_path: Path, reachable: Path, runner: CagedRunner
) -> None:
    async with caged(tmp_path, speaker(reachable), runner) as scene:
        session = await scene.opened()
        code = {"code": "import os; os._exit(3)"}
        died = await scene.world.legacy("anna", "tools/call", session=session, name="any", arguments=code)
        assert answer_of(died)["error"]["data"]["code"] == "upstream-closed"
        await scene.opened()
        assert await scene.does("said['lives'] = 1") == {"lives": 1}
        ended = await scene.world.ledger.until("sandbox.end")
        assert (ended.fields["reason"], ended.fields["exit_code"]) == ("error", 3)


async def test_one_beyond_its_memory_is_ended_and_why_is_on_record(tmp_path: Path, reachable: Path, runner: CagedRunner) -> None:
    tight = replace(PROFILES["mcp-stdio"], name="tight", limits=replace(PROFILES["mcp-stdio"].limits, memory_bytes=64 << 20))
    async with caged(tmp_path, speaker(reachable, sandbox="tight"), runner, profile=tight) as scene:
        session = await scene.opened()
        code = {"code": "import time\nhoard = [b'x' * (1 << 20) for _ in range(120)]\ntime.sleep(60)"}
        await scene.world.legacy("anna", "tools/call", session=session, name="any", arguments=code)
        assert (await scene.world.ledger.until("sandbox.end")).fields["reason"] == "oom"


async def test_a_program_that_is_not_there_is_an_upstream_failure(tmp_path: Path, runner: CagedRunner) -> None:
    async with caged(tmp_path, McpTarget("ref", "stdio", command=("/nonexistent/server",)), runner) as scene:
        answer = (await scene.world.legacy("anna", "initialize", **HELLO)).json()
        assert answer["error"]["data"]["code"] == "upstream-connect"


async def test_what_would_be_fetched_at_the_start_is_not_started_and_the_log_says_what_to_do(
    tmp_path: Path, runner: CagedRunner, caplog: pytest.LogCaptureFixture
) -> None:
    async with caged(tmp_path, McpTarget("ref", "stdio", command=("npx", "-y", "@x/server")), runner) as scene:
        answer = (await scene.world.legacy("anna", "initialize", **HELLO)).json()
        assert answer["error"]["data"]["code"] == "upstream-connect"
    assert "install the server beforehand (npm install), and give its own program or entry file" in caplog.text


async def test_an_argument_that_it_may_not_read_is_named_in_the_log(
    tmp_path: Path, reachable: Path, runner: CagedRunner, caplog: pytest.LogCaptureFixture
) -> None:
    data = reachable / "data.txt"
    data.write_text("x")
    data.chmod(0o644)
    command = (PYTHON, "-c", "import sys; open(sys.argv[1])", str(data))
    async with caged(tmp_path, McpTarget("ref", "stdio", command=command), runner) as scene:
        await scene.world.legacy("anna", "initialize", **HELLO)
        await scene.world.ledger.until("sandbox.end")
    assert f"{data} is an argument, and is not among what it may read: mcp.ref.read" in caplog.text
