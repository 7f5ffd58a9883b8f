"""`bailiwick sandbox`: what isolation is proven here, and code run under it."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.isolation import DEFAULT, Profiles, doctor, profile_named
from gateway.cli.output import console, misuse, print_json, printable
from gateway.cli.sandbox_packages import PACKAGES
from gateway.cli.sandbox_packages import register as register_packages
from gateway.cli.sandbox_runner import runner

if TYPE_CHECKING:
    from sandbox.model import Job, Language
    from sandbox.result import Artifact, Run
    from sandbox.runner import Stream

ProfileName = Annotated[str, typer.Option("--profile", help="The profile that it runs under.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
MAX_CODE: Final = 1024 * 1024
MAX_FILE: Final = 16 * 1024 * 1024
_SUFFIXES: Final = {".py": "python", ".sh": "shell", ".mjs": "javascript", ".js": "javascript"}


def register(app: typer.Typer) -> None:
    """Add the group of verbs."""
    group = typer.Typer(help="Isolation: what is proven here, and code run under it.", no_args_is_help=True)
    group.command("doctor")(doctor)
    group.command("run")(run)
    group.command("runner")(runner)
    register_packages(group)
    app.add_typer(group, name="sandbox")


def run(  # noqa: PLR0917  the command line's options
    file: Annotated[Path, typer.Argument(help="A file of code: .py, .sh, .mjs or .js.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="Its command line's arguments.")] = None,
    profile: ProfileName = DEFAULT,
    profiles: Profiles = None,
    language: Annotated[str, typer.Option("--language", help="python, shell or javascript; else by FILE's ending.")] = "",
    files: Annotated[
        list[str] | None, typer.Option("--file", help="A file that it finds: PATH, or NAME=PATH; repeat it.")
    ] = None,
    stdin: Annotated[Path | None, typer.Option("--stdin", help="What it reads from standard input; - is this one.")] = None,
    packages: Annotated[Path, typer.Option("--packages", help="Where sets of packages were built.")] = PACKAGES,
    out: Annotated[Path | None, typer.Option("--out", help="A folder for the files that it leaves.")] = None,
    as_json: Json = False,
) -> None:
    """Run code under a profile, as the gateway would.  Exits with 0 if it ended well, else 1.

    Its output is shown as it comes.  Files that it leaves are listed, and written where --out says.

    [bold]Example[/bold]   bailiwick sandbox run plot.py --file orders.csv --out results/
    """
    from sandbox.model import IsolationUnprovenError, Job, NotOfferedError  # noqa: PLC0415

    chosen = profile_named(profile, profiles)
    if out is not None:
        _folder(out)  # said before anything runs
    if chosen.tools:
        console(stderr=True).print(printable(f"note: under {profile} a gateway lets code call tools; here is none"), style="dim")
    try:
        job = Job(
            id="command-line",
            code=_bytes(file, MAX_CODE).decode("utf-8"),
            profile=chosen,
            language=_language(file, language),
            files=_files(files or ()),
            arguments=tuple(arguments or ()),
            stdin=b"" if stdin is None else sys.stdin.buffer.read(MAX_FILE) if str(stdin) == "-" else _bytes(stdin, MAX_FILE),
        )
    except ValueError as error:
        misuse(str(error))
    try:
        result = asyncio.run(_once(job, packages, shown=not as_json))
    except (IsolationUnprovenError, NotOfferedError) as error:
        said = console(stderr=True)
        said.print(printable(f"refused: {error}"), style="bold red")
        if isinstance(error, IsolationUnprovenError):
            more = f" --profiles {profiles}" if profiles is not None else ""
            said.print(printable(f"  help: bailiwick sandbox doctor --profile {profile}{more} says how to gain it"))
        raise typer.Exit(1) from None
    if out is not None:
        _write(out, result.files)
    if as_json:
        print_json(result.to_dict())
    else:
        said = console(stderr=True)
        for left in result.files:
            said.print(printable(f"left {left.name} ({left.size} bytes)"), style="dim")
        for name, why in result.files_skipped:
            said.print(printable(f"not taken: {name}: {why}"), style="dim")
        said.print(printable(f"reason {result.reason}, exit code {result.exit_code} {result.detail}".rstrip()), style="dim")
    raise typer.Exit(0 if result.reason == "ok" else 1)


async def _once(job: Job, packages: Path, *, shown: bool) -> Run:
    from sandbox.runner import Hooks, best, shipped  # noqa: PLC0415

    runners = shipped(packages=packages)
    try:
        return await (await best(job.profile, runners)).run(job, Hooks(output=_show if shown else None))
    finally:
        for each in runners:
            await each.aclose()


def _show(stream: Stream, data: bytes) -> None:
    """As it comes; to a terminal only what prints, since code could otherwise steer it."""
    target = sys.stdout if stream == "stdout" else sys.stderr
    if target.isatty():
        target.write(printable(data.decode("utf-8", "backslashreplace")))
    else:
        target.buffer.write(data)
    target.flush()


def _language(file: Path, named: str) -> Language:
    from sandbox.model import Language  # noqa: PLC0415

    name = named or _SUFFIXES.get(file.suffix, "")
    if name not in set(Language):
        asked = f"there is no language {named!r}" if named else f"in which language is {file}?"
        misuse(asked, help=f"say --language with one of {', '.join(Language)}")
    return Language(name)


def _files(said: Sequence[str]) -> dict[str, bytes]:
    """By the name under which code finds each."""
    found: dict[str, bytes] = {}
    for text in said:
        name, equals, path = text.partition("=")
        place = Path(path if equals else text)
        found[name if equals else place.name] = _bytes(place, MAX_FILE)
    return found


def _bytes(path: Path, most: int) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            misuse(f"{path} is no file")
        with path.open("rb") as file:
            found = file.read(most + 1)
    except OSError as error:
        misuse(f"{path} cannot be read: {error.strerror}")
    if len(found) > most:
        misuse(f"{path} is longer than {most >> 20} MiB")
    return found


def _folder(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        misuse(f"--out {place}: {error.strerror}")
    if not os.access(place, os.W_OK | os.X_OK):
        misuse(f"--out {place}: nothing can be written there")


def _write(folder: Path, files: Sequence[Artifact]) -> None:
    """Nothing is written through a link, or outside the folder: the names are the code's."""
    for file in files:
        place = folder
        for part in file.name.split("/")[:-1]:
            place /= part
            if place.is_symlink():
                misuse(f"{place} is a link")
            place.mkdir(exist_ok=True)
        flags: Any = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(folder / file.name, flags, 0o600)
        except OSError as error:
            misuse(f"{folder / file.name}: {error.strerror}")
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(file.data)
