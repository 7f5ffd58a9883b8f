"""Which Python runs in the cage: the first that the runs' uid can execute, proven by executing it; and the files it needs."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.inside import discover

ENVIRONMENT = {
    "LANG": "C.UTF-8", "TZ": "UTC", "PATH": "/nonexistent", "PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": "315532800",
    "MALLOC_ARENA_MAX": "2",
}  # fmt: skip
"""All that a process of the sandbox is told, whatever the gateway's own environment holds.  The epoch is 1980: no archive
holds an earlier time."""
_MODULES = ("plain", "confine", "relay", "watch", "gather", "warden")
_OLDEST = (3, 9)
_SECONDS = 20


class NoInterpreterError(Exception):
    """No interpreter here can be run by the sandbox's uid; the message says what was tried and what would help."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that the run's uid can execute.

    read     files and folders that may be read, folders with all that is in them; execute: files that may also be executed.
    listed   folders whose names may be listed; what they hold may be read only where `read` names it.
    abi      Landlock ABI of the kernel, 0 where there is none.
    modules  the warden's modules, compiled by this interpreter and for it.
    """

    path: str
    version: str
    read: tuple[str, ...]
    listed: tuple[str, ...]
    execute: tuple[str, ...]
    abi: int
    modules: bytes


def candidates() -> tuple[str, ...]:
    """Where an interpreter is looked for: this one's own, then the system's."""
    base = getattr(sys, "_base_executable", sys.executable) or ""
    return tuple(dict.fromkeys(path for path in (base, "/usr/local/bin/python3", "/usr/bin/python3") if path))


def identity(uid: int | None) -> dict[str, Any]:
    """Arguments of `subprocess` that start a process as `uid`, with its own group alone; as the present user where None."""
    return {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}


def choose(uid: int | None, paths: Sequence[str] | None = None) -> Interpreter:
    """The first of `paths` that works for `uid`.  Blocks; raises NoInterpreterError where there is none."""
    tried = []
    for path in paths if paths is not None else candidates():
        try:
            return _ask(path, uid)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            tried.append(f"{path}: {error}")
    who = "this user" if uid is None else f"the runs' uid {uid}"
    listed = "; ".join(tried) or "nothing to try"
    msg = f"{who} can execute no Python of 3.9 or later ({listed}); install one under /usr that everybody may read"
    raise NoInterpreterError(msg)


def _ask(path: str, uid: int | None) -> Interpreter:
    source = Path(discover.__file__).read_text(encoding="utf-8")
    done = subprocess.run(  # noqa: S603  a fixed list of paths, our own source
        [path, "-I", "-S", "-B", "-X", "utf8", "-c", source],
        input=_sources(), env=ENVIRONMENT, cwd="/", capture_output=True, timeout=_SECONDS, check=False,
        start_new_session=True, **identity(uid),
    )  # fmt: skip
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rsplit("\n", 1)[-1]
        raise ValueError(f"exit code {done.returncode}: {last[:200]}")
    found = json.loads(done.stdout)
    if tuple(found["version"]) < _OLDEST:
        raise ValueError("is older than 3.9")
    return Interpreter(
        path=found["executable"],
        version=".".join(map(str, found["version"])),
        read=tuple(found["read"]),
        listed=tuple(found["list"]),
        execute=tuple(found["execute"]),
        abi=max(0, found["abi"]),
        modules=base64.b64decode(found["modules"]),
    )


def _sources() -> bytes:
    folder = Path(discover.__file__).parent
    packages = [("sandbox", ""), ("sandbox.inside", "")]
    return json.dumps(
        packages + [(f"sandbox.inside.{name}", (folder / f"{name}.py").read_text(encoding="utf-8")) for name in _MODULES]
    ).encode()


def own_uids() -> bool:
    """Whether runs get uids of their own: only where the gateway is root.  What root may in fact do is found out by trying."""
    return os.geteuid() == 0
