"""What the Landlock runner promises to those who use it."""

# ruff: noqa: ASYNC240  looking at /proc and at folders in between is what these tests are about
from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sandbox.landlock import LandlockRunner
from sandbox.model import CODE_BYTES, Guarantee, IsolationUnprovenError, Job, Profile, Reason, SandboxBusyError, Strength
from sandbox.profiles import load_profiles
from sandbox.result import Run
from sandbox.runner import Runner, best
from sandbox.scratch import Scratch

SHIPPED = load_profiles()["no-network-512mb"]
QUICK = replace(SHIPPED, limits=replace(SHIPPED.limits, wall_seconds=10, memory_bytes=192 << 20))
FOREVER = "import time\nopen('here', 'w').close()\ntime.sleep(600)"


def left_of(marker: str) -> list[str]:
    """Command lines of processes that run the marked code's interpreter in a scratch folder."""
    return [str(path) for path in Path("/proc").glob("[0-9]*/cwd") if marker in os.path.realpath(path)]


# -- ordinary code -------------------------------------------------------------------------------------------------------------


async def test_ordinary_code_runs_and_prints(box: Any) -> None:
    run = await box.run("import sys\nprint('out', 6 * 7)\nprint('err', file=sys.stderr)")
    assert (run["reason"], run["exit_code"], run["stdout"], run["stderr"]) == ("ok", 0, "out 42\n", "err\n")


async def test_an_exception_is_an_error_with_its_traceback(box: Any) -> None:
    run = await box.run("def f():\n    return 1 / 0\nf()")
    assert (run["reason"], run["exit_code"]) == ("error", 1)
    assert "return 1 / 0" in run["stderr"]
    assert run["stderr"].endswith("ZeroDivisionError: division by zero\n")


async def test_an_exit_code_is_reported_as_it_is(box: Any) -> None:
    assert (await box.run("raise SystemExit(7)"))["exit_code"] == 7


async def test_a_signal_to_oneself_is_reported_as_a_signal(box: Any) -> None:
    run = await box.run("import os; os.kill(os.getpid(), 15)")
    assert (run["reason"], run["signal"], run["exit_code"]) == ("signal", 15, None)


async def test_the_standard_library_works(box: Any) -> None:
    program = """
import asyncio, bz2, concurrent.futures, ctypes, dataclasses, datetime, decimal, hashlib, json, lzma, random, re, shutil
import sqlite3, ssl, statistics, subprocess, sys, tempfile, threading, unicodedata, uuid, zlib, zipfile
async def later():
    await asyncio.sleep(0)
    return 1
total = asyncio.run(later())
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    total += sum(pool.map(int, "1234"))
total += sqlite3.connect("data.db").execute("select 5").fetchone()[0]
total += int(subprocess.run([sys.executable, "-c", "print(6)"], capture_output=True, check=True).stdout)
with tempfile.TemporaryDirectory() as folder:
    shutil.copy2("main.py", folder)
    shutil.copytree(folder, "copied")
assert len(hashlib.sha256(b"x").digest()) == 32 and uuid.uuid4() and "é".encode().decode() == "é"
print(total, "é")
"""
    assert await box.says(program) == "22 é\n"


async def test_the_surroundings_are_always_the_same(box: Any) -> None:
    program = "import os, sys, time\nprint(hash('x'), os.environ['LANG'], time.tzname[0], os.getcwd() == os.environ['HOME'])"
    first, second = await box.says(program), await box.says(program)
    assert first == second
    assert first.endswith("C.UTF-8 UTC True\n")


async def test_standard_input_is_empty(box: Any) -> None:
    assert await box.says("import sys; print(repr(sys.stdin.read()))") == "''\n"


async def test_the_scratch_folder_is_fresh_and_gone_afterwards(box: Any) -> None:
    folder = await box.says("import os; open('left', 'w').close(); print(os.getcwd(), end='')")
    assert folder == "/work" if box.backend == "bwrap" else not Path(folder).exists()
    assert await box.says("import os; print(os.listdir())") == "['main.py']\n"


async def test_output_that_is_not_text_is_spelled_out(own_box: Any) -> None:
    assert (await own_box.says("import sys; sys.stdout.buffer.write(b'\\xff\\x00')")) == "\\xff\x00"


async def test_output_may_be_as_long_as_its_limit(own_box: Any) -> None:
    run = await own_box.run("print('x' * 9_999)", output_bytes=10_000)
    assert (run["reason"], len(run["stdout"]), run["stdout_truncated"]) == ("ok", 10_000, False)


async def test_a_run_says_what_it_used_and_what_it_rests_on(shared_runner: LandlockRunner) -> None:
    job = Job("named", "x = bytearray(b'x' * 30_000_000)", QUICK)
    run = await shared_runner.run(job)
    assert (run.id, run.reason, run.code_sha256) == ("named", Reason.OK, job.code_sha256)
    assert run.usage.peak_memory_bytes > 30_000_000
    assert all(run.guarantees[name] >= strength for name, strength in SHIPPED.requires.items())
    assert run.guarantees[Guarantee.OWN_KERNEL] is Strength.ABSENT
    assert run.layers["landlock"].startswith("abi ")
    assert len(run.layers["seccomp"]) == len("sha256:") + 64


async def test_each_run_of_root_has_a_uid_of_its_own_and_a_plain_users_has_its(box: Any) -> None:
    uid = int(await box.says("import os; print(os.getuid())"))
    if box.uid == 0:
        assert 60_900 <= uid <= 61_155
    else:
        assert uid == box.uid


# -- refusing ------------------------------------------------------------------------------------------------------------------


async def test_a_guarantee_that_is_not_proven_refuses_the_run_with_help(shared_runner: LandlockRunner) -> None:
    profile = Profile("strict", QUICK.limits, requires={Guarantee.OWN_KERNEL: Strength.HARD})
    with pytest.raises(IsolationUnprovenError) as refused:
        await shared_runner.run(Job("1", "open('ran', 'w')", profile))
    assert refused.value.missing == {Guarantee.OWN_KERNEL: (Strength.HARD, Strength.ABSENT)}
    assert "kernel" in refused.value.help
    assert refused.value.to_dict()["missing"] == {"own_kernel": {"wanted": "hard", "got": "absent"}}
    run = Run.refused(Job("1", "x", profile), refused.value)
    assert run.to_dict()["reason"] == "refused"


async def test_a_soft_guarantee_does_not_pass_for_a_hard_one(shared_runner: LandlockRunner) -> None:
    profile = Profile("strict", QUICK.limits, requires={Guarantee.MEMORY: Strength.HARD})
    with pytest.raises(IsolationUnprovenError):
        await shared_runner.run(Job("1", "pass", profile))


@pytest.mark.parametrize("interpreters", [(), ("/nonexistent/python",), ("/bin/true",), ("/etc/passwd",)])
async def test_without_an_interpreter_nothing_is_proven_and_nothing_runs(interpreters: tuple[str, ...]) -> None:
    runner = LandlockRunner(interpreters=interpreters)
    report = await runner.probe()
    assert set(report.guarantees.values()) == {Strength.ABSENT}
    assert "Python of 3.9 or later" in report.problem
    with pytest.raises(IsolationUnprovenError) as refused:
        await runner.run(Job("1", "pass", QUICK))
    assert "install one" in refused.value.help
    with pytest.raises(IsolationUnprovenError):  # not even where the profile asks for nothing
        await runner.run(Job("1", "pass", Profile("lax", QUICK.limits)))
    await runner.aclose()


async def test_without_landlock_nothing_runs() -> None:
    runner = LandlockRunner(landlock_abi=0)
    with pytest.raises(IsolationUnprovenError) as refused:
        await runner.run(Job("1", "pass", Profile("lax", QUICK.limits)))
    assert "Linux 5.13" in refused.value.help
    await runner.aclose()


async def test_a_base_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    runner = LandlockRunner(base=tmp_path)
    assert "nobody else can write" in (await runner.probe()).problem
    await runner.aclose()


async def test_a_root_without_capabilities_is_refused_with_help(drivers: Any) -> None:
    if os.geteuid() != 0 or not Path("/usr/bin/setpriv").exists():
        pytest.skip("needs root, and setpriv to take its capabilities away")
    with tempfile.TemporaryDirectory(prefix="bailiwick-base-", dir="/tmp") as folder:
        other = Scratch(Path(folder) / "base", own_uids=True)
        for neighbour in (False, True):  # with a run of another gateway's beside, too
            claimed = other.claim() if neighbour else None
            box = drivers.start(None, ("/usr/bin/setpriv", "--bounding-set=-all", "--inh-caps=-all"), base=f"{folder}/base")
            report = await box.ask({"probe": True})
            assert "SETUID" in report["problem"]
            answer = await box.run("print('ran')")
            assert set(answer) == {"refused"}
            assert "plain user" in answer["refused"]["help"]
        assert claimed is not None
        other.release(claimed)


async def test_an_interpreter_whose_files_the_uid_cannot_read_is_passed_over(tmp_path: Path) -> None:
    hidden = tmp_path / "python3"
    hidden.write_text("#!/usr/bin/python3\n", encoding="ascii")
    hidden.chmod(0o600)
    runner = LandlockRunner(interpreters=(str(hidden), "/usr/bin/python3"))
    assert (await runner.probe()).layers["interpreter"].startswith("/usr/bin/")
    await runner.aclose()


# -- the probe -----------------------------------------------------------------------------------------------------------------


async def test_the_probe_proves_what_the_shipped_profile_asks_for(shared_runner: LandlockRunner) -> None:
    report = await shared_runner.probe()
    assert report.missing(SHIPPED) == {}
    lines = report.findings[Guarantee.NET_NONE].evidence
    assert "connect by tcp: open outside, EPERM inside" in lines
    assert report.to_dict()["backend"] == "landlock"


async def test_the_probe_proves_it_for_a_plain_user_too(plain_box: Any) -> None:
    findings = (await plain_box.ask({"probe": True}))["findings"]
    of_namespaces = {"pids", "disk", "net_allowlist"} if plain_box.backend == "bwrap" else set()
    assert {name for name, found in findings.items() if found["strength"] == "hard"} == {
        "fs_read", "fs_write", "net_none", "process_isolation", "syscall_surface", "kill_tree", "folder", *of_namespaces,
    }  # fmt: skip
    assert findings["identity"]["strength"] == "soft"
    assert "root" in findings["identity"]["help"]


@pytest.mark.parametrize("abi", [1, 2, 3, 4, 5])
async def test_an_older_kernels_landlock_is_proven_by_what_it_still_holds(drivers: Any, abi: int) -> None:
    box = drivers.start(None, landlock_abi=abi)
    strengths = {name: found["strength"] for name, found in (await box.ask({"probe": True}))["findings"].items()}
    assert {strengths[name] for name in ("fs_read", "fs_write", "net_none", "process_isolation", "syscall_surface")} == {"hard"}
    run = await box.run("import os\ntry: os.kill(os.getppid(), 9)\nexcept PermissionError: print('denied')")
    assert run["stdout"] == "denied\n"


async def test_an_older_kernels_plain_user_loses_only_the_single_stroke(drivers: Any) -> None:
    if os.geteuid() != 0:
        pytest.skip("already a plain user")
    with tempfile.TemporaryDirectory(prefix="bailiwick-base-", dir="/tmp") as folder:
        os.chown(folder, 65534, 65534)
        box = drivers.start(65534, landlock_abi=2, base=f"{folder}/base")
        findings = (await box.ask({"probe": True}))["findings"]
        assert findings["kill_tree"]["strength"] == "soft"
        forks = "for _ in range(3):\n  if not os.fork(): os.setsid(); os.fork(); time.sleep(600)"
        run = await box.run(f"import os, time\n{forks}\nprint(os.getpid())")
        assert run["reason"] == "ok"
        assert left_of(folder) == []


async def test_a_probe_is_made_once_and_again_when_it_is_old() -> None:
    runner = LandlockRunner()
    assert await runner.probe() is await runner.probe()
    await runner.aclose()
    forgetful = LandlockRunner(probe_seconds=0)
    assert await forgetful.probe() is not await forgetful.probe()
    await forgetful.aclose()


async def test_the_best_runner_is_the_first_that_proves_enough(shared_runner: LandlockRunner) -> None:
    useless = LandlockRunner(landlock_abi=0)
    runners: list[Runner] = [useless, shared_runner]
    assert await best(QUICK, runners) is shared_runner
    with pytest.raises(IsolationUnprovenError):
        await best(QUICK, [useless])
    with pytest.raises(IsolationUnprovenError):
        await best(QUICK, [])
    with pytest.raises(IsolationUnprovenError) as refused:
        await best(Profile("x", QUICK.limits, requires={Guarantee.OWN_KERNEL: Strength.HARD}), runners)
    assert set(refused.value.missing) == {Guarantee.OWN_KERNEL}
    await useless.aclose()


# -- many, and stopping --------------------------------------------------------------------------------------------------------


async def test_runs_go_on_side_by_side_and_do_not_mix(runner: LandlockRunner) -> None:
    runs = await asyncio.gather(*(runner.run(Job(str(n), f"print({n})", QUICK)) for n in range(4)))
    assert [run.stdout for run in runs] == [b"0\n", b"1\n", b"2\n", b"3\n"]


async def test_more_runs_than_may_wait_are_refused(runner: LandlockRunner) -> None:
    await runner.probe()
    going = [asyncio.create_task(runner.run(Job(str(n), FOREVER, QUICK))) for n in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(SandboxBusyError):
        await runner.run(Job("5", "pass", QUICK))
    for task in going:
        task.cancel()
    assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*going, return_exceptions=True))


async def started(base: Path) -> Path:
    """The scratch folder of the one run there is, once its code has begun."""
    while True:
        found = list(base.glob("run-*/here"))
        if found:
            return found[0].parent
        await asyncio.sleep(0.01)


async def test_a_cancelled_run_is_killed_and_leaves_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    runner, base = at_a_base_of_its_own()
    task = asyncio.create_task(runner.run(Job("1", FOREVER, QUICK)))
    folder = await started(base)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not folder.exists()
    assert left_of(folder.name) == []
    again = await runner.run(Job("2", "print('again')", QUICK))
    assert again.stdout == b"again\n"
    await runner.aclose()
    clear(base)


async def test_an_impatient_caller_who_cancels_twice_still_leaves_nothing() -> None:
    runner, base = at_a_base_of_its_own()
    task = asyncio.create_task(runner.run(Job("1", FOREVER, QUICK)))
    folder = await started(base)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not folder.exists()
    await runner.aclose()
    clear(base)


async def test_closing_a_runner_ends_its_runs() -> None:
    runner, base = at_a_base_of_its_own()
    task = asyncio.create_task(runner.run(Job("1", FOREVER, QUICK)))
    folder = await started(base)
    await runner.aclose()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not folder.exists()
    with pytest.raises(SandboxBusyError):
        await runner.run(Job("2", "pass", QUICK))
    clear(base)


def at_a_base_of_its_own() -> tuple[LandlockRunner, Path]:
    base = Path("/tmp") / f"bailiwick-test-{os.urandom(6).hex()}"
    return LandlockRunner(base=base), base


def clear(base: Path) -> None:
    (base / "outside").unlink()
    base.rmdir()  # fails where a run has left something


async def test_the_event_loop_goes_on_while_code_runs(runner: LandlockRunner) -> None:
    await runner.probe()
    task, turns = asyncio.create_task(runner.run(Job("1", "x = sum(range(3_000_000))", QUICK))), 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await task).reason is Reason.OK
    assert turns > 100


# -- jobs ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["x" * (CODE_BYTES + 1), "print('\ud800')", "print('\0')"])
def test_code_that_is_too_long_or_not_text_is_no_job(code: str) -> None:
    with pytest.raises(ValueError, match=r"the code|surrogates"):
        Job("1", code, QUICK)


async def test_code_may_be_as_long_as_its_limit(own_box: Any) -> None:
    assert await own_box.says("#" * (CODE_BYTES - 20) + "\nprint('end')") == "end\n"


async def test_it_works_on_the_servers_event_loop_too() -> None:
    def run() -> Run:
        async def once() -> Run:
            runner = LandlockRunner()
            try:
                return await runner.run(Job("1", "print('uv')", QUICK))
            finally:
                await runner.aclose()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            return loop.run(once())

    assert (await asyncio.to_thread(run)).stdout == b"uv\n"
