"""What code of a language is run by, and all that it may read of the machine for it.  Found once for each probe, by trying.

`fs_read` means: these files, and the working folder.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from sandbox.interpreter import ENVIRONMENT, Interpreter, identity
from sandbox.model import MAIN, Job, Language, Limits
from sandbox.runner import Offer, Program

SHELL = "/bin/sh"
NODES = ("/usr/bin/node", "/usr/local/bin/node")
_SYSTEM = (
    *(f"/usr/{name}" for name in ("bin", "sbin", "lib", "lib32", "lib64", "libexec", "share")),
    *(f"/{name}" for name in ("bin", "sbin", "lib", "lib64")),
)
_SYSTEM_READ = ("/etc/ld.so.cache", "/etc/alternatives")
_PATH = "/usr/bin:/usr/sbin:/bin:/sbin"
_LIBRARY = re.compile(r"/\S+\.so(?:\.[0-9.]+)?")
_SECONDS = 20
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Toolset:
    """The program that runs a language's code, and the files that it needs.

    command       what stands in front of the code's file and its arguments.
    environment   beside `sandbox.interpreter.ENVIRONMENT`.
    read          files and folders that may be read, folders with all that is in them; execute: that may also be executed.
    listed        folders whose names may be listed.
    address_space whether a bound on it makes sense: V8 reserves more than it will ever use.
    packages      digest of the set of packages among what may be read, "" for none.
    """

    offer: Offer
    command: tuple[str, ...]
    read: tuple[str, ...]
    listed: tuple[str, ...] = ()
    execute: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: _NOTHING, hash=False)
    address_space: bool = True
    packages: str = ""

    def command_for(self, job: Job) -> tuple[str, ...]:
        """All of the command line."""
        heap = () if self.address_space else (f"--max-old-space-size={job.profile.limits.memory_bytes >> 20}",)
        return (*self.command, *heap, MAIN[job.language], *job.arguments)


@dataclass(frozen=True, slots=True)
class Kit:
    """What a cage is made for: everything that two cages must have in common for one to do for the other.

    throttled  whether processor time is bounded by its rate, where the kernel can.
    network    whether its code may connect to the gateway's proxy, and to nothing else.
    kept       a folder outside that lasts, which its code may write, "" for none; kept_bytes: most that it may come to.
    """

    limits: Limits
    toolset: Toolset
    throttled: bool = False
    network: bool = False
    kept: str = ""
    kept_bytes: int = 0


def offered(interpreter: Interpreter, uid: int | None) -> Mapping[Language, Toolset]:
    """What is there for the run's uid.  Blocks."""
    others = {Language.SHELL: _shell(), Language.JAVASCRIPT: _node(uid)}
    there = {language: toolset for language, toolset in others.items() if toolset is not None}
    return MappingProxyType({Language.PYTHON: python(interpreter), **there})


def python(interpreter: Interpreter) -> Toolset:
    """The standard library and what it is linked with."""
    return Toolset(
        offer=Offer(interpreter.path, interpreter.version, digest(interpreter.path)),
        command=(interpreter.path, "-s", "-S", "-B", "-X", "utf8"),
        read=interpreter.read,
        listed=interpreter.listed,
        execute=interpreter.execute,
    )


def _shell() -> Toolset | None:
    if not Path(SHELL).exists():
        return None
    path = os.path.realpath(SHELL)
    folders = tuple(dict.fromkeys(os.path.realpath(folder) for folder in _SYSTEM if Path(folder).is_dir()))
    return Toolset(
        offer=Offer(path, Path(path).name, digest(path)),
        command=(SHELL,),
        read=(*folders, *(name for name in _SYSTEM_READ if Path(name).exists())),
        execute=folders,
        environment=MappingProxyType({"PATH": _PATH}),
    )


def _node(uid: int | None) -> Toolset | None:
    """The first node that works for the uid."""
    script = "console.log(JSON.stringify([process.version, require('fs').readFileSync('/proc/self/maps', 'utf8')]))"
    for candidate in NODES:
        if not Path(candidate).exists():
            continue
        path = os.path.realpath(candidate)
        try:
            done = subprocess.run(  # noqa: S603  a fixed list of paths, our own text
                [path, "-e", script], env=ENVIRONMENT, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS,
                check=True, start_new_session=True, **identity(uid),
            )  # fmt: skip
            version, maps = json.loads(done.stdout)
        except (OSError, subprocess.SubprocessError, ValueError):
            continue
        libraries = sorted({name for name in _LIBRARY.findall(maps) if Path(name).is_file()})
        return Toolset(
            offer=Offer(path, version.removeprefix("v"), digest(path)),
            command=(path,),
            read=(*libraries, *(name for name in _SYSTEM_READ[:1] if Path(name).exists())),
            execute=(path, *(name for name in libraries if Path(name).name.startswith("ld-"))),
            environment=MappingProxyType({"OPENSSL_CONF": "/dev/null", "NODE_NO_WARNINGS": "1"}),
            address_space=False,
        )
    return None


def for_program(program: Program) -> Toolset:
    """The system's tools, and what the program was given to read."""
    system = _shell()
    folders = () if system is None else system.execute
    named = dict.fromkeys(name for path in program.read for name in (str(path), os.path.realpath(path)))
    given = tuple(name for name in named if not _lies_in(name, folders))
    command = program.command[0]
    return Toolset(
        offer=Offer(command, "", ""),
        command=program.command,
        read=(*folders, *(() if system is None else system.read), *given),
        execute=(*folders, *given),
        environment=MappingProxyType({"PATH": _PATH, **program.environment}),
        address_space=False,
    )


def _lies_in(path: str, folders: tuple[str, ...]) -> bool:
    there = Path(os.path.realpath(Path(path).parent), Path(path).name)
    return any(there.is_relative_to(folder) for folder in folders)


def digest(path: str) -> str:
    """SHA-256 (hex) of a file; kept for as long as it stays the same."""
    about = Path(path).stat()
    return _digest(path, about.st_ino, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: str, *_: int) -> str:
    found = sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()
