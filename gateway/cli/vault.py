"""`bailiwick vault`: which upstreams may use your account by what you let the gateway keep, and taking that back."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from gateway.cli.asking import CONFIG, Config, Json, Url, ask
from gateway.cli.output import console, print_json, printable

Subject = Annotated[
    str,
    typer.Option(
        "--subject",
        metavar="SUBJECT",
        help="Of somebody else, as user:corp/paul; policy must grant you `admin:grants` (`read`; to forget, `change`).",
    ),
]
Upstream = Annotated[str, typer.Argument(metavar="UPSTREAM", help="A server's id, or a2a:<agent>, as `vault list` shows it.")]


def register(app: typer.Typer) -> None:
    """Add the group of verbs."""
    group = typer.Typer(
        name="vault",
        help="What you let the gateway keep of your accounts at upstreams.  Your access token stands in BAILIWICK_TOKEN.\n\n"
        "[bold]Example[/bold]   bailiwick vault list",
        no_args_is_help=True,
    )
    group.command("list")(list_kept)
    group.command("forget")(forget)
    app.add_typer(group)


def list_kept(subject: Subject = "", config: Config = CONFIG, url: Url = "", as_json: Json = False) -> None:
    """Show the upstreams whose credential of yours the gateway keeps.  Of the credentials nothing is shown.

    [bold]Example[/bold]   bailiwick vault list
    """
    found = ask("GET", f"/api/vault{_of(subject)}", config, url)
    if as_json:
        print_json(found)
        return
    for kept in found["upstreams"]:
        console().print(printable(f"{kept['upstream']}: since {kept['since']}, renewed {kept['renewed']}"))
    if not found["upstreams"]:
        console(stderr=True).print("nothing is kept")


def forget(upstream: Upstream, subject: Subject = "", config: Config = CONFIG, url: Url = "", as_json: Json = False) -> None:
    """Have the gateway forget your credential for an upstream.  Exits with 1 where none is kept.

    The next call asks you again.  What the upstream's own server gave out stays there until you take it back there too.

    [bold]Example[/bold]   bailiwick vault forget github
    """
    found = ask("DELETE", f"/api/vault/{quote(upstream, safe=':')}{_of(subject)}", config, url)
    if as_json:
        print_json(found)
        return
    console().print(printable(f"forgotten: {found['upstream']} of {found['subject']}"))


def _of(subject: str) -> str:
    return f"?subject={quote(subject, safe='')}" if subject else ""
