"""Limits hold, whatever the code does to pass them; and when a run has ended, nothing of it is left."""

# ruff: noqa: ASYNC110, ASYNC240  looking at /proc and at folders in between is what these tests are about
from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.landlock import LandlockRunner
from sandbox.model import Job, Language, Reason
from sandbox.profiles import load_profiles

SHIPPED = load_profiles()["no-network-512mb"]

# -- exhaustion ----------------------------------------------------------------------------------------------------------------


async def test_a_fork_bomb_is_bounded_and_ended(box: Any) -> None:
    run = await box.run("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass\n", processes=8, wall_seconds=4)
    assert run["reason"] == "pids"
    assert run["usage"]["peak_processes"] < 64


async def test_a_thread_bomb_is_bounded_and_ended(box: Any) -> None:
    start = "threading.Thread(target=time.sleep, args=(9,)).start()"
    program = f"import threading, time\nwhile True:\n  try: {start}\n  except RuntimeError: pass"
    assert (await box.run(program, processes=4))["reason"] == "pids"


async def test_a_memory_bomb_ends_as_oom(box: Any) -> None:
    run = await box.run("x = []\nwhile True: x.append(bytearray(b'x' * 4_000_000))", memory_bytes=64 << 20)
    assert run["reason"] == "oom"


async def test_memory_beyond_the_address_space_ends_as_oom(box: Any) -> None:
    assert (await box.run("bytearray(1 << 40)"))["reason"] == "oom"


async def test_a_memory_bomb_shared_among_processes_ends_as_oom(box: Any) -> None:
    program = "import os, time\nfor _ in range(3):\n  if not os.fork(): break\nx = bytearray(b'x' * 40_000_000)\ntime.sleep(60)"
    assert (await box.run(program, memory_bytes=64 << 20))["reason"] == "oom"


async def test_burning_the_processor_ends_as_cpu(box: Any) -> None:
    assert (await box.run("while True: pass", cpu_seconds=1))["reason"] == "cpu"


async def test_ignoring_the_processors_signal_does_not_help(own_box: Any) -> None:
    program = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert (await own_box.run(program, cpu_seconds=1))["reason"] == "cpu"


async def test_many_processes_do_not_get_more_processor_time_than_one(own_box: Any) -> None:
    program = "import os\nfor _ in range(3):\n  if not os.fork(): break\nwhile True: pass"
    run = await own_box.run(program, cpu_seconds=1, wall_seconds=20)
    assert run["reason"] == "cpu"


async def test_sleeping_ends_as_timeout(box: Any) -> None:
    assert (await box.run("import time; time.sleep(60)", wall_seconds=0.4))["reason"] == "timeout"


async def test_ignoring_every_signal_does_not_help(own_box: Any) -> None:
    program = (
        "import signal, time\nfor n in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)\ntime.sleep(60)"
    )
    assert (await own_box.run(program, wall_seconds=0.4))["reason"] == "timeout"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_endless_output_ends_as_output_and_is_cut(own_box: Any, stream: str) -> None:
    run = await own_box.run(f"import sys\nwhile True: sys.{stream}.write('x' * 4096)", output_bytes=10_000)
    assert run["reason"] == "output"
    assert len(run[stream]) == 10_000
    assert run[f"{stream}_truncated"]


@pytest.mark.parametrize("after", ["", "time.sleep(60)", "while True: pass"], ids=["ends", "sleeps", "goes on"])
async def test_one_large_file_ends_as_file_size(own_box: Any, after: str) -> None:
    program = f"import time\ntry: open('x', 'wb').write(b'x' * (2 << 20))\nexcept OSError as e: print(e)\n{after}"
    run = await own_box.run(program, file_bytes=1 << 20)
    assert run["reason"] == "file_size"
    assert run["usage"]["peak_scratch_bytes"] < 2 << 20


async def test_a_file_may_be_as_large_as_its_limit(own_box: Any) -> None:
    assert await own_box.says("print(open('x', 'wb').write(b'x' * (1 << 20)))", file_bytes=1 << 20) == "1048576\n"


async def test_a_shells_large_file_ends_as_file_size(shared_runner: LandlockRunner) -> None:
    profile = replace(SHIPPED, limits=replace(SHIPPED.limits, file_bytes=1 << 16))
    run = await shared_runner.run(Job("1", "head -c 1000000 /dev/zero > x; echo $?", profile, Language.SHELL))
    assert run.reason is Reason.FILE_SIZE


@pytest.mark.parametrize("after", ["pass", "time.sleep(60)"])
async def test_too_many_open_files_end_as_open_files(own_box: Any, after: str) -> None:
    program = f"import time\nheld = []\ntry:\n  while True: held.append(open('/dev/null'))\nfinally: {after}"
    assert (await own_box.run(program, open_files=20))["reason"] == "open_files"


async def test_as_many_files_as_the_limit_may_be_open(own_box: Any) -> None:
    program = "import time\nheld = [open('/dev/null') for _ in range(20 - 4)]\ntime.sleep(0.2)\nprint(len(held))"
    assert await own_box.says(program, open_files=20) == "16\n"


async def test_a_burst_that_is_over_before_anybody_looks_ends_as_disk_all_the_same(own_box: Any) -> None:
    program = "for n in range(10): open(f'{n}', 'wb').write(b'x' * 500_000)"
    assert (await own_box.run(program, scratch_bytes=4 << 20))["reason"] == "disk"


async def test_many_files_end_as_disk(own_box: Any) -> None:
    program = "n = 0\nwhile True:\n  open(f'{n}', 'wb').write(b'x' * 500_000); n += 1"
    assert (await own_box.run(program, scratch_bytes=4 << 20, cpu_seconds=5))["reason"] == "disk"


async def test_deleted_files_that_stay_open_count(own_box: Any) -> None:
    program = """
import os, time
held = []
for n in range(20):
    held.append(open('x', 'wb')); held[-1].write(b'x' * 1_000_000); held[-1].flush(); os.unlink('x')
time.sleep(60)
"""
    assert (await own_box.run(program, scratch_bytes=4 << 20))["reason"] == "disk"


async def test_a_flood_of_tiny_files_ends_as_disk_and_is_cleared_away(drivers: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="bailiwick-base-", dir="/dev/shm") as folder:
        Path(folder).chmod(0o711)
        program = "import os\nn = 0\nwhile True:\n  os.mkdir(f'{n}'); n += 1"
        box = drivers.start(None, base=f"{folder}/base")
        run = await box.run(program, cpu_seconds=10, wall_seconds=20, scratch_bytes=1 << 30)
        assert run["reason"] == "disk"
        assert [path.name for path in (Path(folder) / "base").iterdir()] == ["outside"]


@pytest.mark.parametrize(
    "program",
    [
        "import os\nfor _ in range(3000):\n  os.mkdir('d' * 100); os.chdir('d' * 100)",
        "import os\nos.umask(0)\nos.mkdir('locked', 0)\nos.mkdir('half', 0o700); open('half/file', 'w').close()",
        "import os\nos.symlink('/', 'root'); os.symlink('..', 'up'); open('-rf', 'w').close()",
        "import os\nos.unlink('main.py')",
        "import os\nopen(b'\\xff\\xfe\\n', 'w').close()",
    ],
    ids=["deep", "locked", "links", "empty", "not-utf-8"],
)
async def test_whatever_a_run_leaves_in_its_folder_is_gone(box: Any, program: str) -> None:
    run = await box.run("import os\nprint(os.getcwd(), flush=True)\n" + program)
    assert run["reason"] in ("ok", "disk"), run
    if box.backend == "landlock":
        assert not Path(run["stdout"].strip()).exists()
    assert await box.says("import os\nprint(os.listdir())") == "['main.py']\n"


# -- staying behind ------------------------------------------------------------------------------------------------------------

DAEMON = """
import ctypes, os, signal, sys, time
near, far = os.pipe()
if not os.fork():
    os.setsid()
    if os.fork(): os._exit(0)
    for number in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(15, b"NAME", 0, 0, 0)
    os.write(far, str(os.getpid()).encode())
    os.closerange(0, 64)
    time.sleep(600)
print(os.read(near, 20).decode(), flush=True)
"""


@pytest.mark.parametrize(
    "end", ["", "1/0", "time.sleep(60)", "os.kill(os.getpid(), 9)"], ids=["ok", "error", "timeout", "killed"]
)
async def test_a_daemon_is_gone_when_its_run_has_ended(box: Any, end: str) -> None:
    name = secrets.token_hex(6)
    run = await box.run(DAEMON.replace("NAME", name) + end, wall_seconds=1)
    assert run["stdout"].strip().isdigit()
    assert run["reason"] in ("ok", "error", "timeout", "signal")
    assert named(name) == []


def named(name: str) -> list[int]:
    """Pids, here, of the processes with this name, whatever their pids are where they live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            if path.read_text(encoding="utf-8", errors="replace").strip() == name:
                found.append(int(path.parent.name))
    return found


async def test_a_daemon_does_not_keep_its_run_open(box: Any) -> None:
    run = await box.run("import os, time\nif not os.fork(): time.sleep(600)\nprint('done')", wall_seconds=30)
    assert (run["reason"], run["stdout"]) == ("ok", "done\n")
    assert run["usage"]["wall_ms"] < 30_000


@pytest.mark.parametrize("backend", ["landlock", "bwrap"])
async def test_everything_is_gone_when_the_gateway_is_killed(drivers: Any, boxes: Any, backend: str) -> None:
    boxes("own", backend)  # skips where there is no such backend
    with tempfile.TemporaryDirectory(prefix="bailiwick-base-", dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        gateway = drivers.start(None, base=f"{folder}/base", backend=backend)
        name = secrets.token_hex(6)
        program = DAEMON.replace("NAME", name) + "time.sleep(600)"
        asking = asyncio.create_task(gateway.run(program, wall_seconds=600))
        pids = await _pids_beneath(name, gateway.process.pid)
        gateway.process.kill()
        await asyncio.to_thread(gateway.process.wait)
        with pytest.raises(json.JSONDecodeError):  # its answer never comes
            await asking
        await _gone(pids)
        again = drivers.start(None, base=f"{folder}/base", backend=backend)
        assert await again.says("print('again')") == "again\n"
        assert [path.name for path in (Path(folder) / "base").iterdir()] == ["outside"]


async def _pids_beneath(name: str, gateway: int) -> list[int]:
    """Pids of a gateway's descendants, once the code's daemon has its name."""
    while not named(name):
        await asyncio.sleep(0.01)
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(stat.read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()[1]), []).append(
                int(stat.parent.name)
            )
        except OSError:
            continue
    found, queue = [], [gateway]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    assert len(found) >= 3, "the warden, the code and its daemon"
    return found


async def _gone(pids: list[int]) -> None:
    """Wait (bounded by the test's own timeout) until none of the processes is there."""
    while any(Path(f"/proc/{pid}").exists() and "Z" not in _state(pid) for pid in pids):
        await asyncio.sleep(0.01)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"
