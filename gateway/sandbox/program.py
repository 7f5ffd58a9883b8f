"""What a configured command is on this machine: the program's file, and what it must read to run at all.

Everything else it reads only where `read` or `cwd` of its settings names it: nothing is guessed from its arguments.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.sandbox.user_folders import place_of
from gateway.settings_outbound import UNCAGED

if TYPE_CHECKING:
    from gateway.settings import Settings
    from gateway.upstream.registry import McpTarget

FETCHING: Final[Mapping[str, str]] = {
    **dict.fromkeys(("npx", "pnpx", "bunx", "npm", "pnpm", "yarn"), "npm install"),
    **dict.fromkeys(("uvx", "uv", "pipx"), "pip install"),
}
"""Programs that fetch a server when they start it → how it is installed beforehand."""
_PATH: Final = "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin"
_PYTHON: Final = re.compile(r"python(3(\.\d+)?)?")
_RUNS_A_FILE: Final = re.compile(r"python(3(\.\d+)?)?|node|bun|deno|ruby|perl|sh|bash")
_HOPS: Final = 16
_FIRST_LINE: Final = 512


class UnfitError(Exception):
    """The command cannot be run in a cage; the message says why, `help` what to do."""

    def __init__(self, message: str, help: str) -> None:  # noqa: A002  the house's word
        super().__init__(message)
        self.help = help


@dataclass(frozen=True, slots=True)
class Command:
    """A program, its arguments, and what it is given.

    line         absolute path of the program, and its arguments.
    read         files and folders that it may read and execute.
    environment  all of it, beside what every cage has.
    """

    line: tuple[str, ...]
    read: tuple[Path, ...]
    environment: Mapping[str, str]


def command_of(target: McpTarget, *, network: bool) -> Command:
    """The target's command as it is now.  Blocks; UnfitError where there is no such program, or where it would fetch another.

    `network` says whether the profile has destinations: what fetches may then try to.
    """
    name = Path(target.command[0]).name
    if name in FETCHING and not network:
        raise UnfitError(
            f"{name} fetches the server when it starts it, and in a cage there is no network to fetch from",
            f"install the server beforehand ({FETCHING[name]}), and give its own program or entry file as the command",
        )
    program = _program(target)
    if program is None:
        raise UnfitError(f"there is no program {target.command[0]}", "give its absolute path, or install it on the PATH")
    files = [*_needed(program), *_entry(target)]
    read = [*files, *target.read, *((target.folder,) if target.folder is not None else ())]
    if network:
        read += [path for path in (Path("/etc/ssl/certs"),) if path.is_dir()]
    folders = dict.fromkeys(str(path.parent) for path in files if _is_program(path))
    environment = {
        "PATH": ":".join((*folders, _PATH)),
        "PYTHONHASHSEED": "random",  # what goes on, and is asked by many, must not have hashes that one can foresee
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENSSL_CONF": "/dev/null",
        **({"NODE_USE_ENV_PROXY": "1"} if network else {}),
        **target.environment,
    }
    return Command((str(program), *target.command[1:]), tuple(dict.fromkeys(read)), environment)


def unread(target: McpTarget, command: Command) -> list[Path]:
    """Arguments that are paths of this machine which the program may not read: the likeliest reason why it does not start."""
    seen = [Path(os.path.realpath(path)) for path in command.read]
    found = []
    for word in target.command[1:]:
        path = Path(word)
        if path.is_absolute() and path != Path("/") and path.exists():
            real = Path(os.path.realpath(path))
            if not any(real.is_relative_to(each) for each in seen) and not _is_of_system(real):
                found.append(path)
    return found


def closed_to_others(command: Command) -> Path | None:
    """The first file or folder that a user who is nobody cannot reach, as far as its permissions say."""
    for path in command.read:
        real = Path(os.path.realpath(path))
        for each in (*reversed(real.parents), real):
            try:
                mode = each.stat().st_mode
            except OSError:
                return path
            if not mode & (0o004 if each == real else 0o001):
                return each
    return None


def exposed(settings: Settings) -> Iterator[tuple[str, str]]:
    """(server, setting) where a caged program would be given the gateway's own data to read."""
    kept = [Path(os.path.realpath(path)) for path in (settings.data, place_of(settings))]
    for name, server in settings.mcp.items():
        if server.command is None or server.sandbox == UNCAGED:
            continue
        for key, paths in (("cwd", (server.cwd,)), ("read", server.read)):
            given = [Path(os.path.realpath(path)) for path in paths if path is not None]
            if any(data.is_relative_to(path) or path.is_relative_to(data) for path in given for data in kept):
                yield name, key


def _program(target: McpTarget) -> Path | None:
    word = target.command[0]
    if "/" in word:
        path = Path(os.path.abspath(Path(target.folder or Path(), word)))  # noqa: PTH100  links stay: a venv's is one
        return path if path.is_file() and os.access(path, os.X_OK) else None
    found = shutil.which(word)
    return None if found is None else Path(os.path.abspath(found))  # noqa: PTH100


def _needed(program: Path, depth: int = 0) -> Iterator[Path]:
    """The program, its links, whatever runs it, and the installation that it is part of."""
    hops = list(_hops(program))
    yield from hops
    real = hops[-1]
    for hop in hops:
        if (hop.parent.parent / "pyvenv.cfg").is_file():
            yield hop.parent.parent
            if depth == 0 and not _PYTHON.fullmatch(hop.name):  # a script of a venv's: its interpreter's own installation
                yield from _needed(hop.parent / "python", depth + 1)
    if _PYTHON.fullmatch(real.name):
        yield from _installation(real)
    yield from _modules(real)
    runner = _runner(real)
    if runner is not None and depth < 3:
        yield from _needed(runner, depth + 1)


def _hops(path: Path) -> Iterator[Path]:
    """The path, and what it leads to over links, each as it is named."""
    for _ in range(_HOPS):
        yield path
        if not path.is_symlink():
            break
        path = Path(os.path.normpath(path.parent / path.readlink()))
    real = Path(os.path.realpath(path))
    if real != path:
        yield real


def _installation(python: Path) -> Iterator[Path]:
    """A Python's standard library and its own library, where it is not the system's."""
    library = python.parent.parent / "lib"
    if library.is_dir() and not _is_of_system(python):
        yield from sorted(library.glob("python3.*"))
        yield from sorted(library.glob("libpython3*.so*"))


def _modules(entry: Path) -> Iterator[Path]:
    """The outermost node_modules that a file is in: a package and what it depends on."""
    parts = entry.parts
    if "node_modules" in parts:
        yield Path(*parts[: parts.index("node_modules") + 1])


def _entry(target: McpTarget) -> Iterator[Path]:
    """The file that an interpreter is told to run: its first argument, where that is a file."""
    if not _RUNS_A_FILE.fullmatch(Path(target.command[0]).name):
        return
    first = next((word for word in target.command[1:] if not word.startswith("-")), None)
    if first is None or target.command[1] in ("-c", "-e", "-m", "-p"):
        return
    path = Path(os.path.abspath(Path(target.folder or Path(), first)))  # noqa: PTH100
    if path.is_file():
        yield from _hops(path)
        yield from _modules(Path(os.path.realpath(path)))


def _runner(script: Path) -> Path | None:
    """What the first line of a script names."""
    try:
        with script.open("rb") as file:
            line = file.read(_FIRST_LINE).split(b"\n", 1)[0]
        if not line.startswith(b"#!"):
            return None
        words = line[2:].decode("utf-8").split()
    except (OSError, ValueError):
        return None
    if words and Path(words[0]).name == "env":
        named = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), "")
        found = shutil.which(named) if named else None
        return None if found is None else Path(found)
    return Path(words[0]) if words and Path(words[0]).is_absolute() else None


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK) and path.suffix not in {".py", ".js", ".mjs", ".cjs", ".so"}


def _is_of_system(path: Path) -> bool:
    return path.is_relative_to("/usr") and not path.is_relative_to("/usr/local")
