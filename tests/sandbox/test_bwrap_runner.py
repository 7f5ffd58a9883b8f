"""What the cage with namespaces promises beyond the other one; and that a bubblewrap which builds less is found out."""

# ruff: noqa: ASYNC240  looking at /proc and at files in between is what these tests are about
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.backend import NotHereError
from sandbox.bwrap import PROGRAM, BwrapRunner, trusted
from sandbox.interpreter import choose
from sandbox.model import Guarantee, IsolationUnprovenError, Job, Profile, Reason, Strength
from sandbox.namespaces import looking_as
from sandbox.profiles import load_profiles
from sandbox.runner import best

SHIPPED = load_profiles()["no-network-512mb"]
QUICK = replace(SHIPPED, limits=replace(SHIPPED.limits, wall_seconds=10, scratch_bytes=8 << 20))


@pytest.fixture
async def bwrap(boxes: Any) -> AsyncIterator[BwrapRunner]:
    boxes("own", "bwrap")  # skips where there is none
    runner = BwrapRunner()
    yield runner
    await runner.aclose()


@pytest.fixture
def folder_of_root() -> Iterator[Path]:
    """A folder that is root's alone, so that a program in it may be trusted."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be trusted")
    with tempfile.TemporaryDirectory(prefix="bailiwick-test-", dir="/opt") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


# -- what it promises ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["own", "plain"])
@pytest.mark.parametrize("backend", ["bwrap", "landlock"])
async def test_both_cages_are_ready_as_root_and_as_a_plain_user(boxes: Any, who: str, backend: str) -> None:
    box = boxes(who, backend)
    run = await box.run("print(6 * 7)")
    assert (run["reason"], run["stdout"]) == ("ok", "42\n")
    proven = {Guarantee(name): Strength[word.upper()] for name, word in run["guarantees"].items()}
    assert all(proven[name] >= wanted for name, wanted in SHIPPED.requires.items())


async def test_the_strongest_cage_is_taken_first(bwrap: BwrapRunner) -> None:
    disk = Profile("disk", QUICK.limits, requires={Guarantee.DISK: Strength.HARD})
    runner = await best(disk)
    assert runner.name == "bwrap"
    await runner.aclose()


async def test_disk_and_processes_are_bounded_by_the_kernel(bwrap: BwrapRunner) -> None:
    report = await bwrap.probe()
    hard = {name for name, strength in report.guarantees.items() if strength is Strength.HARD}
    assert {Guarantee.DISK, Guarantee.PIDS, Guarantee.KILL_TREE, Guarantee.PROCESS_ISOLATION} <= hard
    program = """
import os
written = 0
try:
    for place in (".", "/tmp", "/dev/shm"):
        with open(place + "/full", "wb") as file:
            try:
                while True: written += file.write(b"x" * 65536); file.flush()
            except OSError as error: print(error.errno, end=" ")
finally:
    print(written)
    os._exit(0)
"""
    run = await bwrap.run(Job("1", program, replace(QUICK, limits=replace(QUICK.limits, file_bytes=1 << 30))))
    assert run.reason is Reason.DISK
    full = run.stdout.split()
    assert full[:-1] in ([b"28"] * 3, [])  # ENOSPC, unless the watchdog was there first
    if full:
        assert int(full[-1]) <= 3 * (QUICK.limits.scratch_bytes + (1 << 20))


async def test_what_is_in_view_is_the_system_and_the_cages_own_and_nothing_else(bwrap: BwrapRunner) -> None:
    """By stat(), which Landlock does not mediate: it is the mounts that hide the rest."""
    program = """
import os
for path in ("/etc/passwd", "/root", "/home", "/var", "/sys", "/boot", "/dev/kmsg", "/dev/pts", "/run", "/work/main.py", "/usr"):
    try: os.stat(path); print(path, end=" ")
    except FileNotFoundError: pass
"""
    run = await bwrap.run(Job("1", program, QUICK))
    assert run.stdout == b"/work/main.py /usr "


async def test_temporary_and_shared_files_are_the_cages_own(bwrap: BwrapRunner) -> None:
    program = (
        "import os\nopen('/tmp/x', 'w').close(); open('/dev/shm/x', 'w').close(); print(os.listdir('/tmp'), os.listdir('.'))"
    )
    for _ in range(2):
        assert (await bwrap.run(Job("1", program, QUICK))).stdout == b"['x'] ['main.py']\n"


async def test_locks_among_processes_work(bwrap: BwrapRunner) -> None:
    """They live in /dev/shm."""
    run = await bwrap.run(Job("1", "import multiprocessing\nwith multiprocessing.Lock(): print('held')", QUICK))
    assert run.stdout == b"held\n"


async def test_a_run_says_what_its_cage_was_made_of(bwrap: BwrapRunner) -> None:
    layers = (await bwrap.run(Job("1", "pass", QUICK))).layers
    assert layers["bwrap"].startswith("bubblewrap 0.")
    assert len(layers["bwrap"].rpartition("sha256:")[2]) == 64
    assert layers["mounts"].partition(", ")[2].startswith("sha256:")
    assert layers["cve-2026-87766"].endswith("a planted link reached nothing")


async def test_the_launchers_environment_is_not_the_first_processs(bwrap: BwrapRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor bubblewrap's own, which outlives the making of the cage."""
    monkeypatch.setenv("GATEWAY_SECRET", "canary")
    marker = "held-" + os.urandom(4).hex()
    program = f"import ctypes, time\nctypes.CDLL(None).prctl(15, b'{marker}', 0, 0, 0)\nprint('up', flush=True)\ntime.sleep(1)"
    import asyncio

    asking = asyncio.create_task(bwrap.run(Job("1", program, QUICK)))
    line: list[int] = []
    while not line:
        await asyncio.sleep(0.01)
        line = _line_of(marker)
    environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in line]
    assert len(environments) >= 3, "the code, its warden and bubblewrap"
    assert not any(b"canary" in environment for environment in environments)
    await asking


def _line_of(name: str) -> list[int]:
    """The process with this name and those above it, up to this one."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() != name:
                continue
            found, pid = [], int(path.parent.name)
            while pid not in (os.getpid(), 0, 1):
                found.append(pid)
                pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        else:
            return found
    return []


# -- what it refuses -----------------------------------------------------------------------------------------------------------


async def refused(program: Path) -> str:
    """Why nothing is proven with this bubblewrap; nothing must run with it."""
    runner = BwrapRunner(program=program)
    try:
        report = await runner.probe()
        assert set(report.guarantees.values()) == {Strength.ABSENT}, report.guarantees
        with pytest.raises(IsolationUnprovenError):
            await runner.run(Job("1", "pass", SHIPPED))
    finally:
        await runner.aclose()
    return report.problem


async def test_without_bubblewrap_it_says_how_to_get_it(tmp_path: Path) -> None:
    assert "apt-get install bubblewrap" in await refused(Path("/usr/bin/no-bwrap-here"))


@pytest.mark.parametrize("flaw", ["writable", "writable folder", "somebody's", "setuid", "link"])
def test_a_bubblewrap_that_could_be_anybodys_is_not_started(folder_of_root: Path, flaw: str) -> None:
    program = folder_of_root / "bwrap"
    shutil.copy("/bin/true", program)
    program.chmod(0o755)
    trusted(program)
    if flaw == "writable":
        program.chmod(0o777)
    elif flaw == "writable folder":
        folder_of_root.chmod(0o777)
    elif flaw == "somebody's":
        os.chown(program, 65534, 65534)
    elif flaw == "setuid":
        program.chmod(0o4755)
    else:
        program.unlink()
        program.symlink_to("/bin/true")
    with pytest.raises(NotHereError):
        trusted(program)


CHEATS = {
    "no cage at all": "os.chdir('/'); os.execv(command[1], command[1:])",
    "the host's network": "options.remove('--unshare-net')",
    "the host's System V objects": "options.remove('--unshare-ipc')",
    "the host's name": "options.remove('--unshare-uts'); named = options.index('--hostname'); del options[named:named + 2]",
    "the host's processes": "options.remove('--unshare-pid'); options.remove('--as-pid-1')",
    "a writable root": "del options[at:at + 2]",
    "a writable system": "options[options.index('--ro-bind')] = '--bind'",
    "a folder of the host's": "options[at:at] = ['--ro-bind', '/etc', '/host']",
    "a writable folder of the host's": "options[at:at] = ['--bind', '/var/tmp', '/host']",
    "all devices": "options[at:at] = ['--dev-bind', '/dev', '/dev']",
    "scratch without an end": "options[options.index('/work') - 2] = str(1 << 30)",
    "another user inside": "options += ['--uid', '4711']",
}
FOUND = {  # by what; the others do not even start
    "the host's network": "built: namespaces, network",
    "the host's System V objects": "built: namespaces",
    "the host's name": "built: namespaces",
    "the host's processes": "built: pids, namespaces",
    "a writable root": "built: mounts",
    "a writable system": "built: mounts",
    "a folder of the host's": "built: mounts",
    "a writable folder of the host's": "built: mounts",
    "scratch without an end": "built: mounts",
    "another user inside": "built: users",
}
SCRIPT = """#!/usr/bin/python3 -I
import os, sys
arguments = sys.argv[1:]
if arguments != ["--version"]:
    end = arguments.index("--")
    options, command = arguments[:end], arguments[end:]
    at = options.index("--remount-ro")
    CHEAT
    arguments = options + command
os.execv("/usr/bin/bwrap", ["bwrap", *arguments])
"""


@pytest.mark.parametrize("cheat", ["", *CHEATS])
async def test_a_bubblewrap_that_builds_less_is_found_out(
    bwrap: BwrapRunner, folder_of_root: Path, caplog: Any, cheat: str
) -> None:
    program = folder_of_root / "bwrap"
    program.write_text(SCRIPT.replace("CHEAT", CHEATS.get(cheat, "pass")))
    program.chmod(0o755)
    if cheat:
        await refused(program)
        if cheat in FOUND:
            assert FOUND[cheat] in caplog.text
    else:  # the control: the same script with nothing taken away is believed
        runner = BwrapRunner(program=program)
        assert (await runner.probe()).problem == ""
        await runner.aclose()


async def test_a_bubblewrap_that_was_exchanged_is_probed_again(bwrap: BwrapRunner, folder_of_root: Path) -> None:
    program = folder_of_root / "bwrap"
    shutil.copy(PROGRAM, program)
    runner = BwrapRunner(program=program)
    before = await runner.probe()
    assert before.problem == ""
    assert (await runner.probe()).id == before.id
    with program.open("ab") as file:
        file.write(b"\0")
    after = await runner.probe()
    assert after.layers["bwrap"] != before.layers["bwrap"]
    program.unlink()
    assert "is not there" in (await runner.probe()).problem
    with pytest.raises(IsolationUnprovenError):
        await runner.run(Job("1", "pass", SHIPPED))
    await runner.aclose()


async def test_a_probe_that_is_to_be_forgotten_is_made_again(bwrap: BwrapRunner) -> None:
    before = await bwrap.probe()
    bwrap.forget()
    assert (await bwrap.probe()).at > before.at


SWITCHED_OFF = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
(near, far), (back, forth), outer = os.pipe(), os.pipe(), os.getpid()
if not os.fork():
    os.read(near, 1)
    for name in ("uid_map", "gid_map"):
        open(f"/proc/{outer}/{name}", "w").write("0 0 65536")
    os.write(forth, b"x")
    os._exit(0)
assert libc.unshare(0x10000000) == 0
os.write(far, b"x")
os.read(back, 1)
os.wait()
open("/proc/sys/user/max_user_namespaces", "w").write("0")
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
os.execv(sys.argv[1], sys.argv[1:])
"""


async def test_where_user_namespaces_are_switched_off_it_says_which_setting(boxes: Any, drivers: Any) -> None:
    """In a user namespace of all the machine's users, whose bound of further ones is 0, as a plain user."""
    boxes("plain", "bwrap")
    python = choose(65534).path
    box = drivers.start_through((python, "-c", SWITCHED_OFF, python), 65534, backend="bwrap")
    report = await box.ask({"probe": True})
    assert {finding["strength"] for finding in report["findings"].values()} <= {"absent"}
    assert "sysctl -w user.max_user_namespaces" in report["problem"]
    assert set(await box.run("print('ran')")) == {"refused"}


def test_looking_as_another_user_is_for_one_thread_and_ends() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can look as somebody else")
    before = rights_of("self")
    with ThreadPoolExecutor(1) as other:
        other.submit(os.geteuid).result()  # its thread is there before
        with looking_as(65534):
            status = Path("/proc/thread-self/status").read_text().splitlines()
            ids = [line.split()[1:] for line in status if line.startswith(("Uid", "Gid"))]
            assert ids == [["0", "65534", "0", "65534"]] * 2
            assert other.submit(os.geteuid).result() == 0
    assert (os.geteuid(), os.getegid()) == (0, 0)
    assert rights_of("thread-self") == before, "root's capabilities are there again"


def rights_of(who: str) -> list[str]:
    return [line for line in Path(f"/proc/{who}/status").read_text().splitlines() if line.startswith(("Cap", "Uid", "Gid"))]
