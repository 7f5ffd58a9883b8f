"""Control groups where a part of the hierarchy is ours.  What of it cannot be had here is skipped, and says so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from sandbox.bwrap import BwrapRunner
from sandbox.cgroup import Bounds, Group, Groups
from sandbox.engine import CagedRunner
from sandbox.landlock import LandlockRunner
from sandbox.model import Guarantee, Job, Limits, Profile, Reason, Strength
from sandbox.result import Run

KILL = Guarantee.KILL_TREE
LIMITS = Limits(1, 10, 64 << 20, 4, 1 << 20, 1 << 20, 1 << 16, 64)
SLEEPER = "import os, time\nfor _ in range(3):\n  if not os.fork(): os.setsid(); break\nos.write(1, b'up\\n')\ntime.sleep(600)"


@pytest.fixture
def groups() -> Groups:
    found = Groups.find()
    if found is None:
        pytest.skip("no part of a cgroup v2 hierarchy is OURS here")
    return found


@pytest.fixture
def group(groups: Groups) -> Iterator[Group]:
    made = groups.make(LIMITS)
    yield made
    made.close()


def sleeper() -> subprocess.Popen[bytes]:
    source = "import sys; sys.stdin.read(1)\n" + SLEEPER
    return subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_group_takes_a_process_and_all_that_it_starts_and_ends_them_in_one_stroke(group: Group) -> None:
    process = sleeper()
    assert process.stdin is not None
    assert process.stdout is not None
    group.take(process.pid)
    process.stdin.write(b"x")
    process.stdin.close()
    for _ in range(4):
        assert process.stdout.readline() == b"up\n"
    assert len((group.folder / "cgroup.procs").read_text().split()) == 4
    assert group.close()
    assert process.wait(10) == -9
    assert process.stdout.read() == b"", "the last of them has gone too"
    assert not group.folder.exists()
    process.stdout.close()


def test_what_a_gateway_that_died_has_left_is_ended_and_removed(groups: Groups) -> None:
    program = (
        "import subprocess, sys, time\nfrom sandbox.cgroup import Groups\ngroup = Groups.find().make(None)\n"
        "child = subprocess.Popen(['/bin/sleep', '600'])\ngroup.take(child.pid)\nprint(group.folder, child.pid, flush=True)\n"
        "time.sleep(600)"
    )
    gateway = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert gateway.stdout is not None
    folder, _ = gateway.stdout.readline().split()
    group = Group(groups.folder / folder.rpartition("/")[2])
    groups.sweep()
    assert group.folder.exists(), "while its gateway lives it stays"
    gateway.kill()
    gateway.wait()
    gateway.stdout.close()
    groups.sweep()
    assert not group.folder.exists()


def test_a_group_without_processes_is_removed_at_once(group: Group) -> None:
    assert group.close()
    assert group.close(), "and once more is no error"


@pytest.mark.parametrize("guarantee", [Guarantee.MEMORY, Guarantee.PIDS, Guarantee.CPU])
def test_a_bound_is_believed_where_it_held_when_it_was_run_into(groups: Groups, guarantee: Guarantee) -> None:
    controller = {Guarantee.MEMORY: "memory", Guarantee.PIDS: "pids", Guarantee.CPU: "cpu"}[guarantee]
    proven = groups.prove(sys.executable, [guarantee])
    if controller not in groups.controllers:
        assert guarantee not in proven
        pytest.skip(f"the controller {controller} is NOT TO BE HAD in this hierarchy")
    assert guarantee in proven


@pytest.fixture(params=["landlock", "bwrap"])
async def hard(request: pytest.FixtureRequest, boxes: Any, groups: Groups) -> AsyncIterator[CagedRunner]:
    """A runner that proves hard bounds by control groups."""
    boxes("own", request.param)  # skips where there is no such backend
    runner = BwrapRunner() if request.param == "bwrap" else LandlockRunner()
    yield runner
    await runner.aclose()
    assert list(groups.folder.glob(f"run-{os.getpid()}-*")) == [], "another worker's are its own"


async def run_under(runner: CagedRunner, guarantee: Guarantee, code: str) -> Run:
    report = await runner.probe()
    if report.guarantees[guarantee] < Strength.HARD:
        pytest.skip(f"{guarantee} is NOT HARD here: {report.findings[guarantee].help}")
    limits = LIMITS if guarantee is Guarantee.CPU else replace(LIMITS, cpu_seconds=10)
    run = await runner.run(Job("1", code, Profile("hard", limits, requires={guarantee: Strength.HARD})))
    assert run.guarantees[guarantee] is Strength.HARD
    return run


async def test_memory_of_all_processes_together_is_bounded_by_the_kernel(hard: CagedRunner) -> None:
    program = "import os\nfor _ in range(3):\n  if not os.fork(): break\nx = bytearray(b'x' * (40 << 20))\nos.wait()"
    assert (await run_under(hard, Guarantee.MEMORY, program)).reason is Reason.OOM


async def test_processes_are_bounded_by_the_kernel(hard: CagedRunner) -> None:
    program = "import os, time\nfor _ in range(50):\n  try: os.fork() or time.sleep(60)\n  except OSError: break\ntime.sleep(60)"
    assert (await run_under(hard, Guarantee.PIDS, program)).reason is Reason.PIDS


async def test_processor_time_is_bounded_by_its_rate_where_a_profile_asks_for_it(hard: CagedRunner) -> None:
    program = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    run = await run_under(hard, Guarantee.CPU, program)
    assert run.reason in (Reason.CPU, Reason.TIMEOUT, Reason.PIDS)
    lax = await hard.run(Job("1", "pass", Profile("lax", LIMITS)))
    assert lax.guarantees[Guarantee.CPU] is Strength.SOFT, "it is not held back where nobody asked"


def test_a_daemon_is_seen_to_end_with_its_group(groups: Groups) -> None:
    assert Guarantee.KILL_TREE in groups.prove(sys.executable, [Guarantee.KILL_TREE])


def test_bounds_are_found_only_for_what_a_cage_does_not_prove_by_itself(groups: Groups) -> None:
    hard, soft = dict.fromkeys(Guarantee, Strength.HARD), {**dict.fromkeys(Guarantee, Strength.HARD), KILL: Strength.SOFT}
    assert Bounds.found(sys.executable, hard) is None
    bounds = Bounds.found(sys.executable, soft)
    assert bounds is not None
    assert set(bounds.proven) == {KILL}
    assert bounds.without(hard) == soft
    process = sleeper()
    group, proven = bounds.applied(soft, LIMITS, process.pid, files=0, throttle=False)
    assert proven == hard
    assert group.close()
    assert process.wait(10) == -9
    process.communicate()
    absent = dict.fromkeys(Guarantee, Strength.ABSENT)
    process = sleeper()
    group, proven = bounds.applied(absent, LIMITS, process.pid, files=0, throttle=False)
    assert proven == absent, "a cage that is not confirmed gains nothing by its group"
    assert group.close()
    process.communicate()


async def test_a_groups_bounds_are_not_claimed_where_no_group_can_be_made(hard: CagedRunner, groups: Groups) -> None:
    if (await hard.probe()).guarantees[Guarantee.MEMORY] < Strength.HARD:
        pytest.skip("memory is NOT HARD here")
    bounds = hard._cages.bounds
    assert bounds is not None
    hard._cages.bounds = replace(bounds, groups=replace(groups, folder=groups.folder / "gone"))
    run = await hard.run(Job("1", "print('ran')", Profile("hard", LIMITS, requires={Guarantee.MEMORY: Strength.HARD})))
    assert (run.reason, run.stdout) == (Reason.SANDBOX_ERROR, b"")
