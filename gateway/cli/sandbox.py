"""`bailiwick sandbox`: what isolation is proven here, and code run under it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import console, misuse, print_json, printable

if TYPE_CHECKING:
    from sandbox.model import Profile
    from sandbox.runner import Report

ProfileName = Annotated[str, typer.Option("--profile", help="A profile; `bailiwick sandbox doctor` lists them.")]
Profiles = Annotated[Path | None, typer.Option("--profiles", help="A folder of further profiles.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
DEFAULT = "no-network-512mb"
MAX_CODE = 1024 * 1024


def register(app: typer.Typer) -> None:
    """Add the group of verbs."""
    group = typer.Typer(help="Isolation: what is proven here, and code run under it.", no_args_is_help=True)
    group.command("doctor")(doctor)
    group.command("run")(run)
    app.add_typer(group, name="sandbox")


def doctor(profile: ProfileName = DEFAULT, profiles: Profiles = None, as_json: Json = False) -> None:
    """Try the cage for real, and show which guarantees are proven, which are missing, and how to gain them.

    Exits with 1 where the profile's guarantees are not proven.

    [bold]Example[/bold]   bailiwick sandbox doctor --profile no-network-512mb
    """
    from sandbox.runner import shipped  # noqa: PLC0415  the command line pays for what it uses

    chosen = _profile(profile, profiles)

    async def probes() -> list[Report]:
        found = []
        for runner in shipped():
            found.append(await runner.probe())
            await runner.aclose()
        return found

    reports = asyncio.run(probes())
    covered = any(not report.missing(chosen) for report in reports)
    if as_json:
        print_json({"profile": chosen.name, "covered": covered, "backends": [report.to_dict() for report in reports]})
        raise typer.Exit(0 if covered else 1)
    out = console()
    for report in reports:
        out.print(f"{report.backend}{': ' + report.problem if report.problem else ''}", style="bold")
        missing = report.missing(chosen)
        for guarantee, strength in report.guarantees.items():
            finding = report.findings.get(guarantee)
            wanted = chosen.requires.get(guarantee)
            need = f"wanted {wanted.name.lower()}" if wanted is not None else "not asked for"
            line = f"  {guarantee.value:<20}{strength.name.lower():<8}{need:<16}"
            evidence = _evidence(finding.evidence) if finding is not None else ""
            out.print(line + printable(evidence), style="bold red" if guarantee in missing else "")
            if guarantee in missing and finding is not None and finding.help:
                out.print(f"      help: {printable(finding.help)}")
    out.print(f"profile {chosen.name}: {'covered' if covered else 'NOT covered: code under it is refused here'}", style="bold")
    raise typer.Exit(0 if covered else 1)


def run(
    file: Annotated[Path, typer.Argument(help="A file of Python code.")],
    profile: ProfileName = DEFAULT,
    profiles: Profiles = None,
    as_json: Json = False,
) -> None:
    """Run Python code under a profile, as the gateway would.  Exits with 0 if it ended well, else 1.

    [bold]Example[/bold]   bailiwick sandbox run score.py --profile no-network-512mb
    """
    from sandbox.model import IsolationUnprovenError, Job  # noqa: PLC0415
    from sandbox.runner import best  # noqa: PLC0415

    chosen = _profile(profile, profiles)
    if not file.is_file() or file.stat().st_size > MAX_CODE:
        misuse(f"{file} is no file of at most 1 MiB")
    code = file.read_text(encoding="utf-8")

    async def once() -> dict[str, object]:
        runner = await best(chosen)
        try:
            return (await runner.run(Job(id="command-line", code=code, profile=chosen))).to_dict()
        finally:
            await runner.aclose()

    try:
        result = asyncio.run(once())
    except IsolationUnprovenError as error:
        console(stderr=True).print(printable(f"refused: {error}"), style="bold red")
        raise typer.Exit(1) from None
    if as_json:
        print_json(result)
    else:
        print(str(result["stdout"]), end="")
        console(stderr=True).print(printable(str(result["stderr"])), end="")
        console(stderr=True).print(f"reason {result['reason']}, exit code {result['exit_code']}", style="dim")
    raise typer.Exit(0 if result["reason"] == "ok" else 1)


def _evidence(attempts: Sequence[str]) -> str:
    """The first attempt, and how many more there were; `--json` has them all."""
    more = f"  (and {len(attempts) - 1} more attempts)" if len(attempts) > 1 else ""
    return f"{attempts[0]}{more}" if attempts else ""


def _profile(name: str, folder: Path | None) -> Profile:
    from sandbox.profiles import load_profiles  # noqa: PLC0415

    profiles = load_profiles(folder)
    if name not in profiles:
        misuse(f"there is no profile '{name}'", help=f"there are: {', '.join(sorted(profiles))}")
    return profiles[name]
