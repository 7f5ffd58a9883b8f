"""`bailiwick policy status`, `reload` and `rollback`: asked of the running gateway, which decides whether you may."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.asking import CONFIG, Config, Json, Url, ask
from gateway.cli.output import console, print_json, printable


def register(group: typer.Typer) -> None:
    """Add the verbs."""
    group.command("status")(status)
    group.command("reload")(reload)
    group.command("rollback")(rollback)


def status(config: Config = CONFIG, url: Url = "", as_json: Json = False) -> None:
    """Show what is in force, since when, and what was refused last.  Exits with 1 while a folder says what was refused.

    Your access token stands in BAILIWICK_TOKEN; policy must grant you `read` on `admin:policy`.

    [bold]Example[/bold]   bailiwick policy status --config bailiwick.yaml
    """
    answer = ask("GET", "/api/policy", config, url)
    if as_json:
        print_json(answer)
    else:
        out = console()
        for role in ("active", "canary", "shadow"):
            if pair := answer.get(role):
                parts = [f"{pair['rules']} rules", f"since {pair['since']}"]
                parts += [f"serial {pair['serial']}"] if "serial" in pair else []
                parts += [f"{pair['percent']:g} % of the workflows"] if "percent" in pair else []
                out.print(f"{role}: {pair['digest']} ({', '.join(parts)})")
        for role, rejected in answer["rejected"].items():
            _show_rejected(role, rejected)
        for flip in answer["would_flip"]:
            out.print(printable(f"would flip: {flip['rule']} {flip['direction']} {flip['count']} times ({flip['source']})"))
    raise typer.Exit(1 if answer["stale"] else 0)


def reload(config: Config = CONFIG, url: Url = "", as_json: Json = False) -> None:
    """Have the running gateway read its policy again now.  Exits with 1 where that was refused: what is in force stays.

    Your access token stands in BAILIWICK_TOKEN; policy must grant you `change` on `admin:policy`.

    [bold]Example[/bold]   bailiwick policy reload --config bailiwick.yaml
    """
    _changed("/api/policy/reload", None, config, url, as_json=as_json)


def rollback(
    bundle: Annotated[str, typer.Argument(metavar="DIGEST|SERIAL", help="Which: its digest, its first 8 characters, a serial.")],
    config: Config = CONFIG,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Put a bundle in force again that once was, through the same checks.  It stays until the policy folder changes.

    Your access token stands in BAILIWICK_TOKEN; policy must grant you `change` on `admin:policy`.

    [bold]Example[/bold]   bailiwick policy rollback 41 --config bailiwick.yaml
    """
    _changed("/api/policy/rollback", {"bundle": bundle}, config, url, as_json=as_json)


def _changed(path: str, body: dict[str, str] | None, config: Path, url: str, *, as_json: bool) -> None:
    answer = ask("POST", path, config, url, body)
    refused = any("rejected" in each for each in answer.values())
    if as_json:
        print_json(answer)
    else:
        for role, each in answer.items():
            console().print(f"{role}: {each['result']}, {each['digest']} is in force")
            if "rejected" in each:
                _show_rejected(role, each["rejected"])
    raise typer.Exit(1 if refused else 0)


def _show_rejected(role: str, rejected: dict[str, Any]) -> None:
    out = console(stderr=True)
    out.print(f"{role}: refused at {rejected['at']} ({rejected['cause']}), {rejected['count']} findings", style="bold red")
    for each in rejected["findings"]:
        out.print(printable(f"  {each['location']}: {each['message']}"))
        if each["help"]:
            out.print(printable(f"    help: {each['help']}"))
