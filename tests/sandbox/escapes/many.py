"""A thousand runs, or a few, of every kind of end; and a gateway that goes on running them until somebody kills it.

`python many.py '{"base": …, "backend": …}'` prints a line when it is ready, and never ends by itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sandbox import scratch
from sandbox.engine import CagedRunner
from sandbox.model import Job, Limits, Profile
from tests.sandbox.escapes import backends, leftovers

_LIMITS = Limits(
    cpu_seconds=2, wall_seconds=4, memory_bytes=96 << 20, processes=12, file_bytes=1 << 20, scratch_bytes=2 << 20,
    output_bytes=1 << 14, open_files=32,
)  # fmt: skip
_DAEMON = "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork(): time.sleep(600)\n    os._exit(0)\n"
_KINDS = {
    "ok": "print('x')",
    "error": "raise SystemExit(3)",
    "signal": "import os; os.kill(os.getpid(), 11)",
    "files": "import os\nfor n in range(40): open(f'f{n}', 'w').write('x' * 99)\n"
    "os.makedirs('a/b/c'); os.symlink('/', 'a/root'); os.mkdir('shut', 0)",
    "daemon": _DAEMON + "os.wait()",
    "daemons": _DAEMON * 3 + "os.kill(os.getpid(), 9)",
    "output": "import os\nwhile True: os.write(1, b'x' * 999)",
    "pids": "import os, time\nfor _ in range(40):\n    if not os.fork(): time.sleep(600)",
    "disk": "n = 0\nwhile True:\n    open(f'{n}', 'wb').write(b'x' * 400_000); n += 1",
    "hang": _DAEMON + "time.sleep(600)",
}
_CANCELLED = ("hang", "ok", "daemon", "output")


async def many(runner: CagedRunner, base: Path, count: int, seed: int) -> dict[str, Any]:
    """So many runs, four at a time, some of them cancelled; how they ended, and what of them is left."""
    chance, ends = random.Random(seed), {}
    before = leftovers.Snapshot(base)
    for _ in range(0, count, 4):
        for end in await asyncio.gather(*(one(runner, chance) for _ in range(4))):
            ends[end] = ends.get(end, 0) + 1
    return {"ends": ends, "left": before.since()}


async def one(runner: CagedRunner, chance: random.Random) -> str:
    """One run of some kind, cancelled at some moment if it is of a kind that waits; the reason."""
    kind = chance.choice(list(_KINDS))
    task = asyncio.create_task(runner.run(Job(kind, _KINDS[kind], Profile(kind, _LIMITS))))
    if kind == "hang" or (kind in _CANCELLED and chance.random() < 0.3):
        await asyncio.wait({task}, timeout=chance.uniform(0, 0.2))
        task.cancel()
    with suppress(asyncio.CancelledError):
        run = await task
        return f"{run.reason} {run.detail}".strip()
    return "cancelled"


async def cancelled_at_every_moment(runner: CagedRunner, base: Path, count: int) -> list[str]:
    """So many runs, each cancelled a little later than the one before, the last when they have ended; what is left of them."""
    before, loop = leftovers.Snapshot(base), asyncio.get_running_loop()
    job = Job("short", _DAEMON + "print('x')", Profile("short", _LIMITS))
    began = loop.time()
    await runner.run(job)
    takes, left = loop.time() - began, []
    for n in range(count):
        task = asyncio.create_task(runner.run(job))
        await asyncio.wait({task}, timeout=takes * 1.2 * n / count)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        for _ in range(3):
            await asyncio.sleep(0)  # a transport that was closed lets go of its socket at the loop's next turns
        left += before.since()  # and not later: whoever is told that it was cancelled may rely on it
    return left


async def warden_killed(runner: CagedRunner, base: Path) -> list[str]:
    """A run whose warden is killed by somebody else, as the kernel does where memory has run out; what is left of it."""
    before = leftovers.Snapshot(base)
    code = _DAEMON * 3 + "open('here', 'w').close()\ntime.sleep(600)"
    task = asyncio.create_task(runner.run(Job("watched", code, Profile("watched", replace(_LIMITS, wall_seconds=60)))))
    while not (found := [pid for pid in leftovers.descendants(os.getpid()) if _begun(pid, base)]):
        if task.done():
            raise RuntimeError(f"it ended: {task.result().to_dict()}")
        await asyncio.sleep(0.01)
    os.kill(_parent(min(found)), signal.SIGKILL)
    run = await task
    return [*before.since(), *([] if run.reason == "sandbox_error" else [f"it ended with {run.reason}"])]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()[1])


def _begun(pid: int, base: Path) -> bool:
    """Whether this is the code's first process, and its daemons are there."""
    with suppress(OSError):
        here = Path(f"/proc/{pid}/cwd/here").exists() or any(base.glob("run-*/here"))
        above = Path(f"/proc/{_parent(pid)}/cmdline").read_bytes()
        return here and b"\0-c\0" in above and Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").endswith(b"main.py")
    return False


async def until_killed(options: dict[str, Any]) -> None:
    """Runs without end."""
    if options.get("uids"):
        scratch.UIDS = range(options["uids"], options["uids"] + 16)
    runner, chance = backends.make(options["backend"], Path(options["base"])), random.Random(options["seed"])
    await runner.probe()
    print("ready", flush=True)
    while True:
        await asyncio.gather(*(one(runner, chance) for _ in range(3)))


if __name__ == "__main__":
    asyncio.run(until_killed(json.loads(sys.argv[1])))
