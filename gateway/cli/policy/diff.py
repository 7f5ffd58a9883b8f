"""`bailiwick policy diff`: who gains what, who loses what, and which duties change, between two bundles."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.output import console, misuse, print_json, printable


def register(group: typer.Typer) -> None:
    """Add the verb."""
    group.command("diff")(diff)


def diff(
    before: Annotated[
        str, typer.Argument(metavar="A", help="The bundle that is: a folder, git:REVISION[:FOLDER], a kept digest.")
    ],
    after: Annotated[str, typer.Argument(metavar="B", help="The bundle that is to be, written alike.")],
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="Compare one tenant alone.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="A comment for a pull request.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    config: Annotated[Path, typer.Option("--config", help="The settings, for kept digests.")] = Path("bailiwick.yaml"),
) -> None:
    """Compare what two bundles decide.  Exits with 1 if anything may be allowed that was denied, with 0 if not, with 2 on misuse.

    [bold]Example[/bold]   bailiwick policy diff git:origin/main:policies policies --markdown
    """
    from gateway.cli.policy.diff_views import Page  # noqa: PLC0415  the command line pays for what it uses
    from gateway.cli.policy.sources import read_source  # noqa: PLC0415
    from policies.diff import TooLargeError  # noqa: PLC0415
    from policies.diff import diff as compare  # noqa: PLC0415

    if markdown and as_json:
        misuse("give --markdown or --json, not both")
    old, new = read_source(before, config), read_source(after, config)
    if tenant and tenant not in old.tenants | new.tenants:
        misuse(f"there is no tenant '{printable(tenant)}'", help=f"known are {', '.join(sorted(old.tenants | new.tenants))}")
    out = console(stderr=True)
    try:
        with out.status("Comparing …") if out.is_terminal else contextlib.nullcontext():
            found = compare(old, new, tenant=tenant)
    except (TooLargeError, ValueError) as error:
        misuse(f"the bundles cannot be compared: {error}", help="compare one tenant with --tenant")
    page = Page(found, old, new)
    if as_json:
        print_json(page.document())
    elif markdown:
        print(printable(page.markdown()))
    else:
        for line in page.terminal():
            console().print(printable(line))
    raise typer.Exit(1 if found.grants else 0)
