"""`bailiwick version`: what runs here, and which protocol revisions it speaks."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.output import print_json


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(version)


def version(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Print the version of Bailiwick and of what its answers depend on.

    [bold]Example[/bold]   bailiwick version --json
    """
    facts = facts_of_this_installation()
    if as_json:
        print_json(dict(facts))
        return
    for name, value in facts.items():
        typer.echo(f"{name:<14}{value}")


def facts_of_this_installation() -> dict[str, str]:
    """Versions by name: Bailiwick, Python, the judge, the protocol model."""
    import platform  # noqa: PLC0415  only this verb needs them
    from importlib.metadata import version as installed  # noqa: PLC0415

    return {
        "bailiwick": installed("bailiwick"),
        "python": platform.python_version(),
        "pycasbin": installed("pycasbin"),
        "a2a-sdk": installed("a2a-sdk"),
        "opentelemetry": installed("opentelemetry-sdk"),
    }
