"""Programs that go on in their cages: streams both ways, limits, and an end that leaves nothing."""

# ruff: noqa: ASYNC110, ASYNC240  looking at /proc and at files in between is what these tests are about
from __future__ import annotations

import asyncio
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.engine import CagedRunner
from sandbox.landlock import LandlockRunner
from sandbox.model import (
    Guarantee,
    IsolationUnprovenError,
    NotOfferedError,
    Reason,
    SandboxBusyError,
    SandboxFailedError,
    Strength,
)
from sandbox.profiles import load_profiles
from sandbox.runner import Hooks, Lasting, Program, Served

SHIPPED = load_profiles()["no-network-512mb"]
PROFILE = replace(SHIPPED, limits=replace(SHIPPED.limits, wall_seconds=1, memory_bytes=128 << 20, output_bytes=1000))
CAT = ("/usr/bin/cat",)


def program(*command: str, **given: Any) -> Program:
    return Program("served", command, given.pop("profile", PROFILE), **given)


@pytest.fixture(params=["landlock", "bwrap"])
def runner(request: pytest.FixtureRequest, boxes: Any) -> CagedRunner:
    found = boxes("own", request.param).runner
    assert isinstance(found, CagedRunner)
    return found


async def asked(served: Served, line: bytes) -> bytes:
    served.stdin.write(line)
    await served.stdin.drain()
    return await served.stdout.readline()


async def test_a_program_answers_for_longer_than_any_run_may_take(runner: CagedRunner) -> None:
    served = await runner.serve(program(*CAT))
    assert await asked(served, b"one\n") == b"one\n"
    await asyncio.sleep(1.2)  # the profile's wall clock is a second
    assert await asked(served, b"two\n") == b"two\n"
    assert served.guarantees[Guarantee.FS_READ] is Strength.HARD
    served.stdin.write_eof()
    assert await served.stdout.read() == b""
    run = await served.wait()
    assert (run.reason, run.exit_code, run.stdout) == (Reason.OK, 0, b"")


async def test_more_passes_through_it_than_a_run_may_print(runner: CagedRunner) -> None:
    served = await runner.serve(program(*CAT))
    data = bytes(range(256)) * 20_000
    served.stdin.write(data)
    assert await served.stdout.readexactly(len(data)) == data
    assert (await served.end()).reason is Reason.OK


async def test_its_environment_is_what_it_was_given_and_nothing_else(
    runner: CagedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "canary")
    served = await runner.serve(program("/usr/bin/env", environment={"TOKEN": "its own"}))
    names = {line.partition(b"=")[0].decode() for line in (await served.stdout.read()).splitlines()}
    assert "TOKEN" in names
    assert names <= {"TOKEN", "HOME", "LANG", "MALLOC_ARENA_MAX", "PATH", "PYTHONHASHSEED", "SOURCE_DATE_EPOCH", "TMPDIR", "TZ"}
    await served.wait()


async def test_its_errors_come_as_lines_and_a_flood_of_them_holds_nothing_up(runner: CagedRunner) -> None:
    script = "echo first >&2; echo ready; read x; yes | head -c 3000000 >&2; echo last >&2; echo done"
    served = await runner.serve(program("/bin/sh", "-c", script))
    assert await served.stdout.readline() == b"ready\n"
    assert await anext(aiter(served.stderr)) == b"first"
    assert await asked(served, b"go\n") == b"done\n"
    await served.wait()
    rest = [line async for line in served.stderr]
    assert rest[-1] == b"last"
    assert len(rest) <= 1000


async def test_who_does_not_read_holds_the_program_back_and_can_still_end_it(runner: CagedRunner) -> None:
    served = await runner.serve(program("/usr/bin/yes"))
    assert await served.stdout.readline() == b"y\n"
    run = await served.end()
    assert run.reason is Reason.CANCELLED


async def test_what_it_reads_is_what_it_was_given(runner: CagedRunner) -> None:
    with tempfile.TemporaryDirectory(prefix="bailiwick-test-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        given = Path(folder) / "given"
        given.write_text("given", encoding="ascii")
        served = await runner.serve(program("/usr/bin/cat", str(given), read=(given,)))
        assert await served.stdout.read() == b"given"
        await served.wait()
        served = await runner.serve(program("/usr/bin/cat", str(given)))
        assert await served.stdout.read() == b""
        assert (await served.wait()).reason is Reason.ERROR


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("while :; do :; done", Reason.CPU),
        ("i=0; while :; do i=$((i+1)); head -c 100000 /dev/zero > $i; done", Reason.DISK),
        ("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 60 & done; wait", Reason.PIDS),
        ("head -c 2000000 /dev/zero > x; sleep 60", Reason.FILE_SIZE),
        ("x=$(yes | head -c 100000000); sleep 60", Reason.OOM),
    ],
)
async def test_its_other_limits_hold(runner: CagedRunner, script: str, reason: Reason) -> None:
    limits = replace(
        PROFILE.limits, cpu_seconds=2, scratch_bytes=4 << 20, file_bytes=1 << 20, processes=8, memory_bytes=64 << 20,
        wall_seconds=1,
    )  # fmt: skip
    served = await runner.serve(program("/bin/sh", "-c", script, profile=replace(PROFILE, limits=limits)))
    assert (await served.wait()).reason is reason


async def test_an_idle_program_is_ended(runner: CagedRunner) -> None:
    served = await runner.serve(program(*CAT, idle_seconds=0.5))
    for _ in range(4):
        await asyncio.sleep(0.2)
        assert await asked(served, b"x\n") == b"x\n"
    assert (await served.wait()).reason is Reason.TIMEOUT


async def test_it_may_call_back(runner: CagedRunner) -> None:
    ours, theirs = socket.socketpair()
    calls = program("/bin/sh", "-c", "echo question >&3; head -n 1 <&3", profile=replace(PROFILE, tools=True))
    served = await runner.serve(calls, Hooks(tools=theirs))
    reader, writer = await asyncio.open_connection(sock=ours)
    assert await reader.readline() == b"question\n"
    writer.write(b"answer\n")
    assert await served.stdout.read() == b"answer\n"
    await served.wait()
    assert await reader.read() == b""
    writer.close()


async def test_an_end_takes_everything_with_it(runner: CagedRunner) -> None:
    mark = "3141.59"
    script = f"trap '' TERM HUP INT; (setsid sleep {mark} &) ; sleep {mark} & echo ready; while :; do wait; done"
    served = await runner.serve(program("/bin/sh", "-c", script))
    assert await served.stdout.readline() == b"ready\n"
    while sleepers(mark) < 2:
        await asyncio.sleep(0.01)
    assert (await served.end()).reason is Reason.CANCELLED
    assert sleepers(mark) == 0
    assert (await served.end()).reason is Reason.CANCELLED  # once more does no harm


def sleepers(mark: str) -> int:
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += path.read_bytes() == b"sleep\0" + mark.encode() + b"\0"
        except OSError:
            continue
    return found


@pytest.mark.parametrize("backend", ["landlock", "bwrap"])
async def test_it_is_gone_when_the_gateway_is_killed(drivers: Any, boxes: Any, backend: str) -> None:
    boxes("own", backend)  # skips where there is none
    gateway = drivers.start(None, backend=backend)
    mark = "2718.28" if backend == "bwrap" else "2718.29"
    told = await gateway.ask({"serve": ["/bin/sh", "-c", f"setsid sleep {mark} & echo ready; sleep {mark}"]})
    assert told == "ready\n"
    while sleepers(mark) < 2:
        await asyncio.sleep(0.01)
    gateway.process.kill()
    await asyncio.to_thread(gateway.process.wait)
    while sleepers(mark):
        await asyncio.sleep(0.01)


async def test_closing_the_runner_ends_it_and_no_more_begin_than_may() -> None:
    runner = LandlockRunner(programs=1)
    served = await runner.serve(program(*CAT))
    with pytest.raises(SandboxBusyError):
        await runner.serve(program(*CAT))
    await runner.aclose()
    assert await served.stdout.read() == b""
    with pytest.raises(asyncio.CancelledError):
        await served.wait()


async def test_what_is_not_offered_or_not_proven_does_not_start(shared_runner: LandlockRunner) -> None:
    ours, theirs = socket.socketpair()
    for hooks in (Hooks(output=print), Hooks(tools=theirs)):
        with pytest.raises(NotOfferedError):
            await shared_runner.serve(program(*CAT), hooks)
    ours.close()
    assert theirs.fileno() == -1
    with pytest.raises(SandboxFailedError):
        await shared_runner.serve(program(*CAT, folder=Lasting(Path("/nonexistent/folder"), 4096)))
    strict = replace(PROFILE, requires={Guarantee.OWN_KERNEL: Strength.HARD})
    with pytest.raises(IsolationUnprovenError):
        await shared_runner.serve(program(*CAT, profile=strict))


async def test_a_program_that_is_not_there_says_so(runner: CagedRunner) -> None:
    served = await runner.serve(program("/usr/bin/no-such-program"))
    run = await served.wait()
    assert run.reason is Reason.SANDBOX_ERROR
    assert "No such file" in run.detail
