"""`bailiwick token`: an access token of the development issuer, to try the gateway by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import misuse, print_json, printable

if TYPE_CHECKING:
    from gateway.settings import Agent


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("token")(token)


def token(
    user: Annotated[str, typer.Option("--user", help="A person of the development issuer: mia, paul or fiona.")],
    client: Annotated[
        str, typer.Option("--client", help="The OAuth client that it is issued to; without it, the person's own command line.")
    ] = "",
    config: Annotated[Path, typer.Option("--config", help="The settings.")] = Path("bailiwick.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Print an access token of the development issuer.  Refused where the settings have no such issuer.

    With `--client` it is one that an agent holds: the client stands in its `client_ids`.

    [bold]Example[/bold]   bailiwick token --user paul --config .demo/bailiwick.yaml
    """
    import os  # noqa: PLC0415  the command line pays for what it uses

    from gateway.configuration import load  # noqa: PLC0415
    from gateway.identity.devissuer import CLIENT, PEOPLE, DevIssuer  # noqa: PLC0415

    settings = load(config, os.environ)
    issuer = next((issuer for issuer in settings.issuers if issuer.development), None)
    if issuer is None:
        misuse(
            "the settings have no development issuer",
            help="ask your identity provider for a token, or add one under `issuers:` to try it alone: development: true",
        )
    if user not in PEOPLE:
        misuse(f"the development issuer does not know '{user}'", help=f"it knows {', '.join(PEOPLE)}")
    held = [each for agent in settings.agents.values() for each in _clients(agent, issuer.alias)]
    if client and client not in (*issuer.direct_clients, *held):
        known = ", ".join(sorted({*issuer.direct_clients, *held}))
        misuse(
            f"nobody registered the client '{printable(client)}' at issuer {issuer.alias}", help=f"there are: {known or 'none'}"
        )
    dev = DevIssuer(settings.data, issuer.issuer, issuer.audience)
    text = dev.issue(user, PEOPLE[user], client or CLIENT)
    if as_json:
        print_json({"access_token": text, "token_type": "Bearer"})
    else:
        print(text)


def _clients(agent: Agent, alias: str) -> tuple[str, ...]:
    """The OAuth clients under which an agent holds tokens of this issuer."""
    return agent.client_ids.get(alias, ()) if isinstance(agent.client_ids, dict) else agent.client_ids
