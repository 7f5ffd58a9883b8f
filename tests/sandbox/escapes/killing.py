"""Kills a gateway in the midst of its runs, at a moment that chance picks, and looks at what is left."""

from __future__ import annotations

import os
import random
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tests.sandbox.escapes.leftovers import descendants
from tests.sandbox.escapes.suite import Suite

_SECONDS = 10.0


def kill_at_a_moment(suite: Suite, base: Path, environment: str, backend: str, seed: int) -> list[str]:
    """What is still there when the gateway has been killed, a line each; then a next gateway comes and goes."""
    uids = 62_300 + os.getpid() % 50 * 16
    options = {"base": str(base), "backend": backend, "seed": seed, "uids": uids}
    command, started = suite.command(environment, "many", options)
    gateway = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **started)
    try:
        assert gateway.stdout is not None
        assert gateway.stdout.readline() == b"ready\n"
        with suppress(subprocess.TimeoutExpired):  # not to wait for something, but to be somewhere in the midst of it
            gateway.wait(random.Random(seed).uniform(0.02, 0.6))
        family = descendants(gateway.pid)
    finally:
        gateway.kill()
        gateway.wait()
        assert gateway.stdout is not None
        gateway.stdout.close()
    left = _still_there(family, uids, started.get("user"))
    suite.campaign(environment, backend, attempts=False, base=str(base), uids=uids)
    return left


def _still_there(family: list[int], uids: int, user: int | None) -> list[str]:
    """Processes of the family and of the runs' uids, once they have had a moment to be collected."""
    mine = {*range(uids, uids + 16), *({user} if user else ())}
    end = time.monotonic() + _SECONDS
    while True:
        left = [line for entry in Path("/proc").iterdir() if (line := _living(entry, family, mine))]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.01)


def _living(entry: Path, family: list[int], uids: set[int]) -> str:
    with suppress(OSError, IndexError):
        if entry.name.isdigit() and (int(entry.name) in family or entry.stat().st_uid in uids):
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
            if fields[0] != "Z":
                return f"{entry.name} {(entry / 'comm').read_text(encoding='utf-8', errors='replace').strip()}"
    return ""
