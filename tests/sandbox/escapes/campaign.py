"""One gateway in one environment that lets every attempt be made, in its cage and, as the control, outside of it.

`python campaign.py '{"environment": …, "backend": …}'` prints one JSON object; it runs as whoever starts it.
"""

# ruff: noqa: ASYNC240  the gateway of a campaign has nothing else to do meanwhile
from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sandbox import scratch
from sandbox.engine import CagedRunner
from sandbox.model import IsolationUnprovenError, Job, Language, Limits, Profile
from sandbox.names import Destination
from sandbox.network import greet
from sandbox.result import Run
from sandbox.runner import Hooks, Program
from tests.sandbox.escapes import backends, kit, leftovers, many, scene, solos, weaknesses

FAMILIES = ("reading", "writing", "machine", "processes", "network", "kernel", "inheritance")
_LIMITS = Limits(
    cpu_seconds=60, wall_seconds=90, memory_bytes=256 << 20, processes=24, file_bytes=1 << 20, scratch_bytes=16 << 20,
    output_bytes=1 << 18, open_files=256,
)  # fmt: skip
_SOLO_LIMITS = Limits(
    cpu_seconds=5, wall_seconds=20, memory_bytes=128 << 20, processes=12, file_bytes=1 << 20, scratch_bytes=8 << 20,
    output_bytes=1 << 16, open_files=32,
)  # fmt: skip
_NEIGHBOUR = f"open('neighbour-secret', 'w').write({{canary!r}}); import time; time.sleep(600)  # {'x' * 8}"

# What a program starts with: the attempts' modules, from text, under the names that they import one another by.
_BOOT = """
import sys, types
for name, source in SOURCES:
    module = types.ModuleType(name)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    exec(compile(source, name + ".py", "exec"), module.__dict__)
kit = sys.modules["tests.sandbox.escapes.kit"]
kit.P.update(PARAMETERS)
kit.main()
"""


def program(parameters: dict[str, Any]) -> str:
    """The text that tries every attempt."""
    folder = Path(kit.__file__).parent
    packages = [("tests", ""), ("tests.sandbox", ""), ("tests.sandbox.escapes", "")]
    modules = [
        (f"tests.sandbox.escapes.{name}", (folder / f"{name}.py").read_text(encoding="utf-8")) for name in ("kit", *FAMILIES)
    ]
    return f"PARAMETERS = {parameters!r}\nSOURCES = {packages + modules!r}\n{_BOOT}"


def control(laid: dict[str, Any], gateway_fd: int) -> dict[str, str]:
    """The attempts as whoever this is, with nothing around them; what a careless launcher leaves open is left open."""
    work = Path(tempfile.mkdtemp(prefix="bailiwick-control-", dir="/tmp"))
    ours, theirs = socket.socketpair()
    terminal = os.openpty()
    try:
        (work / "main.py").write_text(program(laid), encoding="utf-8")
        with (work / "output").open("w+b") as output:
            process = subprocess.Popen(
                [sys.executable, "-s", "-S", "-B", "main.py"], cwd=work, stdin=theirs.fileno(), stdout=output, stderr=terminal[1],
                pass_fds=[gateway_fd],
            )  # fmt: skip
            try:
                process.wait(100)
            finally:
                process.kill()
                process.wait()
            output.seek(0)
            said = output.read()
        found: dict[str, str] = json.loads(said)
        return found
    finally:
        ours.close()
        theirs.close()
        for fd in terminal:
            os.close(fd)
        shutil.rmtree(work, ignore_errors=True)


async def neighbour(runner: CagedRunner, laid: scene.Scene) -> asyncio.Task[Run]:
    """Another run that goes on meanwhile, with a secret of its own; what is to be known of it is put into the scene."""
    task = asyncio.create_task(runner.run(Job("neighbour", _NEIGHBOUR.format(canary=laid.canary), Profile("neighbour", _LIMITS))))
    while not task.done():
        family = [pid for pid in leftovers.descendants(os.getpid()) if pid != laid.common["bystander"]]
        for path in (*Path(laid.common["base"]).glob("run-*"), *(Path(f"/proc/{pid}/cwd") for pid in family)):
            with suppress(OSError):
                if (path / "neighbour-secret").exists():
                    laid.common |= {"neighbours": family, "neighbour_folder": str(path)}
                    return task
        await asyncio.sleep(0.01)
    raise RuntimeError(f"the neighbour ended: {task.result().to_dict()}")


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What the witness saw change."""
    return [f"{name}: {_briefly(before[name], after[name])}" for name in before if before[name] != after[name]]


def _briefly(before: Any, after: Any) -> str:
    if isinstance(before, dict):
        return ", ".join(sorted(os.path.basename(key) for key in {*before, *after} if before.get(key) != after.get(key)))
    return f"{before} → {after}"


async def campaign(options: dict[str, Any]) -> dict[str, Any]:
    """Everything, in this environment."""
    if os.geteuid() == 0:  # so that what other gateways of this machine run is not taken for ours
        first = options.get("uids", 61_400 + os.getpid() % 50 * 16)
        scratch.UIDS = range(first, first + 16)
    weaknesses.plant(options.get("weakness", ""))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a careless gateway, as one under nohup
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    folder = Path(tempfile.mkdtemp(prefix="bailiwick-base-", dir="/tmp"))
    folder.chmod(0o711)
    base = Path(options.get("base") or folder / "base")
    runner = backends.make(options["backend"], base)
    found: dict[str, Any] = {}
    try:
        report = await runner.probe()
        found["probe"] = report.to_dict()
        laid = scene.Scene(options["environment"], base)
        try:
            if report.problem:
                await _refused(runner, found)
                return found
            if options.get("attempts", True):
                await _attempts(runner, laid, options, found)
            if options.get("language"):
                await _in_a_language(runner, laid, Language(options["language"]), found)
            if options.get("runs"):
                found |= await many.many(runner, base, options["runs"], options["seed"])
            if options.get("cancelled"):
                found["left"] = await many.cancelled_at_every_moment(runner, base, options["cancelled"])
            if options.get("warden"):
                found["left"] = await many.warden_killed(runner, base)
            if options.get("solos"):
                await _solos(runner, base, options, found)
        finally:
            laid.close()
    finally:
        await runner.aclose()
        shutil.rmtree(folder)
    return found


async def _refused(runner: CagedRunner, found: dict[str, Any]) -> None:
    try:
        found["caged"] = (await runner.run(Job("suite", "print('ran')", Profile("suite", _LIMITS)))).to_dict()
    except IsolationUnprovenError as error:
        found["refused"] = error.to_dict()


async def _attempts(runner: CagedRunner, laid: scene.Scene, options: dict[str, Any], found: dict[str, Any]) -> None:
    other = await neighbour(runner, laid)
    try:
        if options.get("control", True):
            parameters = laid.lay("control")
            before = laid.witness("control")
            found["control"] = await asyncio.to_thread(control, parameters, laid.common["gateway_fd"])
            found["control witness"] = differences(before, laid.witness("control"))
        parameters = laid.lay("caged") | {"only": options.get("only")}
        if options.get("cage") == "way back":
            parameters["descriptors"] = [0, 1, 2, 3]
        before = laid.witness("caged")
        run = await _run(runner, program(parameters), options.get("cage", ""))
        found["run"] = run.to_dict() | {"stdout": "", "stderr": run.stderr.decode("utf-8", "backslashreplace")[-2000:]}
        found["caged"] = json.loads(run.stdout) if run.stdout else {}
        found["witness"] = differences(before, laid.witness("caged"))
    finally:
        other.cancel()
        with suppress(asyncio.CancelledError):
            await other


async def _run(runner: CagedRunner, code: str, kind: str) -> Run:
    """The program in a cage: with a way back, with a network of its own, as a program that goes on, or an ordinary one."""
    if kind == "network":
        listed = (Destination.parse("example.com:443"),)
        return await runner.run(Job("suite", code, Profile("suite", _LIMITS, network=listed)), Hooks(network=greet))
    if kind == "way back":
        ours, theirs = socket.socketpair()
        with theirs:
            return await runner.run(Job("suite", code, Profile("suite", _LIMITS, tools=True)), Hooks(tools=ours))
    if kind == "served":
        limits = replace(_LIMITS, wall_seconds=600)
        shell = ("/usr/bin/python3", "-s", "-S", "-B", "-c", "import sys; exec(sys.stdin.read())")
        served = await runner.serve(Program("suite", shell, Profile("suite", limits)))
        served.stdin.write(code.encode())
        served.stdin.write_eof()
        said = await served.stdout.read()
        return replace(await served.wait(), stdout=said)
    return await runner.run(Job("suite", code, Profile("suite", _LIMITS)))


async def _in_a_language(runner: CagedRunner, laid: scene.Scene, language: Language, found: dict[str, Any]) -> None:
    """The attempts from a shell, which may use the system's programs, and those that are made in JavaScript."""
    other = await neighbour(runner, laid)
    try:
        if language is Language.JAVASCRIPT:
            parameters = laid.lay("control")
            found["control"] = await asyncio.to_thread(_node_alone, _javascript(parameters))
        parameters = laid.lay("caged")
        if language is Language.JAVASCRIPT:
            code, files = _javascript(parameters), {}
        else:
            code, files = "exec /usr/bin/python3 -s -S -B suite.py\n", {"suite.py": program(parameters).encode()}
        before = laid.witness("caged")
        profile = Profile("suite", replace(_LIMITS, memory_bytes=1 << 30), languages=frozenset({language}))
        run = await runner.run(Job("suite", code, profile, language=language, files=files))
        found["run"] = run.to_dict() | {"stdout": "", "stderr": run.stderr.decode("utf-8", "backslashreplace")[-2000:]}
        found["caged"] = json.loads(run.stdout) if run.stdout else {}
        found["witness"] = differences(before, laid.witness("caged"))
    finally:
        other.cancel()
        with suppress(asyncio.CancelledError):
            await other


def _javascript(parameters: dict[str, Any]) -> str:
    text = (Path(kit.__file__).parent / "javascript.mjs").read_text(encoding="utf-8")
    return f"const PARAMETERS = {json.dumps(parameters)};\n{text}"


def _node_alone(code: str) -> dict[str, str]:
    """The attempts in JavaScript with nothing around them."""
    with tempfile.TemporaryDirectory(prefix="bailiwick-control-", dir="/tmp") as work:
        Path(work, "main.mjs").write_text(code, encoding="utf-8")
        done = subprocess.run(
            ["/usr/bin/node", "main.mjs"], cwd=work, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True
        )
        found: dict[str, str] = json.loads(done.stdout)
        return found


async def _solos(runner: CagedRunner, base: Path, options: dict[str, Any], found: dict[str, Any]) -> None:
    """Runs of their own, a few at a time; then whatever of them is left anywhere."""
    before = leftovers.Snapshot(base)
    together = asyncio.Semaphore(3)

    async def one(name: str) -> dict[str, Any]:
        solo = solos.SOLOS[name]
        limits = replace(_SOLO_LIMITS, **solo.limits)
        async with together:
            return (await runner.run(Job(name, solo.code, Profile(name, limits)))).to_dict()

    names = list(options["solos"])
    if options.get("caged", True):
        found["solos"] = dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))
        found["left"] = before.since()
    if options.get("control", True):
        wanted = [name for name in names if solos.SOLOS[name].control]
        answers = await asyncio.gather(*(asyncio.to_thread(_alone, solos.SOLOS[name].code) for name in wanted))
        found["solo control"] = dict(zip(wanted, answers, strict=True))


def _alone(code: str) -> str:
    """A program with nothing around it, to its end and a little longer; what it printed."""
    with tempfile.TemporaryDirectory(prefix="bailiwick-control-", dir="/tmp") as work:
        path = Path(work, "main.py")
        path.write_text(code, encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-s", "-S", "-B", path], cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            return process.communicate(timeout=60)[0].decode("utf-8", "backslashreplace")[-300:]  # to the end of the last daemon
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(campaign(json.loads(sys.argv[1])))))
