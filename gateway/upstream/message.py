"""What is asked of an upstream, as bytes that cannot be anything else: every header checked, nothing of ours overridable."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NewType
from urllib.parse import urlsplit

import msgspec

HeaderBlock = NewType("HeaderBlock", bytes)
"""Checked header lines, each ended by CRLF; made by `header_block` alone."""

NO_HEADERS = HeaderBlock(b"")

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_TARGET = re.compile(rb"/[\x21-\x7e]*")
_METHODS = frozenset({b"GET", b"POST", b"PUT", b"DELETE", b"PATCH"})  # HEAD and CONNECT frame their answers otherwise
FRAMING = frozenset(
    {
        b"host",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
        b"expect",
        b"accept-encoding",
    }
)
"""By these the client would change framing or addressing."""


def header_block(headers: Iterable[tuple[bytes, bytes]]) -> HeaderBlock:
    """Header lines ready to send.

    Raises ValueError for a name that is no token, a value with a control character or outer space, and a header by which the
    client would change framing or addressing.  The message names the header and never its value.
    """
    lines: list[bytes] = []
    for name, value in headers:
        if _TOKEN.fullmatch(name) is None:
            raise ValueError("a header name is not a token")
        if _VALUE.fullmatch(value) is None:
            raise ValueError(f"the value of header {name.decode('ascii')} cannot be sent")
        if name.lower() in FRAMING:
            raise ValueError(f"header {name.decode('ascii')} is not the caller's to set")
        lines += (name, b": ", value, b"\r\n")
    return HeaderBlock(b"".join(lines))


class Url(msgspec.Struct, frozen=True, gc=False):
    """Where requests go, taken apart and checked once.

    authority      as the Host header says it.
    target         path and query, as the request line says them.
    allow_private  whether the address may be loopback or private; link-local and metadata addresses never may.
    """

    scheme: str
    host: str
    port: int
    authority: bytes
    target: bytes
    allow_private: bool = False

    @classmethod
    def parse(cls, url: str, *, allow_private: bool = False) -> Url:
        """An absolute http or https URL without user, password or fragment; ValueError for anything else."""
        if not url.isascii() or any(c <= " " or c == "\x7f" for c in url) or "\\" in url:
            raise ValueError("a URL is ASCII without spaces, control characters or backslashes")
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("a URL is absolute, and http or https")
        if "@" in parts.netloc or parts.fragment:
            raise ValueError("a URL carries no user, password or fragment")
        secure = parts.scheme == "https"
        port = parts.port if parts.port is not None else (443 if secure else 80)
        if port == 0:
            raise ValueError("port 0 is not an address")
        shown = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        authority = shown if port == (443 if secure else 80) else f"{shown}:{port}"
        target = ((parts.path or "/") + (f"?{parts.query}" if parts.query else "")).encode("ascii")
        if _TARGET.fullmatch(target) is None:
            raise ValueError("a URL's path starts with a slash")
        return cls(parts.scheme, parts.hostname, port, authority.encode("ascii"), target, allow_private)

    @property
    def origin(self) -> tuple[str, str, int, bool]:
        """What one connection pool is for."""
        return self.scheme, self.host, self.port, self.allow_private


class HttpRequest(msgspec.Struct, frozen=True, gc=False):
    """One request.

    static   headers that are the same in every request, checked when they were made.
    headers  headers of this request, checked when it is sent.
    replay   whether it may be sent once more when a pooled connection turns out to be dead before any answer came.  An upstream
             that died while working looks the same, so nothing that has an effect may say True.
    """

    url: Url
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    static: HeaderBlock = NO_HEADERS
    method: bytes = b"POST"
    replay: bool = False

    def to_bytes(self) -> bytes:
        """As it goes over the wire (RFC 9112 §3); ValueError where that cannot be."""
        if self.method not in _METHODS:
            raise ValueError("the method is not one that is sent")
        length = b"content-length: %d\r\n" % len(self.body) if self.body or self.method not in {b"GET", b"DELETE"} else b""
        return b"".join(
            (
                self.method,
                b" ",
                self.url.target,
                b" HTTP/1.1\r\nhost: ",
                self.url.authority,
                b"\r\naccept-encoding: identity\r\n",
                self.static,
                header_block(self.headers),
                length,
                b"\r\n",
                self.body,
            )
        )
