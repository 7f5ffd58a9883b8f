"""What is to be seen of servers on stdio: processes, starts, failures, health, and what they use with all that they started."""

# ruff: noqa: ASYNC240  looking at /proc in between is what these tests are about
from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import prometheus
from gateway.mcp.process import Uncaged
from gateway.sandbox.server_gauges import Gauges
from gateway.sandbox.usage import usage_of
from gateway.upstream.registry import McpTarget
from tests.stdio.test_eras import peer
from tests.stdio.test_supervision import failing


async def test_processes_starts_restarts_failures_health_memory_and_processor_time_are_told_by_server(tmp_path: Path) -> None:
    async with peer(tmp_path, "modern", first_wait=0.0) as peers:
        gauges = Gauges(seconds=0.01)
        gauges.watch([peers.server])

        def seen() -> dict[str, float]:
            text = prometheus.render(gauges.families()).decode()
            rows = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
            return {name.removeprefix("bailiwick_stdio_").partition("{")[0]: float(value) for name, _, value in rows}

        try:
            nothing = {"processes": 0, "starts_total": 0, "restarts_total": 0, "failures_total": 0, "healthy": 1}
            assert seen() == nothing | {"memory_bytes": 0, "cpu_seconds": 0}
            await peers.who("anna")
            async with asyncio.timeout(10):
                while not seen()["memory_bytes"]:
                    await peers.who("anna")
            found = seen()
            assert (found["processes"], found["starts_total"], found["restarts_total"]) == (1, 1, 0)
            assert found["memory_bytes"] > 1 << 20
            assert 0 < found["cpu_seconds"] < 60
            for _ in range(3):
                await failing(peers.world, "anna")
            found = seen()
            assert (found["starts_total"], found["restarts_total"], found["failures_total"]) == (3, 2, 3)
            assert found["healthy"] == 0
        finally:
            await gauges.aclose()


def test_what_a_process_uses_is_counted_with_all_that_it_started() -> None:
    rests = "print(1, flush=True); import time; time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {rests!r}])"
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        used = usage_of([process.pid, 2**22 + 1])
        assert list(used) == [process.pid]
        assert used[process.pid].processes == 2
        assert used[process.pid].resident > 2 << 20
        os.killpg(process.pid, signal.SIGKILL)


async def test_a_server_without_a_cage_that_kills_its_keeper_ends_with_it(tmp_path: Path) -> None:
    """What it started before can stay then: it has all rights of the gateway, and `sandbox: off` says so."""
    async with peer(tmp_path, "legacy") as peers:
        session = await peers.world.handshake("anna")
        pid = (await peers.who("anna", session))["pid"]
        os.kill(peers.started[0].pid, signal.SIGKILL)
        await peers.started[0].wait()
        async with asyncio.timeout(10):
            while _lives(pid):  # noqa: ASYNC110  the end of a process that is nobody's child wakes nobody
                await asyncio.sleep(0.01)
        again = await peers.world.legacy("anna", "tools/call", session=session, name="who")
        assert again.status_code == 404


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


@pytest.mark.parametrize("word", ["stays", "ends"])
async def test_what_a_server_without_a_cage_left_behind_is_gone_with_it(tmp_path: Path, word: str) -> None:
    script = tmp_path / "leaver.py"
    script.write_text(
        "import os, subprocess, sys\n"
        "lives = 'import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; time.sleep(600)'\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', lives], start_new_session=True, stdin=-3, stdout=-3, stderr=-3)\n"
        "print(child.pid, flush=True)\n" + ("sys.stdin.read()" if word == "stays" else "sys.exit(4)")
    )
    started = await Uncaged.start(McpTarget("it", "stdio", command=(sys.executable, "-S", str(script)), sandbox="off"))
    pid = int(await started.stdout.readline())
    if word == "stays":
        await started.end()
    else:
        assert await started.wait() == "exit code 4"
        await started.end()
    assert not Path(f"/proc/{pid}").exists()
    assert await started.stdout.read() == b""
