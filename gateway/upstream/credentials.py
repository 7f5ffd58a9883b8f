"""The gateway's own credentials towards upstreams, resolved once at start.  A caller's credential never becomes one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from gateway.settings import Secret
from gateway.upstream.message import HeaderBlock, header_block

Resolve = Callable[[Secret], str]
"""A reference to its secret, without the prefix; raises where it cannot be found."""

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


def block(credentials: Iterable[tuple[bytes, bytes]], fixed: Iterable[tuple[bytes, bytes]]) -> HeaderBlock:
    """The header lines that are the same in every request to one upstream."""
    return header_block((*fixed, *credentials))


def environment(variables: Mapping[str, Secret], resolve: Resolve) -> dict[str, str]:
    """Environment variables of a child process, with their secrets."""
    return {name: f"{secret.prefix}{resolve(secret)}" for name, secret in variables.items()}
