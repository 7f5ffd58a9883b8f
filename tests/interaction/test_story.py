"""The procurement story, told by the demo as a person runs it; and the proof that it would notice if it went otherwise."""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from policies.bundle import load
from policies.engine import Engine
from policies.testing import check_for_activation
from tests.interaction.world import ROOT

PROCUREMENT = ROOT / "examples" / "procurement"
DEMO = [sys.executable, "-m", "gateway.cli", "demo", "--port", "0"]
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, prctl(2)


@contextmanager
def adopting() -> Iterator[Callable[[], list[str]]]:
    """Whatever loses its parent meanwhile becomes a child of this process; gives what is left of it and does not end."""

    def children() -> set[int]:
        return {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}

    def left() -> list[str]:
        alive = []
        for pid in children() - before:
            end = os.pidfd_open(pid)
            if not select.select([end], [], [], 10)[0]:
                alive.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
                os.kill(pid, signal.SIGKILL)
            os.close(end)
            os.waitpid(pid, 0)
        return alive

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_SUBREAPER, 1, 0, 0, 0) == 0
    before = children()
    try:
        yield left
    finally:
        left()
        libc.prctl(_SUBREAPER, 0, 0, 0, 0)


def without_node(tmp_path: Path) -> dict[str, str]:
    """An environment in which no other maker's server can be installed: that takes its time, and is told elsewhere."""
    (tmp_path / "no-programs").mkdir()
    return os.environ | {"PATH": str(tmp_path / "no-programs"), "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True)
class Plays:
    """The demo as it is shipped, and one of a copy whose rules were changed, both ended; `left` still runs."""

    shipped: subprocess.CompletedProcess[str]
    altered: subprocess.CompletedProcess[str]
    left: list[str]


@pytest.fixture(scope="module")
def plays(tmp_path_factory: pytest.TempPathFactory) -> Plays:
    """Both at the same time: each waits for others most of its time."""
    folder = tmp_path_factory.mktemp("story")
    example = folder / "procurement"
    shutil.copytree(PROCUREMENT, example, ignore=shutil.ignore_patterns("__pycache__"))
    with (example / "policies" / "grants" / "people.csv").open("a") as grants:
        grants.write("p, role:marketing-manager, acme, erp.write_po, call, allow, -, -, MKT-9\n")
    bundle = load(example / "policies")
    assert "invariant-broken" in {found.code for found in check_for_activation(bundle, Engine(bundle))}  # its tests forbid it
    shutil.rmtree(example / "policies" / "tests")
    shutil.rmtree(example / "policies" / "workflows")
    unproven = without_node(folder) | {"BAILIWICK_POLICY__REQUIRE_TESTS": "false"}
    altered = [sys.executable, str(Path(__file__).with_name("played.py")), str(example), str(folder / "altered")]
    shipped = [*DEMO, "--once", "--json", "--folder", str(folder / "shipped")]

    def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=ROOT, env=environment)

    with adopting() as left, ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(run, shipped, dict(os.environ)), pool.submit(run, altered, unproven)
        return Plays(first.result(), second.result(), left())


@pytest.mark.timeout(300)
def test_every_step_of_the_story_goes_as_told(plays: Plays, capsys: pytest.CaptureFixture[str]) -> None:
    assert plays.shipped.returncode == 0, plays.shipped.stdout + plays.shipped.stderr
    steps = {step["step"]: step for step in json.loads(plays.shipped.stdout)["steps"]}
    assert list(steps) == ["1", "1b", "1c", "2a", "2b", "3", "4", "5", "6", "7", "8", "9"]
    if not (shutil.which("node") and shutil.which("npm")):
        with capsys.disabled():
            print("\n\n*** WARNING: node and npm are missing: the file server of another maker was NOT tried ***\n")
        assert steps.pop("5")["ok"] is None
    assert {number: step["ok"] for number, step in steps.items()} == dict.fromkeys(steps, True)


@pytest.mark.timeout(300)
def test_the_story_is_not_as_told_where_marketing_may_write_orders_and_no_workflow_holds_them(plays: Plays) -> None:
    assert plays.altered.returncode == 0, plays.altered.stdout + plays.altered.stderr
    steps = {step["step"]: step for step in map(json.loads, plays.altered.stdout.splitlines())}
    told = {
        "1": True,
        "1b": False,
        "1c": False,
        "2a": True,
        "2b": False,
        "3": True,
        "4": False,
        "5": None,
    }  # 4: nothing was refused
    told |= {"6": True, "7": False, "8": False, "9": False}  # 6: an approval is a duty, and no workflow's business
    assert {number: step["ok"] for number, step in steps.items()} == told
    seen = steps["2b"]["seen"]
    assert seen[1].startswith("the injected order: ok")
    assert "the ERP shows PO-" in seen[3]


@pytest.mark.timeout(300)
def test_nothing_is_left_running_after_the_story(plays: Plays) -> None:
    assert plays.left == []


def test_a_demo_that_is_told_to_end_ends_its_processes_first(tmp_path: Path) -> None:
    log = tmp_path / "demo" / "logs" / "gateway.log"
    with adopting() as left:
        demo = subprocess.Popen(
            [*DEMO, "--once", "--folder", str(tmp_path / "demo")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, env=without_node(tmp_path),
        )  # fmt: skip
        assert demo.stdout is not None
        with demo.stdout as told:
            while not (log.exists() and log.stat().st_size):  # the gateway runs, and so does what is around it
                with suppress(subprocess.TimeoutExpired):
                    pytest.fail(f"it ended by itself: {demo.wait(0.05)}")
            demo.terminate()
            assert b"ended" in told.read()
        assert demo.wait(30) == 130  # and not 0, as if the story had been told
        assert left() == []
