"""Asking the running gateway over its API, as somebody: the access token stands in BAILIWICK_TOKEN, never on the command line."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gateway.cli.output import AnsweredNoError, misuse, printable
from gateway.problem import Problem

TOKEN: Final = "BAILIWICK_TOKEN"
_SECONDS: Final = 60.0
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  compared with, never listened on

Config = Annotated[Path, typer.Option("--config", metavar="FILE", help="The gateway's settings.")]
Url = Annotated[str, typer.Option("--url", help="Where the gateway is, if not where the settings say.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
CONFIG = Path("bailiwick.yaml")

_WHAT_NEXT: Final = {
    "same-person": "two people erase somebody: another one runs the command, with an access token of their own",
    "held": "bailiwick audit hold list; once the case is closed: bailiwick audit hold clear ID --reason …",
}


def base_url(config: Path, url: str) -> str:
    """Where the gateway is; ends the process for what is no URL."""
    from gateway.configuration import load  # noqa: PLC0415  the command line pays for what it uses

    if url and not url.startswith(("http://", "https://")):
        misuse(f"--url '{printable(url)}' is no URL", help="as http://127.0.0.1:8080")
    server = load(config, os.environ).server
    return url.rstrip("/") or f"http://{_ANYWHERE.get(server.host, server.host)}:{server.port}"


def answers(base: str) -> bool:
    """Whether anything speaks HTTP there."""
    import httpx  # noqa: PLC0415  as above

    try:
        httpx.get(f"{base}/healthz", timeout=2, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True


def alone(config: Path) -> None:
    """End the process where a gateway answers: it is asked then."""
    base = base_url(config, "")
    if answers(base):
        misuse(f"a gateway answers at {base}", help="ask it: the same without --offline; or stop it first")


def operator() -> str:
    """By which account the command is typed; what the system says, nothing proves it."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = str(os.getuid())
    return f"os:{name}"[:400]


def ask(method: str, path: str, config: Path, url: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The gateway's answer; ends the process where there is none, or where it is no."""
    import httpx  # noqa: PLC0415  as above

    token = os.environ.get(TOKEN, "")
    if not token.isascii() or not token.isprintable() or not token:
        misuse(
            f"{TOKEN} holds no access token",
            help="export your access token there; with a development issuer: bailiwick token --user NAME",
        )
    base = base_url(config, url)
    try:
        with httpx.Client(base_url=base, trust_env=False, timeout=_SECONDS) as http:
            answer = http.request(method, path, json=body, headers={"Authorization": f"Bearer {token}"})
        found = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        misuse(f"the gateway at {base} does not answer ({type(error).__name__})", help="is it running? `--url` says where")
    if not isinstance(found, dict):
        misuse(f"what answers at {base} is no gateway")
    if answer.status_code not in {200, 201, 422} or "title" in found:
        raise _no(answer.status_code, found)
    return found


def _no(status: int, found: Mapping[str, Any]) -> AnsweredNoError:
    title, detail, where = (str(found.get(member) or "") for member in ("title", "detail", "instance"))
    further = {
        401: f"{TOKEN} holds a token that is not (or no longer) good here; get a new one",
        403: "the command's --help says which right it takes; policy grants it",
    }.get(status, "")
    further = _WHAT_NEXT.get(title, further)
    told = f"{status} {title}: {detail}" + (f" ({where})" if where else "")
    return AnsweredNoError(Problem(title or "refused", detail, where, further), told, 2 if status in {401, 422} else 1)
