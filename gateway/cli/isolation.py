"""`bailiwick sandbox doctor`: which guarantees are proven here by which cage, by trying, and how to gain those that are not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import console, misuse, print_json, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from gateway.settings import Sandbox
    from sandbox.model import Profile
    from sandbox.runner import Report

ProfileName = Annotated[str, typer.Option("--profile", help="The profile that is to be covered.")]
Profiles = Annotated[Path | None, typer.Option("--profiles", help="A folder of further profiles.")]
Config = Annotated[Path | None, typer.Option("--config", help="The gateway's settings: its profiles, and its runner elsewhere.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, with every attempt and its outcome.")]
DEFAULT = "no-network-512mb"
_STYLES = {"hard": "green", "soft": "yellow", "absent": "red"}


def doctor(profile: ProfileName = DEFAULT, profiles: Profiles = None, config: Config = None, as_json: Json = False) -> None:
    """Try every cage for real: which guarantees each proves here, what the profile lacks, and how to gain what is missing.

    Exits with 0 where a cage covers the profile, 1 where none does, 2 for a profile that there is not.

    [bold]Example[/bold]   bailiwick sandbox doctor --profile no-network-512mb
    """
    settings = None if config is None else _settings(config)
    chosen = profile_named(profile, profiles or (settings.profiles if settings is not None else None))
    reports = asyncio.run(_probes(settings))
    covering = next((report.backend for report in reports if not report.missing(chosen)), None)
    if as_json:
        found = [{**report.to_dict(), "id": report.id, "missing": sorted(report.missing(chosen))} for report in reports]
        print_json({"profile": chosen.name, "covered": covering is not None, "by": covering, "backends": found})
    else:
        out = console()
        _table(out, chosen, reports)
        for report in reports:
            _gains(out, chosen, report)
        verdict = f"covered by {covering}" if covering else "NOT covered: code under it is refused here"
        out.print(f"\nprofile {chosen.name}: {verdict}", style="bold green" if covering else "bold red")
    raise typer.Exit(0 if covering else 1)


def profile_named(name: str, folder: Path | None) -> Profile:
    """The profile; ends the program with 2 where there is none of this name."""
    from sandbox.profiles import ProfileError, load_profiles  # noqa: PLC0415  the command line pays for what it uses

    try:
        profiles = load_profiles(folder)
    except ProfileError as error:
        misuse(str(error))
    if name not in profiles:
        misuse(f"there is no profile '{name}'", help=f"there are: {', '.join(sorted(profiles))}")
    return profiles[name]


def _settings(config: Path) -> Sandbox:
    import os  # noqa: PLC0415

    from gateway.configuration import load  # noqa: PLC0415

    return load(config, os.environ).sandbox


async def _probes(settings: Sandbox | None) -> list[Report]:
    """Of the backends of this machine, or of the runner elsewhere that the settings name."""
    from sandbox.runner import shipped  # noqa: PLC0415

    runners = shipped()
    if settings is not None and settings.runner is not None:
        from gateway.sandbox.elsewhere import remote  # noqa: PLC0415

        runners = (remote(settings.runner),)
    found = []
    for runner in runners:
        try:
            found.append(await runner.probe())
        finally:
            await runner.aclose()
    return found


def _table(out: Console, chosen: Profile, reports: Sequence[Report]) -> None:
    from rich.text import Text  # noqa: PLC0415

    width = max(11, *(len(report.backend) + 2 for report in reports))
    out.print(f"{'guarantee':<20}{'wanted':<9}" + "".join(f"{report.backend:<{width}}" for report in reports), style="bold")
    for guarantee in reports[0].guarantees:
        wanted = chosen.wanted.get(guarantee)
        line = Text(f"{guarantee.value:<20}{wanted.word if wanted is not None else '-':<9}")
        for report in reports:
            got = report.guarantees[guarantee]
            short = wanted is not None and got < wanted
            line.append(f"{got.word + ('  <' if short else ''):<{width}}", style=("bold " if short else "") + _STYLES[got.word])
        out.print(line)


def _gains(out: Console, chosen: Profile, report: Report) -> None:
    """What this cage rests on here, and how each guarantee that is not hard could be gained: those that are wanted first."""
    out.print(f"\n{report.backend}", style="bold")
    if report.problem:
        out.print(f"  not here: {printable(report.problem)}")
        return
    for name, value in report.layers.items():
        out.print(f"  {name}: {printable(value)}", style="dim")
    missing = report.missing(chosen)
    for guarantee, finding in sorted(report.findings.items(), key=lambda item: (item[0] not in missing, item[0])):
        if finding.help:
            lack = "MISSING, " if guarantee in missing else ""
            out.print(f"  {guarantee.value} ({lack}{finding.strength.word}): {printable(finding.help)}")
