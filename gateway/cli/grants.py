"""`bailiwick grants`: what an agent may begin in your name while you are away, asked of the running gateway."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from gateway.cli.asking import CONFIG, Config, Json, Url, ask
from gateway.cli.output import console, misuse, print_json, printable

_SECONDS: Final = {"m": 60, "h": 3600, "d": 24 * 3600}
_SPAN: Final = re.compile(r"([1-9][0-9]{0,5})([mhd])")

Agent = Annotated[str, typer.Argument(metavar="AGENT", help="Its id in the settings.")]
Scope = Annotated[str, typer.Option("--scope", help="Objects and patterns of policy, as 'erp.read a2a:clerk'.")]
Until = Annotated[str, typer.Option("--until", help="How long (90m, 12h, 30d), or a time in ISO 8601.")]
Definition = Annotated[str, typer.Option("--definition", help="Digest of the one workflow definition that it is for.")]
Everybody = Annotated[
    bool, typer.Option("--everybody", help="Those of your tenant; policy must grant you `read` on `admin:grants`.")
]
Id = Annotated[str, typer.Argument(metavar="ID", help="Of the grant, as `bailiwick grants list` shows it.")]


def register(app: typer.Typer) -> None:
    """Add the group of verbs."""
    group = typer.Typer(
        name="grants",
        help="What an agent may begin in your name while you are away.  Your access token stands in BAILIWICK_TOKEN.\n\n"
        "[bold]Example[/bold]   bailiwick grants add night-clerk --scope 'erp.read a2a:clerk' --until 30d",
        no_args_is_help=True,
    )
    group.command("add")(add)
    group.command("list")(list_grants)
    group.command("revoke")(revoke)
    app.add_typer(group)


def add(  # noqa: PLR0917  a command's arguments and options
    agent: Agent,
    scope: Scope,
    until: Until,
    definition: Definition = "",
    config: Config = CONFIG,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Let an agent begin work in your name: within this scope, with the groups that you have then, until an end.

    [bold]Example[/bold]   bailiwick grants add night-clerk --scope 'erp.read a2a:clerk' --until 30d
    """
    body = {"agent": agent.removeprefix("agent:"), "scope": scope, "ends": _end(until), "definition": definition}
    made = ask("POST", "/api/grants", config, url, body)
    if as_json:
        print_json(made)
        return
    console().print(printable(f"granted: {made['agent']} may use {made['scope']} for {made['subject']} until {made['ends']}"))
    console().print(printable(f"  the agent begins with: grant_type=client_credentials standing_grant={made['id']}"))
    console().print(printable(f"  to take it back: bailiwick grants revoke {made['id']}"))


def list_grants(everybody: Everybody = False, config: Config = CONFIG, url: Url = "", as_json: Json = False) -> None:
    """Show your standing grants, the newest first.

    [bold]Example[/bold]   bailiwick grants list
    """
    found = ask("GET", f"/api/grants?everybody={'true' if everybody else 'false'}", config, url)
    if as_json:
        print_json(found)
        return
    for grant in found["grants"]:
        console().print(printable(f"{grant['id']}  {grant['agent']}: {grant['scope']}"))
        console().print(printable(f"    {_state(grant)}" + (f", of {grant['subject']}" if everybody else "")))
    if not found["grants"]:
        console(stderr=True).print("there are none")


def revoke(name: Id, config: Config = CONFIG, url: Url = "", as_json: Json = False) -> None:
    """Take a standing grant back: what runs by it ends, on every replica.

    For another's, policy must grant you `change` on `admin:grants`.

    [bold]Example[/bold]   bailiwick grants revoke 019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b
    """
    from urllib.parse import quote  # noqa: PLC0415  the command line pays for what it uses

    revoked = ask("DELETE", f"/api/grants/{quote(name, safe='')}", config, url)
    if as_json:
        print_json(revoked)
        return
    console().print(printable(f"revoked: {revoked['agent']} may no longer begin anything for {revoked['subject']} by it"))
    if not revoked["ended"]:
        console(stderr=True).print("  too many kills are in force: what runs by it ends with its tokens, within five minutes")


def _state(grant: dict[str, Any]) -> str:
    if grant["revoked"]:
        return f"revoked {grant['revoked']}"
    definition = f", for {grant['definition']} alone" if grant["definition"] else ""
    return f"since {grant['made']} until {grant['ends']}{definition}"


def _end(text: str) -> int:
    """Epoch seconds of a span from now, or of a time."""
    span = _SPAN.fullmatch(text)
    if span is not None:
        return int(time.time()) + int(span[1]) * _SECONDS[span[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        misuse(f"--until '{printable(text)}' is neither a span nor a time", help="as 90m, 12h, 30d, or 2026-12-24T18:00:00+00:00")
    if at.tzinfo is None:
        misuse(f"--until '{printable(text)}' says no time zone", help=f"as {printable(text)}+00:00")
    return int(at.astimezone(UTC).timestamp())
