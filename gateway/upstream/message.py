"""What is asked of an upstream, as bytes that cannot be anything else: every header checked, nothing of ours overridable."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NewType
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import force_setattr

HeaderBlock = NewType("HeaderBlock", bytes)
"""Checked header lines, each ended by CRLF; made by `header_block` alone."""

NO_HEADERS = HeaderBlock(b"")

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_CONTROL = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])
_OUTER = b" \t"
_KNOWN_NAMES = 256
_TARGET = re.compile(rb"/[\x21-\x7e]*")
_METHODS = frozenset({b"GET", b"POST", b"PUT", b"DELETE", b"PATCH"})  # HEAD and CONNECT frame their answers otherwise
_MAY_BE_BARE = frozenset({b"GET", b"DELETE"})
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


_names: dict[bytes, bytes] = {}  # that were found to be tokens, and the caller's to set, with their colon; a protocol uses few


def header_block(headers: Iterable[tuple[bytes, bytes]]) -> HeaderBlock:
    """Header lines ready to send.

    Raises ValueError for a name that is no token, a value with a control character or outer space, and a header by which the
    client would change framing or addressing.  The message names the header and never its value.
    """
    lines: list[bytes] = []
    for name, value in headers:
        start = _names.get(name) or _learn(name)
        if len(value.translate(None, _CONTROL)) != len(value) or len(value.strip(_OUTER)) != len(value):
            raise ValueError(f"the value of header {name.decode('ascii')} cannot be sent")
        lines += (start, value, b"\r\n")
    return HeaderBlock(b"".join(lines))


def _learn(name: bytes) -> bytes:
    if _TOKEN.fullmatch(name) is None:
        raise ValueError("a header name is not a token")
    if name.lower() in FRAMING:
        raise ValueError(f"header {name.decode('ascii')} is not the caller's to set")
    start = name + b": "
    if len(_names) < _KNOWN_NAMES:
        _names[name] = start
    return start


class Url(msgspec.Struct, frozen=True, gc=False):
    """Where requests go, taken apart and checked once.

    authority      as the Host header says it.
    target         path and query, as the request line says them.
    allow_private  whether the address may be loopback or private; link-local and metadata addresses never may.
    origin         what one connection pool is for; follows from the others.
    """

    scheme: str
    host: str
    port: int
    authority: bytes
    target: bytes
    allow_private: bool = False
    origin: tuple[str, str, int, bool] = ("", "", 0, False)

    def __post_init__(self) -> None:
        force_setattr(self, "origin", (self.scheme, self.host, self.port, self.allow_private))

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
        url, method, body = self.url, self.method, self.body
        if method not in _METHODS:
            raise ValueError("the method is not one that is sent")
        length = b"content-length: %d\r\n" % len(body) if body or method not in _MAY_BE_BARE else b""
        return b"".join(
            (
                method,
                b" ",
                url.target,
                b" HTTP/1.1\r\nhost: ",
                url.authority,
                b"\r\naccept-encoding: identity\r\n",
                self.static,
                header_block(self.headers) if self.headers else b"",
                length,
                b"\r\n",
                body,
            )
        )
