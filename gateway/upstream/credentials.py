"""What the gateway shows to upstreams: fixed header lines, and one strategy each.  A caller's credential never becomes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from gateway.model import Permit
from gateway.settings import Credentials, Mcp, Secret, Settings
from gateway.upstream.message import FRAMING, HeaderBlock, header_block

Lines = tuple[tuple[bytes, bytes], ...]

Resolve = Callable[[Secret], str]
"""A reference to its secret, without the prefix; raises where it cannot be found."""


class Strategy(Protocol):
    """How one upstream's credential is had; made once, at start.

    personal  whether it says for whom the call is: then it is never shown where an answer is shared between people.
    """

    personal: bool

    async def for_call(self, permit: Permit) -> tuple[Lines, str]:
        """Header lines, and their kind for the ledger (`Permit.credential`); `Refused` where they cannot be had."""

    async def rejected(self, permit: Permit) -> bool:
        """The upstream answered 401 to `permit.credentials`: forget them.  True where others may be had at once."""


class Rejected(Protocol):
    """What a road tells of a 401: see `Outbound.rejected`."""

    async def __call__(self, permit: Permit, *, again: bool) -> Permit | None:
        """The permit with another credential, or None."""


async def no_other(permit: Permit, *, again: bool) -> Permit | None:  # noqa: ARG001  `Rejected`'s shape
    """For a road that shows nothing but fixed header lines."""
    return None


_PROTOCOL = frozenset(
    {
        "accept",
        "content-type",
        "cookie",
        "origin",
        "mcp-session-id",
        "mcp-protocol-version",
        "mcp-method",
        "mcp-name",
        "last-event-id",
        "traceparent",
        "tracestate",
        "baggage",
    }
)


def resolved(headers: Mapping[str, Secret], resolve: Resolve) -> tuple[tuple[bytes, bytes], ...]:
    """Header lines with their secrets.

    ValueError, naming the header and never its value, for one that the protocol sets itself and for a value that cannot stand
    in a header.
    """
    lines = []
    for name, secret in headers.items():
        if name.lower() in _PROTOCOL or name.lower().startswith("mcp-param-"):
            raise ValueError(f"header {name} is set by the gateway itself")
        try:
            value = f"{secret.prefix}{resolve(secret)}".encode("latin-1")
        except UnicodeEncodeError:
            raise ValueError(f"the value of header {name} cannot be sent") from None
        lines.append((name.lower().encode("ascii"), value))
    header_block(lines)  # a bad value shows at start, not at the first call
    return tuple(lines)


def token_line(header: str, token: str) -> tuple[bytes, bytes]:
    """The line that shows a token: `Bearer` before it in `Authorization`, the token alone anywhere else."""
    name = header.lower()
    return name.encode("ascii"), (f"Bearer {token}" if name == "authorization" else token).encode("ascii")


def block(credentials: Iterable[tuple[bytes, bytes]], fixed: Iterable[tuple[bytes, bytes]]) -> HeaderBlock:
    """The header lines that are the same in every request to one upstream."""
    return header_block((*fixed, *credentials))


def environment(variables: Mapping[str, Secret], resolve: Resolve) -> dict[str, str]:
    """Environment variables of a child process, with their secrets."""
    return {name: f"{secret.prefix}{resolve(secret)}" for name, secret in variables.items()}


def contradictions(settings: Settings) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Where the settings around a strategy leave it no place, or nothing to do: path, what is wrong, what to do."""
    for name, server in settings.mcp.items():
        if server.credentials is None:
            continue
        path = ("mcp", name, "credentials")
        if server.command is not None and server.credentials.strategy != "none":
            yield path, "a child process is sent no headers", "give it the secret in its environment: env: {NAME: {file: …}}"
        else:
            yield from _collisions(path, server.credentials, server.headers, None)
            yield from _origin(path, server.credentials, settings)
    for name, agent in settings.agents.items():
        if agent.credentials is None:
            continue
        path = ("agents", name, "credentials")
        if agent.url is None:
            yield path, "an agent without a url is never called, so it is shown nothing", "add its url, or leave this out"
        else:
            yield from _collisions(path, agent.credentials, agent.headers, agent.delegation_header)
            yield from _origin(path, agent.credentials, settings)


def with_static(server: Mcp) -> Mcp:
    """The same server with its static secret among its headers: for a look at it from the command line."""
    chosen = server.credentials
    if chosen is None or chosen.secret is None:
        return server
    bare = chosen.header_name.lower() == "authorization" and not chosen.secret.prefix
    secret = chosen.secret.model_copy(update={"prefix": "Bearer "}) if bare else chosen.secret
    return server.model_copy(update={"headers": {**server.headers, chosen.header_name: secret}})


_SHARED = frozenset({"static_secret", "client_credentials"})


def shared_servers(settings: Settings) -> frozenset[str]:
    """Servers that see the same credential for everybody, so that they cannot tell people apart."""
    found = set()
    for name, server in settings.mcp.items():
        chosen = server.credentials.strategy if server.credentials is not None else "none"
        if chosen in _SHARED or (chosen == "none" and (server.headers or server.env)):
            found.add(name)
    return frozenset(found)


EXCHANGED = frozenset({"token_exchange", "id_jag"})
"""Strategies that need the person's own access token."""


def issuer_of(credentials: Credentials, settings: Settings) -> str | None:
    """Alias of the issuer whose people's tokens are exchanged; None where that is not clear."""
    if credentials.subject_issuer is None and len(settings.issuers) == 1:
        return settings.issuers[0].alias
    return next((issuer.alias for issuer in settings.issuers if issuer.alias == credentials.subject_issuer), None)


def _origin(path: tuple[str, ...], credentials: Credentials, settings: Settings) -> Iterator[tuple[tuple[str, ...], str, str]]:
    if credentials.strategy in EXCHANGED and issuer_of(credentials, settings) is None:
        known = ", ".join(issuer.alias for issuer in settings.issuers) or "none"
        text = "it is not clear whose people's tokens are exchanged there: a token never goes to another issuer's endpoint"
        yield path, text, f"add subject_issuer: <alias>; configured: {known}"


def _collisions(
    path: tuple[str, ...], credentials: Credentials, headers: Iterable[str], delegation: str | None
) -> Iterator[tuple[tuple[str, ...], str, str]]:
    if credentials.strategy == "none":
        if list(headers):
            yield path, "`none` says that nothing is shown, and headers are", "leave out one of them"
        return
    header = credentials.header_name.lower()
    if header in _PROTOCOL or header.startswith("mcp-param-") or header.encode() in FRAMING:
        yield path, f"header {header} is set by the gateway itself", "name another header"
    if header in {name.lower() for name in headers}:
        yield path, f"header {header} stands among headers too", "leave out one of them"
    if delegation is not None and header == delegation.lower():
        yield (
            path,
            f"the delegation token stands in {header} too",
            "give the agent another delegation_header, or name another header",
        )
