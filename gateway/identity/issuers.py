"""One configured issuer and everything that is asked of it: its keys, its metadata, its word on opaque tokens, its directory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.identity.asking import Ask
from gateway.identity.client import OAuthClient
from gateway.identity.directory import Directory, FileDirectory, ScimDirectory
from gateway.identity.discovery import Discovery, MetadataError
from gateway.identity.introspection import Endpoint, Introspection
from gateway.identity.keyfiles import resolve
from gateway.identity.keys import Fetch, KeySet, is_confidential
from gateway.identity.token import Rule
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from gateway.settings import Issuer

LEEWAY_SECONDS = 30
LONGEST_SECONDS = 24 * 3600
STRICT_TYPES = frozenset({"at+jwt", "application/at+jwt"})


@dataclass(frozen=True, slots=True)
class Ways:
    """How issuers are reached, and where secrets are.  None: not at all.

    fetch, ask            where the operator named the address, which may be private.
    fetch_named, ask_named  where somebody's metadata named it, which may not.
    endpoints  beginnings of this gateway's own addresses: a token may be for one of them alone (RFC 8707).
    """

    fetch: Fetch | None = None
    ask: Ask | None = None
    fetch_named: Fetch | None = None
    ask_named: Ask | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    monotonic: Callable[[], float] = time.monotonic
    endpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trusted:
    """An issuer whose tokens are accepted.

    tenant  of its people, where no claim says it.
    agents  which agent holds tokens that were issued to which client.
    """

    settings: Issuer
    rule: Rule
    keys: KeySet
    tenant: str
    agents: Mapping[str, str]
    discovery: Discovery | None = None
    introspection: Introspection | None = None
    directory: Directory | None = None

    async def close(self) -> None:
        """End what is under way."""
        for part in (self.keys, self.discovery, self.introspection, self.directory):
            if part is not None:
                await part.close()


def trusted(issuer: Issuer, agents: Mapping[str, str], tenant: str, ways: Ways) -> Trusted:
    """The parts of one issuer; asks nobody yet.  ProblemError for settings that could not be kept safely."""
    rule, discovery = _rule(issuer, ways.endpoints), None
    if issuer.jwks is None or (issuer.introspection is not None and issuer.introspection.url is None):
        discovery = Discovery(issuer.issuer, ways.fetch, ways.monotonic, elsewhere=ways.fetch_named)
    if issuer.jwks is not None:
        keys = KeySet(issuer.jwks, ways.fetch, ways.monotonic)
    else:
        assert discovery is not None  # noqa: S101  made above
        keys = KeySet(discovery.keys, monotonic=ways.monotonic)
    introspection = _introspection(issuer, rule, discovery, ways)
    return Trusted(issuer, rule, keys, issuer.tenant or tenant, agents, discovery, introspection, _directory(issuer, ways))


def _rule(issuer: Issuer, endpoints: tuple[str, ...]) -> Rule:
    types = frozenset(issuer.token_types)
    if "at+jwt" in types:
        types |= STRICT_TYPES  # RFC 9068 §4 allows both spellings
    algorithms = frozenset(issuer.algorithms)
    return Rule(types, algorithms, issuer.issuer, issuer.audience, LEEWAY_SECONDS, LONGEST_SECONDS, beneath=endpoints)


def endpoints_of(public_url: str) -> tuple[str, ...]:
    """What the addresses of all servers and agents behind a gateway begin with."""
    return f"{public_url}/mcp/", f"{public_url}/a2a/"


def _introspection(issuer: Issuer, rule: Rule, discovery: Discovery | None, ways: Ways) -> Introspection | None:
    settings, place = issuer.introspection, f"issuers.{issuer.alias}.introspection"
    if settings is None:
        return None
    if settings.client.secret is None and settings.client.key is None:
        message = "an issuer answers only to a client that proves itself"
        raise ProblemError(Problem("no-client", message, f"{place}.client", "give it a secret or a key"))
    client = OAuthClient(settings.client, ways.environ, f"{place}.client")
    named = str(settings.url) if settings.url is not None else ""
    endpoint = _fixed(named, _way(ways.ask, named, place)) if named else _found(discovery, issuer.issuer, ways, place)
    return Introspection(rule, endpoint, client, settings.cache_seconds)


def _fixed(url: str, ask: Ask) -> Endpoint:
    async def endpoint() -> tuple[str, Ask]:
        return url, ask

    return endpoint


def _found(discovery: Discovery | None, issuer: str, ways: Ways, place: str) -> Endpoint:
    """Where the issuer's metadata says."""
    ask = _way(ways.ask, issuer, place)
    ask_named = ways.ask_named or ask

    async def endpoint() -> tuple[str, Ask]:
        metadata = await discovery.get() if discovery is not None else None
        if metadata is None or not metadata.introspection_endpoint:
            msg = "the issuer's metadata names no place to ask"
            raise MetadataError(msg)
        url = metadata.introspection_endpoint
        return url, ask if urlsplit(url).netloc == urlsplit(issuer).netloc else ask_named

    return endpoint


def _directory(issuer: Issuer, ways: Ways) -> Directory | None:
    settings, place = issuer.directory, f"issuers.{issuer.alias}.directory"
    if settings is None:
        return None
    if (settings.url is None) == (settings.file is None):
        raise ProblemError(Problem("no-directory", "give exactly one of url and file", place))
    if settings.file is not None:
        return FileDirectory(settings.file, ways.monotonic)
    url = str(settings.url)
    token = resolve(settings.token, ways.environ, f"{place}.token") if settings.token is not None else ""
    if not token.isascii() or not token.isprintable() or token != token.strip():
        raise ProblemError(Problem("wrong-secret", "a bearer token is printable ASCII", f"{place}.token"))
    ask = _way(ways.ask, url, place)
    named = settings.group_names
    return ScimDirectory(url, token, ask, settings.cache_seconds, named=named, monotonic=ways.monotonic)


def _way(ask: Ask | None, url: str, place: str) -> Ask:
    if not is_confidential(url):
        raise ProblemError(Problem("insecure-url", "it is asked over https only, or on this machine", place, "use https"))
    if ask is None:
        raise ProblemError(Problem("no-fetcher", "it needs the gateway's HTTP client", place))
    return ask
