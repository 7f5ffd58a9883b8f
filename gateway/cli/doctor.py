"""`bailiwick doctor`: why somebody is refused, or will be: issuers as they answer now, a token check by check, our own keys."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import console, misuse, print_json, printable
from gateway.problem import ProblemError

if TYPE_CHECKING:
    from gateway.cli.doctor_issuer import Asker, Check, Seen
    from gateway.configuration import Configuration
    from gateway.settings import Settings
    from gateway.upstream.client import Upstreams

_TOKEN_BYTES = 64 * 1024
_STYLES: Mapping[str, str] = {"ok": "green", "note": "yellow", "finding": "bold red"}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What to look at."""

    configuration: Configuration
    issuer: str | None
    token: str | None
    seconds: float
    environ: Mapping[str, str]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("doctor")(doctor)


def doctor(
    config: Annotated[Path, typer.Option("--config", help="The settings.")] = Path("bailiwick.yaml"),
    issuer: Annotated[str | None, typer.Option("--issuer", metavar="ALIAS", help="Only this issuer, and tokens of it.")] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", metavar="FILE", help="A file with a person's token; - for stdin.  Never the token itself."),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0.1, max=60, help="For each question.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Ask every issuer, look at keys and proofs, and say which check a token fails.  Exits with 1 where something is found.

    Nothing is changed and no credential is sent: of a token, nothing but the answers is ever shown.

    [bold]Example[/bold]   pbpaste | bailiwick doctor --config bailiwick.yaml --token -
    """
    import os  # noqa: PLC0415  the command line pays for what it uses

    from gateway.configuration import read  # noqa: PLC0415

    configuration = read(config, os.environ)
    known = [each.alias for each in configuration.settings.issuers]
    if issuer is not None and issuer not in known:
        misuse(f"the settings have no issuer '{printable(issuer)}'", help=f"they have {', '.join(known) or 'none'}")
    wanted = _Wanted(configuration, issuer, None if token is None else _token(token), timeout, os.environ)
    out = console(stderr=True)
    with out.status("asking") if out.is_terminal and not as_json else nullcontext():
        checks = asyncio.run(_examined(wanted))
    _tell(checks, as_json=as_json)


def _tell(checks: list[Check], *, as_json: bool) -> None:
    found = sum(check.state == "finding" for check in checks)
    if as_json:
        print_json({"ok": not found, "checks": [check.to_dict() for check in checks]})
    else:
        out = console()
        for check in checks:
            out.print(f"{check.state:>7}  ", style=_STYLES[check.state], end="")
            out.print(printable(f"{check.of}: {check.name}: {check.message}"))
            if check.help and check.state != "ok":
                out.print(printable(f"         help: {check.help}"))
        out.print(f"{found} finding{'' if found == 1 else 's'}, {len(checks)} checks")
    raise typer.Exit(1 if found else 0)


def _token(where: str) -> str:
    """From a file or stdin: an argument would stand in process lists and in the shell's history."""
    import os  # noqa: PLC0415  see above
    import sys  # noqa: PLC0415

    if where.count(".") == 2 and len(where) > 60 and not os.path.exists(where):  # noqa: PTH110  never raises, however long
        misuse(
            "--token wants a file, never the token itself: it is in your shell's history now", help="revoke it; then --token -"
        )
    try:
        if where == "-":
            data = sys.stdin.buffer.read(_TOKEN_BYTES + 1)
        else:
            with Path(where).open("rb") as file:
                data = file.read(_TOKEN_BYTES + 1)
    except OSError as error:
        misuse(f"the token's file cannot be read: {error.strerror}", help="--token - reads it from stdin")
    text = data.decode("ascii", "replace").strip()
    if not text or len(data) > _TOKEN_BYTES:
        misuse("there is no token, or far too much of it", help="one token, alone: --token - reads it from stdin")
    scheme, _, rest = text.partition(" ")
    return rest.strip() if scheme.lower() in {"bearer", "dpop"} else text


async def _examined(wanted: _Wanted) -> list[Check]:
    from gateway.cli.doctor_issuer import Asker, examine  # noqa: PLC0415  see above
    from gateway.upstream.client import Upstreams  # noqa: PLC0415

    settings = wanted.configuration.settings
    upstreams = Upstreams(connect_seconds=wanted.seconds, idle_seconds=wanted.seconds)
    try:
        asker = Asker(upstreams, wanted.seconds)
        chosen = [each for each in settings.issuers if wanted.issuer in (None, each.alias)]
        seen = dict(
            zip((each.alias for each in chosen), await asyncio.gather(*(examine(each, asker) for each in chosen)), strict=True)
        )
        checks = [check for each in seen.values() for check in each.checks]
        if wanted.issuer is None:
            checks += [check for each in await _others(settings, asker) for check in each.checks]
            checks += await asyncio.to_thread(lambda: list(_own(wanted)))
        checks += await _of_token(wanted, seen, upstreams)
        return checks
    finally:
        await upstreams.aclose()


async def _of_token(wanted: _Wanted, seen: Mapping[str, Seen], upstreams: Upstreams) -> list[Check]:
    """What the gateway's own verification says is asked of the gateway's own code, with its own rules of reaching issuers."""
    import time  # noqa: PLC0415  see above
    from functools import partial  # noqa: PLC0415

    from gateway.cli.doctor_issuer import Check  # noqa: PLC0415
    from gateway.cli.doctor_token import examine_token  # noqa: PLC0415
    from gateway.identity.access import AccessTokens  # noqa: PLC0415
    from gateway.identity.asking import asking  # noqa: PLC0415
    from gateway.identity.issuers import Ways, endpoints_of  # noqa: PLC0415

    settings = wanted.configuration.settings
    ways = Ways(
        fetch=partial(upstreams.fetch, allow_private=True, seconds=wanted.seconds),
        ask=asking(upstreams, private=True, seconds=wanted.seconds),
        fetch_named=partial(upstreams.fetch, seconds=wanted.seconds),
        ask_named=asking(upstreams, private=False, seconds=wanted.seconds),
        environ=wanted.environ,
        endpoints=endpoints_of(settings.public_url),
    )
    try:
        access = AccessTokens(settings.issuers, settings.agents, tenant=settings.tenant, ways=ways)
    except ProblemError as error:
        return [Check(problem.location, "settings", "finding", problem.message, problem.help) for problem in error.problems]
    try:
        if wanted.token is None:
            return []
        return await examine_token(wanted.token, settings, seen, access, int(time.time()))
    finally:
        await access.close()


async def _others(settings: Settings, asker: Asker) -> list[Seen]:
    """The other key sets: of agents, of trust domains, of whoever sends events."""
    from gateway.cli.doctor_issuer import Seen, examine_keys  # noqa: PLC0415  see above
    from gateway.identity.svid import USES  # noqa: PLC0415
    from gateway.oauth.events import PATH as EVENTS  # noqa: PLC0415

    every = ("ES256", "ES384", "EdDSA", "PS256", "RS256")
    sets = [(Seen(f"agents.{name}.auth", every), agent.auth.jwks) for name, agent in settings.agents.items()]
    sets += [(Seen(f"trust_domains.{each.name}", every, USES), each.jwks) for each in settings.trust_domains]
    for each in settings.issuers:
        if each.events is not None:
            events = Seen(f"issuers.{each.alias}.events", every)
            url = settings.public_url + EVENTS.format(alias=each.alias)
            events.say("receiver", "ok", f"its events go to {url}, with aud '{each.events.audience}' and the bearer token")
            sets.append((events, each.events.jwks))
    await asyncio.gather(*(examine_keys(keys, asker, seen) for seen, keys in sets if keys is not None))
    return [seen for seen, _ in sets]


def _own(wanted: _Wanted) -> Iterator[Check]:
    """The gateway's own keys, its secrets, and whom it believes."""
    from gateway.cli.check import private_keys, secrets  # noqa: PLC0415  see above
    from gateway.cli.doctor_issuer import Check  # noqa: PLC0415

    settings = wanted.configuration.settings
    for found in (*secrets(wanted.configuration, wanted.environ), *private_keys(settings.data)):
        problem = found.problem
        yield Check(problem.location, "secrets", "finding", problem.message, problem.help)
    try:
        yield from _ring(settings, wanted.environ)
        yield from _proofs(settings, wanted.environ)
    except ProblemError as error:
        yield from (Check(problem.location, "settings", "finding", problem.message, problem.help) for problem in error.problems)


def _ring(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    import time  # noqa: PLC0415  see above

    from gateway.cli.doctor_issuer import Check  # noqa: PLC0415
    from gateway.identity.keyfiles import delegation_key, former_key  # noqa: PLC0415
    from gateway.identity.keyring import KeyFolder, signers_of, signing  # noqa: PLC0415

    chosen = settings.delegation
    if chosen.key is not None:
        delegation_key(settings.data, chosen.key, environ)
        for secret in chosen.former_keys:
            former_key(secret, environ)
        yield Check("delegation", "keys", "ok", f"the key is there, and {len(chosen.former_keys)} former ones")
        return
    folder = KeyFolder(settings.data)
    if folder.mark() is None:
        yield Check("delegation", "keys", "note", f"{folder.path}: no keys yet", "the gateway makes one at its first start")
        return
    now = int(time.time())
    index = folder.read()
    current, able = signing(index, now), signers_of(folder, index, {})
    if current is None or current.kid not in able:
        help_ = "bailiwick keys rotate --now"
        yield Check("delegation", "keys", "finding", f"{folder.path}: the private key that is due is not there", help_)
    else:
        yield Check("delegation", "keys", "ok", f"{current.kid} signs; {sum(each.counts(now) for each in index)} keys count")


def _proofs(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    """Certificates and SVIDs: whether whoever hands them on is configured, and is somebody in particular."""
    from gateway.cli.doctor_issuer import Check  # noqa: PLC0415  see above
    from gateway.identity.certificates import Certificates  # noqa: PLC0415
    from gateway.identity.keyfiles import resolve  # noqa: PLC0415
    from gateway.identity.svid import Svids  # noqa: PLC0415

    async def nobody(_url: str) -> bytes:
        raise OSError

    Svids(settings.trust_domains, settings.agents, settings.public_url, nobody)
    terminator = settings.terminator
    secret = None
    if terminator is not None and terminator.secret is not None:
        secret = resolve(terminator.secret, environ, "terminator.secret")
    Certificates(terminator, secret, settings.agents, direct=settings.a2a.knows_certificates)
    if terminator is None:
        return
    networks = [ip_network(peer) for peer in terminator.peers]
    if not networks:
        yield Check("terminator", "peers", "finding", "nobody is believed", "terminator.peers: the proxy's addresses")
    for network in networks:
        if network.prefixlen == 0:
            message, help_ = (
                f"{network} is everybody: whoever reaches the port can be any agent",
                "name the proxy's own addresses",
            )
            yield Check("terminator", "peers", "finding", message, help_)
        elif network.num_addresses > 1 and secret is None:
            help_ = "name addresses, or give the proxy a secret (terminator.secret)"
            yield Check(
                "terminator", "peers", "note", f"each of the {network.num_addresses} hosts of {network} is believed", help_
            )
    if not any(agent.auth.certificates for agent in settings.agents.values()):
        yield Check("terminator", "certificates", "note", "no agent has a certificate", "agents.<id>.auth.certificates")
