"""`bailiwick sandbox packages`: sets of Python packages that a profile can name, built from lock files with hashes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.output import console, misuse, print_json, printable

Folder = Annotated[Path, typer.Option("--folder", help="Where sets are kept: `sandbox.packages` of the gateway's settings.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
PACKAGES = Path("data/packages")
"""Where a gateway that is told nothing else looks for them."""


def register(group: typer.Typer) -> None:
    """Add the group of verbs."""
    packages = typer.Typer(help="Python packages for profiles, from lock files with hashes.", no_args_is_help=True)
    packages.command("build")(build)
    packages.command("list")(listed)
    group.add_typer(packages, name="packages")


def build(
    name: Annotated[str, typer.Argument(help="The set's name, as a profile's `packages` says it.")],
    lock: Annotated[Path | None, typer.Option("--lock", help="A lock file with hashes; else the shipped one.")] = None,
    folder: Folder = PACKAGES,
    as_json: Json = False,
) -> None:
    """Fetch the wheels that the lock file names, check their hashes, and keep them for the Python that runs in the cage.

    Nothing is built from source, and nothing is fetched while code runs.

    [bold]Example[/bold]   bailiwick sandbox packages build analysis
    """
    from sandbox import packages  # noqa: PLC0415  the command line pays for what it uses
    from sandbox.interpreter import NoInterpreterError  # noqa: PLC0415

    if lock is not None and not os.access(lock, os.R_OK):
        misuse(f"{lock} cannot be read: there is no such file, or it is closed to you")
    chosen = lock or packages.shipped_lock(name)
    if chosen is None:
        shipped = ", ".join(sorted(path.stem for path in packages.SHIPPED.glob("*.lock")))
        misuse(f"there is no lock file for {name!r}", help=f"name one by --lock; shipped are: {shipped}")
    try:
        made = packages.build(name, chosen, folder)
    except (packages.PackagesError, NoInterpreterError) as error:
        console(stderr=True).print(printable(f"not built: {error}"), style="bold red")
        raise typer.Exit(1) from None
    if as_json:
        print_json({"name": made.name, "folder": str(made.folder), "python": made.python, "digest": made.digest})
    else:
        print(f"{made.name} for Python {made.python}: sha256:{made.digest}")


def listed(folder: Folder = PACKAGES, as_json: Json = False) -> None:
    """What was built here.

    [bold]Example[/bold]   bailiwick sandbox packages list
    """
    from sandbox import packages  # noqa: PLC0415

    try:
        found = packages.built(folder)
    except OSError as error:
        misuse(f"{folder}: {error.strerror}")
    if as_json:
        print_json(found)
    else:
        for name, digest in found.items():
            print(f"{name}  sha256:{digest}")
        if not found:
            console(stderr=True).print(printable(f"no set of packages was built in {folder}"), style="dim")
