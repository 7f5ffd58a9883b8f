"""`bailiwick sandbox`: what isolation is proven here, and code run under it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.isolation import DEFAULT, Profiles, doctor, profile_named
from gateway.cli.output import console, misuse, print_json, printable
from gateway.cli.sandbox_runner import runner

ProfileName = Annotated[str, typer.Option("--profile", help="The profile that it runs under.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
MAX_CODE = 1024 * 1024


def register(app: typer.Typer) -> None:
    """Add the group of verbs."""
    group = typer.Typer(help="Isolation: what is proven here, and code run under it.", no_args_is_help=True)
    group.command("doctor")(doctor)
    group.command("run")(run)
    group.command("runner")(runner)
    app.add_typer(group, name="sandbox")


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

    chosen = profile_named(profile, profiles)
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
