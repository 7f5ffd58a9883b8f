"""A request's head, from its first byte to the empty line: read whole or not at all, by two readers that must agree.

httptools checks every field and the framing; the request line and what frames the body are read here, strictly.  Sans I/O.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

import httptools

HEAD_BYTES: Final = 64 * 1024
HEADER_COUNT: Final = 128
TARGET_BYTES: Final = 8 * 1024

_LINE = re.compile(rb"([A-Z][A-Z-]{0,31}) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n")
_LINE_BYTES = 32 + TARGET_BYTES + len(b"  HTTP/1.1\r\n")
_HOST = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_KNOWN_HOSTS = 64
_LENGTH_DIGITS = 18
_SPOKEN = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"})

_hosts: set[bytes] = set()  # that were found to be well-formed; whether one is ours, the application says


class FaultyRequestError(Exception):
    """A request that is refused before it is anybody's: `status`, and what to do about it."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


_MALFORMED = "the request is not well-formed HTTP/1.1"


class Head:
    """What was asked, and how its body is framed: `length` bytes, or `chunked`, or none.

    keep      whether the connection may serve another request.
    expects   whether the client waits for `100 Continue` before it sends the body.
    """

    __slots__ = ("chunked", "expects", "headers", "keep", "length", "method", "path", "query", "raw_path", "version", "whole")

    def __init__(self) -> None:
        self.method = ""
        self.path = ""
        self.raw_path = b""
        self.query = b""
        self.version = "1.1"
        self.headers: list[tuple[bytes, bytes]] = []
        self.length = 0
        self.chunked = False
        self.keep = True
        self.expects = False
        self.whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field, as the parser saw it."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The parser, too, sees the head's end."""
        self.whole = True


def read_head(raw: bytes) -> Head:
    """The head that `raw` is, its final empty line included; `FaultyRequestError` where it is not exactly one."""
    line = _LINE.match(raw)
    if line is None:
        raise FaultyRequestError(400, _MALFORMED)
    method, target, major, minor = line.groups()
    head = Head()
    upgrade = False
    try:
        httptools.HttpRequestParser(head).feed_data(raw)
    except httptools.HttpParserUpgrade:
        upgrade = True
    except httptools.HttpParserError:
        raise FaultyRequestError(400, _MALFORMED) from None
    if not head.whole:
        raise FaultyRequestError(400, _MALFORMED)
    if b" \r\n" in raw or b"\t\r\n" in raw:  # the parser keeps white space that ends a value
        head.headers = [(name, value.rstrip(b" \t")) for name, value in head.headers]
    if major != b"1" or minor not in {b"0", b"1"}:
        raise FaultyRequestError(505, "this port speaks HTTP/1.1")
    if upgrade:
        raise FaultyRequestError(501, "this port speaks HTTP/1.1 alone: no tunnel, and no other protocol by Upgrade")
    if len(target) > TARGET_BYTES:
        raise FaultyRequestError(414, f"the request's target is longer than {TARGET_BYTES} bytes")
    if len(head.headers) > HEADER_COUNT:
        raise FaultyRequestError(431, f"more than {HEADER_COUNT} header fields")
    if target[0] != 0x2F or b"#" in target:
        raise FaultyRequestError(400, "the request's target must be a path, with or without a query")
    head.method = method.decode()
    raw_path, _, head.query = target.partition(b"?")
    head.raw_path = raw_path
    path = raw_path.decode()
    head.path = unquote(path) if "%" in path else path
    if minor == b"0":
        head.version = "1.0"
        head.keep = False
    _frame(head)
    return head


def _frame(head: Head) -> None:
    """Where the body ends, and whether another request may follow (RFC 9112 §6 and §9.3, without their leniencies)."""
    spoken = _spoken(head.headers)
    old = head.version == "1.0"
    host = spoken.get(b"host")
    if host is None:
        if not old:
            raise FaultyRequestError(400, "exactly one Host is expected")
    elif host not in _hosts:
        _learn_host(host)
    if b"close" in [token.strip() for token in spoken.get(b"connection", b"").lower().split(b",")]:
        head.keep = False
    length, coding, expected = spoken.get(b"content-length"), spoken.get(b"transfer-encoding"), spoken.get(b"expect")
    if length is not None:
        if coding is not None or not length.isdigit() or len(length) > _LENGTH_DIGITS:
            raise FaultyRequestError(400, _MALFORMED)
        head.length = int(length)
    elif coding is not None:
        if old:
            raise FaultyRequestError(400, _MALFORMED)
        if coding.lower() != b"chunked":
            raise FaultyRequestError(501, "of the transfer codings only `chunked` is understood")
        head.chunked = True
    if expected is not None and not old:
        if expected.lower() != b"100-continue":
            raise FaultyRequestError(417, "of the expectations only `100-continue` is understood")
        head.expects = True


def _learn_host(host: bytes) -> None:
    if _HOST.fullmatch(host) is None:
        raise FaultyRequestError(400, "Host must be a name or an address, with or without a port")
    if len(_hosts) < _KNOWN_HOSTS and len(host) < 256:
        _hosts.add(host)


def _spoken(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The fields that are the listener's to understand.  Each stands once, but for `Connection`."""
    spoken: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _SPOKEN:
            if name not in spoken:
                spoken[name] = value
            elif name == b"connection":
                spoken[name] += b"," + value
            else:
                raise FaultyRequestError(400, _MALFORMED)
    return spoken


def check_unfinished(raw: bytes) -> None:
    """`FaultyRequestError` where no bytes that may still come make a head of this beginning."""
    start = raw[:HEAD_BYTES]
    if not 0x41 <= raw[0] <= 0x5A and raw != b"\r":
        raise FaultyRequestError(400, _MALFORMED)
    if start.count(b"\n") != start.count(b"\r\n"):
        raise FaultyRequestError(400, _MALFORMED)
    if len(raw) >= HEAD_BYTES:
        if start.find(b"\r\n", 0, _LINE_BYTES) < 0:
            raise FaultyRequestError(414, f"the request's target is longer than {TARGET_BYTES} bytes")
        raise FaultyRequestError(431, f"the head is longer than {HEAD_BYTES} bytes")
