"""Starts campaigns: one gateway for each environment and backend, in a process of its own, as that environment's user."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import sandbox
from sandbox.interpreter import choose, identity
from tests.sandbox.escapes import kit
from tests.sandbox.escapes.campaign import FAMILIES
from tests.sandbox.escapes.solos import ESCAPED, SOLOS

UID = 61_300 + os.getpid() % 90
"""The plain user of these campaigns: nobody else's on this machine, so that what it leaves behind is known to be ours."""
_SECONDS = 110


def environments() -> tuple[str, ...]:
    """Those that whoever this is can set up."""
    return kit.ENVIRONMENTS if os.geteuid() == 0 else (kit.USER, kit.USER_IN_CONTAINER)


@cache
def attempts() -> tuple[kit.Attempt, ...]:
    """Every attempt that there is, by family."""
    import importlib

    for family in FAMILIES:
        importlib.import_module(f"tests.sandbox.escapes.{family}")
    return tuple(kit.REGISTRY)


class Suite:
    """The text of sandbox and suite where every user can read it; use it as a context."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bailiwick-suite-", dir="/tmp"))
        tests = Path(__file__).parent
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(sandbox.__file__).parent, self.folder / "sandbox", ignore=ignore)
        shutil.copytree(tests, self.folder / "tests/sandbox/escapes", ignore=ignore)
        shutil.copy(tests.parent / "container.py", self.folder / "tests/sandbox")
        for path in (self.folder, *self.folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)

    def __enter__(self) -> Suite:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        shutil.rmtree(self.folder)

    def command(self, environment: str, module: str, options: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """What runs a module of the suite in an environment: a command line, and the options of `subprocess`."""
        own = os.geteuid() or UID
        uid = {kit.ROOT: 0, kit.USER: own, kit.ROOT_IN_CONTAINER: 0, kit.USER_IN_CONTAINER: own}[environment]
        python = choose(None if uid == os.geteuid() else uid).path
        command = [python, "-B", str(self.folder / f"tests/sandbox/escapes/{module}.py"), json.dumps(options)]
        contained = environment in (kit.ROOT_IN_CONTAINER, kit.USER_IN_CONTAINER)
        if contained:  # as whoever this is, who makes the container and then becomes its user
            command = [python, "-B", str(self.folder / "tests/sandbox/container.py"), str(uid), *command]
        user = None if contained or uid == os.geteuid() else uid
        surroundings = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(self.folder), "GATEWAY_SECRET": secrets.token_hex(16)}
        return command, {"env": surroundings, "cwd": "/", "start_new_session": True, **identity(user)}

    def campaign(self, environment: str, backend: str, patience: float = _SECONDS, **options: Any) -> dict[str, Any]:
        """Every attempt of an environment on a backend; what came of it."""
        asked = {"environment": environment, "backend": backend, **options}
        command, started = self.command(environment, "campaign", asked)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience, check=False, **started)
        if done.returncode:
            raise RuntimeError(
                f"the campaign of {asked} ended with {done.returncode}:\n{done.stderr.decode(errors='replace')[-4000:]}"
            )
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def breaches(found: dict[str, Any]) -> list[str]:
    """Attempts that succeeded in the cage, by name, and what the witness saw from outside."""
    names = sorted(name for name, outcome in found["caged"].items() if outcome == kit.OPEN)
    return [*names, *(f"seen from outside: {line}" for line in found["witness"])]


def unreal(found: dict[str, Any], environment: str) -> dict[str, str]:
    """Attempts that should have succeeded without a cage and did not: their denial in a cage shows nothing."""
    return {
        one.name: outcome
        for one in attempts()
        if environment in one.control
        and (outcome := found["control"][one.name]) != kit.OPEN
        and not (one.machine and outcome.startswith("absent"))
    }


def lost(found: dict[str, Any]) -> dict[str, str]:
    """Runs of their own that got what they wanted against a guarantee that is not soft, or ended as they must not."""
    amiss = {}
    for name, run in found["solos"].items():
        solo = SOLOS[name]
        escaped = ESCAPED in run["stdout"]
        if escaped and (solo.soft is None or run["guarantees"].get(solo.soft) == "hard"):
            amiss[name] = f"escaped, and ended with {run['reason']}"
        elif not escaped and solo.ends and run["reason"] not in solo.ends:
            amiss[name] = f"ended with {run['reason']}: {run['detail'] or run['stderr'][-300:]}"
        elif any(run[fact] != value for fact, value in solo.wanted.items()):
            amiss[name] = f"wanted {solo.wanted}, got {run}"
        elif run["reason"] == "sandbox_error":
            amiss[name] = run["detail"]
    return amiss


def broken(found: dict[str, Any]) -> dict[str, str]:
    """Attempts that are mistaken: they ended in something that is no answer."""
    outcomes = {**{f"{name} (control)": text for name, text in found.get("control", {}).items()}, **found["caged"]}
    return {name: text for name, text in outcomes.items() if text.startswith(("broken", "stuck", "said nothing"))}
