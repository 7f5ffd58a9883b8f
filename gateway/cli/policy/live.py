"""`bailiwick policy status`, `reload` and `rollback`: asked of the running gateway, which decides whether you may."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gateway.cli.output import console, misuse, print_json, printable

_TOKEN: Final = "BAILIWICK_TOKEN"
_SECONDS: Final = 60.0
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  compared with, never listened on

Config = Annotated[Path, typer.Option("--config", metavar="FILE", help="The settings, which say where the gateway listens.")]
Url = Annotated[str, typer.Option("--url", help="Where the gateway is, if not where the settings say.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
CONFIG = Path("bailiwick.yaml")


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
    answer = _ask("GET", "/api/policy", config, url, None)
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
    answer = _ask("POST", path, config, url, body)
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


def _ask(method: str, path: str, config: Path, url: str, body: dict[str, str] | None) -> dict[str, Any]:
    """The gateway's answer; ends the process where there is none, or where it is no."""
    import httpx  # noqa: PLC0415  the command line pays for what it uses

    from gateway.configuration import load  # noqa: PLC0415

    token = os.environ.get(_TOKEN, "")
    if not token.isascii() or not token.isprintable() or not token:
        misuse(f"{_TOKEN} holds no access token", help="with a development issuer: bailiwick token --user NAME")
    server = load(config, os.environ).server
    if url and not url.startswith(("http://", "https://")):
        misuse(f"--url '{printable(url)}' is no URL", help="as http://127.0.0.1:8080")
    base = url.rstrip("/") or f"http://{_ANYWHERE.get(server.host, server.host)}:{server.port}"
    try:
        with httpx.Client(base_url=base, trust_env=False, timeout=_SECONDS) as http:
            answer = http.request(method, path, json=body, headers={"Authorization": f"Bearer {token}"})
        found = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        misuse(f"the gateway at {base} does not answer ({type(error).__name__})", help="is it running? `--url` says where")
    if not isinstance(found, dict):
        misuse(f"what answers at {base} is no gateway")
    if answer.status_code not in {200, 422} or "title" in found:
        console(stderr=True).print(printable(f"{answer.status_code} {found.get('title', '')}: {found.get('detail', '')}"))
        if answer.status_code == 401:
            console(stderr=True).print(f"  help: {_TOKEN} holds a token that is not (or no longer) good here; get a new one")
        raise typer.Exit(2 if answer.status_code in {401, 422} else 1)
    return found
