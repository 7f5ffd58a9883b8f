"""What each setting allows on its own but all of them together do not: said at once, each at its place."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.identity.certificates import Certificates
from gateway.identity.svid import Svids
from gateway.problem import Problem, ProblemError
from gateway.upstream.credentials import contradictions as of_credentials

if TYPE_CHECKING:
    from gateway.configuration import Configuration
    from gateway.settings import Issuer


def contradictions(configuration: Configuration) -> Iterator[Problem]:
    """Every one of them, in the order of the settings."""
    settings = configuration.settings
    yield from _names(configuration)
    for index, issuer in enumerate(settings.issuers):
        if issuer.development and not _is_loopback(settings.server.host):
            text = f"a development issuer only serves a loopback address, and the gateway listens on {settings.server.host}"
            help_ = "set server.host to 127.0.0.1, or use a real identity provider"
            yield configuration.problem("development-issuer", text, ("issuers", index, "development"), help_)
        yield from _keys(configuration, index, issuer)
        yield from _tenants(configuration, index, issuer)
        yield from _introspection(configuration, index, issuer)
        yield from _directory(configuration, index, issuer)
    yield from _clients(configuration)
    yield from _proofs(configuration)
    for path, text, help_ in of_credentials(settings):
        yield configuration.problem("credentials", text, path, help_)
    yield from _browser(configuration)
    yield from _grpc(configuration)
    if settings.sandbox.enabled and "sandbox" in settings.mcp:
        text = "'sandbox' is the built-in server; give this one another id"
        yield configuration.problem("reserved-name", text, ("mcp", "sandbox"))


def _grpc(configuration: Configuration) -> Iterator[Problem]:
    """What needs an extra that is not installed."""
    settings = configuration.settings
    asked: list[tuple[str, ...]] = [("a2a", "grpc")] if settings.a2a.grpc is not None else []
    asked += [("agents", name, "url") for name, agent in settings.agents.items() if agent.speaks_grpc]
    if find_spec("grpc") is None:
        for path in asked:
            yield configuration.problem("missing-extra", "A2A over gRPC needs grpcio", path, "pip install 'bailiwick[grpc]'")


def _proofs(configuration: Configuration) -> Iterator[Problem]:
    """How agents prove themselves: as it would be refused at the start."""
    settings = configuration.settings
    terminator = settings.terminator
    secret = "" if terminator is not None and terminator.secret is not None else None  # that it is there is another check's

    async def unread(_url: str) -> bytes:
        raise OSError

    for make in (
        lambda: Certificates(terminator, secret, settings.agents, direct=settings.a2a.knows_certificates),
        lambda: Svids(settings.trust_domains, settings.agents, settings.public_url, unread),
    ):
        try:
            make()
        except ProblemError as error:
            for found in error.problems:
                path = ("trust_domains",) if "://" in found.location else tuple(found.location.split("."))
                yield configuration.problem(found.code, found.message, path, found.help)
    for name, agent in settings.agents.items():
        own = agent.auth.jwks or agent.auth.secret_sha256 or agent.auth.certificates or agent.auth.spiffe_id
        if agent.auth.trace_ok and (agent.url is None or not own):
            text = f"agents.{name}.auth.trace_ok: nothing can be handed to it, or it cannot prove that it is itself"
            help_ = "an agent that is followed by its trace has a url, and a credential of its own"
            yield configuration.problem("unfollowed-agent", text, ("agents", name, "auth", "trace_ok"), help_)


def _names(configuration: Configuration) -> Iterator[Problem]:
    aliases: dict[str, int] = {}
    names: dict[str, int] = {}
    for index, issuer in enumerate(configuration.settings.issuers):
        for seen, value, key in ((aliases, issuer.alias, "alias"), (names, issuer.issuer, "issuer")):
            if seen.setdefault(value, index) != index:
                text = f"issuers {seen[value]} and {index} have the same {key}: nobody could tell their people apart"
                yield configuration.problem("duplicate-issuer", text, ("issuers", index, key))


def _keys(configuration: Configuration, index: int, issuer: Issuer) -> Iterator[Problem]:
    """Without keys of its own, an issuer's name is where its metadata is."""
    asked = issuer.introspection is not None and issuer.introspection.url is None
    if issuer.jwks is None or asked:
        parts = urlsplit(issuer.issuer)
        if not _is_confidential(issuer.issuer) or parts.query or parts.fragment or "@" in parts.netloc:
            text = "is no https URL without query and fragment, so its metadata cannot be read"
            help_ = "write the issuer exactly as its tokens say it, or give jwks (and introspection.url)"
            yield configuration.problem("no-metadata", f"issuers.{index}.issuer: {text}", ("issuers", index, "issuer"), help_)
    if issuer.jwks is not None and issuer.jwks.url is not None and not _is_confidential(str(issuer.jwks.url)):
        yield _insecure(configuration, ("issuers", index, "jwks", "url"))


def _tenants(configuration: Configuration, index: int, issuer: Issuer) -> Iterator[Problem]:
    if issuer.tenant is not None and issuer.tenant_claim is not None:
        text = "an issuer's people are of one tenant, or of the one that a claim says: not both"
        yield configuration.problem(
            "two-tenants", text, ("issuers", index, "tenant"), "remove tenant, or tenant_claim and tenants"
        )
    elif (issuer.tenant_claim is None) != (not issuer.tenants):
        text = "tenant_claim names the claim, and tenants maps its values: one is nothing without the other"
        key = "tenants" if issuer.tenants else "tenant_claim"
        help_ = "write tenant_claim: tid and tenants: {<value>: <tenant>}"
        yield configuration.problem("half-a-tenant", text, ("issuers", index, key), help_)


def _introspection(configuration: Configuration, index: int, issuer: Issuer) -> Iterator[Problem]:
    settings, place = issuer.introspection, ("issuers", index, "introspection")
    if settings is None:
        return
    first = next(n for n, each in enumerate(configuration.settings.issuers) if each.introspection is not None)
    if first != index:
        text = (
            "an opaque token does not say whose it is, and is shown to no issuer but its own: one issuer may have introspection"
        )
        yield configuration.problem("two-introspections", text, place, f"issuers.{first} has it; the others must issue JWTs")
    if settings.client.secret is None and settings.client.key is None:
        text = "an issuer answers only to a client that proves itself"
        yield configuration.problem("no-client", text, (*place, "client"), "give the client a secret or a key, by reference")
    if settings.url is not None and not _is_confidential(str(settings.url)):
        yield _insecure(configuration, (*place, "url"))


def _directory(configuration: Configuration, index: int, issuer: Issuer) -> Iterator[Problem]:
    settings, place = issuer.directory, ("issuers", index, "directory")
    if settings is None:
        return
    if (settings.url is None) == (settings.file is None):
        yield configuration.problem("no-directory", "a directory is a url or a file: give exactly one", place)
    if settings.url is None and settings.token is not None:
        yield configuration.problem("no-directory", "a token is shown to a url, and none is given", (*place, "token"))
    if settings.url is not None and not _is_confidential(str(settings.url)):
        yield _insecure(configuration, (*place, "url"))


def _browser(configuration: Configuration) -> Iterator[Problem]:
    """Whoever is asked for consent proves in a browser who they are."""
    settings, browser = configuration.settings, configuration.settings.browser
    wanted = [
        ((group, name, "credentials"), each.credentials)
        for group, upstreams in (("mcp", settings.mcp), ("agents", settings.agents))
        for name, each in upstreams.items()
        if each.credentials is not None and each.credentials.strategy == "vault_oauth"
    ]
    for place, credentials in wanted:
        url = str(credentials.authorize_url)
        if not _is_confidential(url) or urlsplit(url).fragment:
            yield _insecure(configuration, (*place, "authorize_url"))
    if (browser is None) == (not wanted):
        if browser is not None and not _is_confidential(settings.public_url):
            text = "people consent at the gateway's public URL, which others could read and change"
            yield configuration.problem("insecure-url", text, ("server", "public_url"), "use https")
        if browser is not None:
            yield from _login(configuration, browser.issuer)
    elif browser is None:
        text = "vault_oauth asks people for their consent, and nothing says how they prove who they are"
        yield configuration.problem("no-browser", text, wanted[0][0], "add browser: {issuer: …, client: {id: …}}")
    else:
        text = "nobody is asked for consent: no upstream has the strategy vault_oauth"
        yield configuration.problem("no-consent", text, ("browser",), "remove it")


def _login(configuration: Configuration, alias: str) -> Iterator[Problem]:
    issuer = next((each for each in configuration.settings.issuers if each.alias == alias), None)
    if issuer is None:
        known = ", ".join(each.alias for each in configuration.settings.issuers)
        text = f"no issuer has the alias '{alias}'"
        yield configuration.problem("unknown-issuer", text, ("browser", "issuer"), f"known: {known}" if known else "")
    elif issuer.development:
        text = "the development issuer has no page at which anybody could log in"
        yield configuration.problem("development-issuer", text, ("browser", "issuer"), "name a real identity provider")
    elif not _is_confidential(issuer.issuer):
        text = "where people log in is read from the issuer's metadata, and its name is no https URL"
        yield configuration.problem("no-metadata", text, ("browser", "issuer"))


def _insecure(configuration: Configuration, place: tuple[str | int, ...]) -> Problem:
    return configuration.problem("insecure-url", "it is asked over https only, or on this machine", place, "use https")


def _clients(configuration: Configuration) -> Iterator[Problem]:
    """A client id means one agent, at one issuer: at another's it may be anybody's."""
    settings = configuration.settings
    aliases = tuple(issuer.alias for issuer in settings.issuers)
    holders = {(issuer.alias, client): "direct_clients" for issuer in settings.issuers for client in issuer.direct_clients}
    for name, agent in settings.agents.items():
        place = ("agents", name, "client_ids")
        by_issuer = agent.client_ids
        if not isinstance(by_issuer, dict):
            if by_issuer and len(aliases) > 1:
                text = "with several issuers a client id must say whose it is: at another it may be somebody else's"
                help_ = f"write client_ids: {{{aliases[0]}: [{', '.join(by_issuer)}]}}"
                yield configuration.problem("ambiguous-client", text, place, help_)
                continue
            by_issuer = {aliases[0] if aliases else "": by_issuer}
        for alias, clients in by_issuer.items():
            inner = (*place, alias) if isinstance(agent.client_ids, dict) else place
            if alias not in aliases and isinstance(agent.client_ids, dict):
                known = f"known: {', '.join(aliases)}" if aliases else "there is no issuer"
                yield configuration.problem("unknown-issuer", f"no issuer has the alias '{alias}'", inner, known)
            for index, client in enumerate(clients):
                if holders.setdefault((alias, client), name) != name:
                    text = f"client id '{client}' belongs to {holders[alias, client]} already: it must mean one agent"
                    yield configuration.problem("duplicate-client", text, (*inner, index))


def _is_confidential(url: str) -> bool:
    parts = urlsplit(url)
    return (parts.scheme == "https" and bool(parts.hostname)) or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
