"""`bailiwick agents`: how each agent proves itself, and a new secret for one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import console, misuse, print_json, printable

if TYPE_CHECKING:
    from gateway.settings import Agent, Settings

Config = Annotated[Path, typer.Option("--config", help="The settings.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the group of verbs."""
    group = typer.Typer(
        name="agents",
        help="How agents prove themselves.\n\n[bold]Example[/bold]   bailiwick agents secret researcher --config bailiwick.yaml",
        no_args_is_help=True,
    )
    group.command("list")(list_agents)
    group.command("secret")(secret)
    app.add_typer(group)


def list_agents(config: Config = Path("bailiwick.yaml"), as_json: Json = False) -> None:
    """Which proofs each agent has, and what is weak about them.

    [bold]Example[/bold]   bailiwick agents list --config bailiwick.yaml
    """
    settings = _settings(config)
    rows = [_row(name, agent) for name, agent in sorted(settings.agents.items())]
    if as_json:
        print_json({"agents": rows})
        return
    out = console()
    for row in rows:
        proofs = row["proofs"]
        out.print(printable(f"{row['agent']}: {', '.join(proofs) if isinstance(proofs, list) and proofs else 'no proof'}"))
        warnings = row["warnings"]
        for warning in warnings if isinstance(warnings, list) else ():
            out.print(printable(f"  warning: {warning}"), style="yellow")
    if not rows:
        out.print("the settings have no agents")


def secret(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Its id in the settings.")],
    config: Config = Path("bailiwick.yaml"),
    as_json: Json = False,
) -> None:
    """Make a secret for an agent.  It is shown once and kept nowhere; the settings get its SHA-256.

    [bold]Example[/bold]   bailiwick agents secret researcher --config bailiwick.yaml
    """
    from gateway.identity.agents import new_secret  # noqa: PLC0415  the command line pays for what it uses

    settings = _settings(config)
    if agent not in settings.agents:
        known = ", ".join(sorted(settings.agents)) or "none"
        misuse(f"the settings know no agent '{printable(agent)}'", help=f"they know {known}; add it under agents:")
    value, digest = new_secret(agent)
    kept = settings.agents[agent].auth.secret_sha256
    if as_json:
        print_json({"agent": agent, "secret": value, "secret_sha256": digest})
        return
    out = console()
    out.print("for the agent, shown only now; it sends it as Authorization: Bearer …", style="dim")
    out.print(value)
    out.print(f"for the settings, agents.{agent}.auth", style="dim")
    out.print(f"secret_sha256: [{', '.join((*kept, digest))}]")
    if kept:
        out.print("remove the older ones once the agent sends the new one", style="dim")


def _settings(config: Path) -> Settings:
    import os  # noqa: PLC0415  the command line pays for what it uses

    from gateway.configuration import load  # noqa: PLC0415

    return load(config, os.environ)


def _row(name: str, agent: Agent) -> dict[str, object]:
    auth = agent.auth
    count = len(auth.secret_sha256)
    proofs = [
        *([f"secret ({count})" if count > 1 else "secret"] if count else []),
        *(["key"] if auth.jwks is not None else []),
        *(["certificate"] if auth.certificates else []),
        *(["svid"] if auth.spiffe_id is not None else []),
        *(["client id"] if agent.client_ids else []),
        *(["delegation alone"] if auth.bearer_ok else []),
        *(["trace"] if auth.trace_ok else []),
    ]
    return {"agent": name, "proofs": proofs, "warnings": list(_warnings(agent, own=bool(proofs)))}


def _warnings(agent: Agent, *, own: bool) -> list[str]:
    auth = agent.auth
    found = []
    if not own:
        found.append("it can be called, and can call nobody: give it a key, a certificate, an SVID or a secret")
    if auth.bearer_ok:
        found.append("bearer_ok: whoever holds its delegation token can act as it until the token ends")
    if auth.trace_ok:
        found.append("trace_ok: a trace id says for whom it goes on, which is no proof; rules can ask for agent.assurance")
    if auth.secret_sha256 and not (auth.jwks or auth.certificates or auth.spiffe_id):
        found.append("a secret alone: what is sent can be replayed by whoever sees it; a key cannot")
    if len(auth.secret_sha256) > 1:
        found.append(f"{len(auth.secret_sha256)} secrets are valid: remove those that are not sent any more")
    return found
