"""In a container as it comes there are no namespaces: what needs them says so, and what does not is ready."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox.bwrap import PROGRAM
from tests.sandbox import container

HERE = Path(__file__).parent
NOBODY = 65534
INSTALLED = PROGRAM.exists()
ROOT = Path(__file__).resolve().parents[2]


def in_container(uid: int, *command: str) -> subprocess.CompletedProcess[str]:
    if uid != os.geteuid() != 0:
        pytest.skip("only root can be somebody else in the container")
    launcher = [sys.executable, "-B", str(HERE / "container.py"), str(uid), *command]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(launcher, env=environment, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("uid", [0, NOBODY])
def test_the_container_is_what_docker_makes_of_it(uid: int) -> None:
    """The control of all tests that run in it: what it is to refuse it refuses, and it says who one is there."""
    status = in_container(uid, "/bin/cat", "/proc/self/status").stdout
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    assert (facts["Seccomp"], facts["NoNewPrivs"], facts["CapBnd"]) == ("2", "1", "00000000a80425fb")
    assert facts["CapEff"] == ("00000000a80425fb" if uid == 0 else "0" * 16)
    assert facts["Uid"].split() == [str(uid)] * 4
    for refused in (["--user"], ["--mount"], ["--net"], ["--pid", "--fork"]):
        told = in_container(uid, "/usr/bin/unshare", *refused, "/bin/true")
        assert (told.returncode, "Operation not permitted" in told.stderr) == (1, True)
    assert in_container(uid, "/bin/mount", "-t", "tmpfs", "none", "/mnt").returncode != 0
    assert "Read-only" in in_container(uid, "/bin/mkdir", "/sys/fs/cgroup/one").stderr


async def test_the_cage_without_namespaces_is_ready_in_a_container(contained_box: Any) -> None:
    report = await contained_box.ask({"probe": True})
    assert report["problem"] == ""
    strengths = {name: finding["strength"] for name, finding in report["findings"].items()}
    for name in ("fs_read", "fs_write", "net_none", "process_isolation", "syscall_surface"):
        assert strengths[name] == "hard", report["findings"][name]
    assert await contained_box.says("print(6 * 7)") == "42\n"


async def test_the_cage_with_namespaces_says_what_it_needs_and_runs_nothing(contained: Any) -> None:
    box = contained("bwrap")
    report = await box.ask({"probe": True})
    assert {finding["strength"] for finding in report["findings"].values()} <= {"absent"}
    if INSTALLED:
        assert "No permissions to create new namespace" in report["problem"]
        assert "deploy/seccomp/namespaces.json" in report["problem"]
    else:
        assert "apt-get install bubblewrap" in report["problem"]
    answer = await box.run("print('ran')")
    assert set(answer) == {"refused"}
    assert answer["refused"]["help"] == report["problem"]


PROFILE = ROOT / "deploy" / "seccomp" / "namespaces.json"


@pytest.mark.parametrize("backend", ["bwrap", "landlock"])
@pytest.mark.parametrize("uid", [0, NOBODY])
async def test_under_the_profile_that_is_shipped_both_cages_are_ready_in_a_container(
    drivers: Any, boxes: Any, uid: int, backend: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else in the container")
    boxes("plain", backend)  # skips where there is no such backend
    box = drivers.start_contained(uid, profile=PROFILE, backend=backend)
    assert (await box.ask({"probe": True}))["problem"] == ""
    assert await box.says("print(6 * 7)") == "42\n"


def test_the_profile_that_is_shipped_allows_what_bubblewrap_needs_and_little_that_docker_refuses() -> None:
    rules = json.loads(PROFILE.read_text())["syscalls"]
    allowed = {name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule for name in rule["names"]}
    assert set(container.REFUSED) & allowed == {"mount", "umount2", "pivot_root", "unshare", "sethostname"}
    assert {"ptrace", "process_vm_readv", "memfd_secret", "clone3", "socket", "socketcall"} & allowed == set()
    profile = f"{os.geteuid()}+{PROFILE}"
    program = """
import socket
for family, kind in ((38, 5), (40, 1), (1, 1), (2, 1)):
    try: socket.socket(family, kind).close(); print("made")
    except OSError as error: print(error.errno)
"""
    done = subprocess.run(
        [sys.executable, "-B", str(HERE / "container.py"), profile, sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["1", "1", "made", "made"]
