"""Cages that wait: used once, looked at again, and gone with their runner."""

# ruff: noqa: ASYNC110, ASYNC240  looking at /proc and at folders in between is what these tests are about
from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.bwrap import BwrapRunner
from sandbox.engine import CagedRunner
from sandbox.landlock import LandlockRunner
from sandbox.model import Guarantee, IsolationUnprovenError, Job, Language, Reason, Strength
from sandbox.profiles import load_profiles
from tests.sandbox.conftest import Box

PROFILE = load_profiles()["no-network-512mb"]
HERE = "import os; print(os.getuid(), os.getcwd(), os.listdir(), os.getpid()); open('left', 'w').close()"


@pytest.fixture(params=["landlock", "bwrap"])
async def warm(request: pytest.FixtureRequest, boxes: Callable[[str, str], Box]) -> AsyncIterator[tuple[CagedRunner, Path]]:
    boxes("own", request.param)  # skips where there is none
    base = Path("/tmp") / f"bailiwick-test-{os.urandom(6).hex()}"
    kind = BwrapRunner if request.param == "bwrap" else LandlockRunner
    runner: CagedRunner = kind(base=base, warm=2)
    yield runner, base
    await runner.aclose()
    assert [path.name for path in base.iterdir()] == ["outside"]
    (base / "outside").unlink()
    base.rmdir()


def waiting(base: Path) -> list[Path]:
    return sorted(base.glob("run-*"))


async def ran(runner: CagedRunner, code: str = HERE, **given: Any) -> str:
    run = await runner.run(Job("1", code, given.pop("profile", PROFILE), **given))
    assert run.reason is Reason.OK, run
    assert all(run.guarantees[name] >= strength for name, strength in PROFILE.requires.items())
    return run.stdout.decode()


async def test_after_a_run_cages_wait_and_the_next_run_has_one_of_them(warm: tuple[CagedRunner, Path]) -> None:
    runner, base = warm
    await ran(runner)
    await runner.warmed()
    before = waiting(base)
    assert len(before) == 2
    said = await ran(runner)
    await runner.warmed()
    after = waiting(base)
    assert len(after) == 2
    assert len(set(before) & set(after)) == 1  # one was used, and another one made
    if runner.name == "landlock":
        assert any(str(path) in said for path in before)


async def test_a_cage_is_used_once(warm: tuple[CagedRunner, Path]) -> None:
    runner, _ = warm
    for _ in range(4):
        assert "['main.py']" in await ran(runner)
        await runner.warmed()


async def test_a_cage_that_died_while_it_waited_is_not_used(warm: tuple[CagedRunner, Path]) -> None:
    runner, base = warm
    await ran(runner)
    await runner.warmed()
    processes = [pid for pid in beneath(os.getpid()) if b"marshal" in command(pid)]
    assert len(processes) >= 4
    for pid in processes:
        with suppress(ProcessLookupError):  # gone with its namespace
            os.kill(pid, signal.SIGKILL)
    assert "['main.py']" in await ran(runner)
    await runner.warmed()
    assert len(waiting(base)) == 2


def beneath(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, queue = [], [root]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def test_a_cage_waits_for_its_own_limits_and_language_alone(warm: tuple[CagedRunner, Path]) -> None:
    runner, base = warm
    await ran(runner)
    await runner.warmed()
    small = replace(PROFILE, limits=replace(PROFILE.limits, memory_bytes=64 << 20))
    limit = "import resource; print(resource.getrlimit(resource.RLIMIT_DATA)[0] >> 20)"
    assert await ran(runner, limit, profile=small) == "192\n"
    assert await ran(runner, limit) == "640\n"
    assert await ran(runner, "echo $((6 * 7))", language=Language.SHELL) == "42\n"
    await runner.warmed()
    assert 2 <= len(waiting(base)) <= 8


async def test_a_new_probe_puts_the_waiting_cages_away(warm: tuple[CagedRunner, Path]) -> None:
    runner, _ = warm
    await ran(runner)
    await runner.warmed()
    wardens = [pid for pid in beneath(os.getpid()) if b"marshal" in command(pid)]
    runner.forget()
    await ran(runner)
    await runner.warmed()
    assert not {pid for pid in wardens if b"marshal" in command(pid)}


async def test_a_profile_that_asks_for_more_does_not_get_a_waiting_cage_past_its_proof(warm: tuple[CagedRunner, Path]) -> None:
    runner, _ = warm
    await ran(runner)
    await runner.warmed()
    strict = replace(PROFILE, requires={Guarantee.OWN_KERNEL: Strength.HARD})
    with pytest.raises(IsolationUnprovenError, match="own_kernel"):
        await runner.run(Job("1", HERE, strict))


async def test_none_wait_where_memory_is_scarce(warm: tuple[CagedRunner, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.stock._SPARE_BYTES", 1 << 60)
    runner, base = warm
    await ran(runner)
    await runner.warmed()
    assert waiting(base) == []


async def test_cages_that_wait_are_gone_when_the_gateway_is_killed(drivers: Any) -> None:
    base = Path("/tmp") / f"bailiwick-test-{os.urandom(6).hex()}"
    gateway = drivers.start(None, base=str(base), warm=2)
    assert await gateway.says("print(1)") == "1\n"
    while len(waiting(base)) < 2 or len([pid for pid in beneath(gateway.process.pid) if b"marshal" in command(pid)]) < 4:
        await asyncio.sleep(0.01)
    pids = beneath(gateway.process.pid)
    gateway.process.kill()
    await asyncio.to_thread(gateway.process.wait)
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        await asyncio.sleep(0.01)
    again = drivers.start(None, base=str(base))
    assert await again.says("print(2)") == "2\n"
    assert [path.name for path in base.iterdir()] == ["outside"]
    (base / "outside").unlink()
    base.rmdir()
