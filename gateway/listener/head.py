"""A request's head, from its first byte to the empty line: read whole or not at all, by two readers that must agree.

httptools checks every field and the framing; the request line and what frames the body are read here, strictly.  Sans I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

import httptools

HEAD_BYTES: Final = 64 * 1024
HEADER_COUNT: Final = 128
TARGET_BYTES: Final = 8 * 1024

_LINE = re.compile(rb"[A-Z][A-Z-]{0,31} [!-~]+ HTTP/[0-9]\.[0-9]")
_VERSIONS = frozenset({b"HTTP/1.1", b"HTTP/1.0"})
_KNOWN_LINES, _KNOWN_LINE_BYTES = 256, 256
_LINE_BYTES = 32 + TARGET_BYTES + len(b"  HTTP/1.1\r\n")
_HOST = re.compile(r"(?:[A-Za-z0-9._~%!$&'()*+;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_KNOWN_HOSTS = 64
_TABBED = re.compile(rb"\r\n(?:content-length|transfer-encoding):[^\r]*\t", re.IGNORECASE)  # not every server reads past it
_TAB = 0x09
_LENGTH_DIGITS = 18
_ONCE = ("host", "content-length", "transfer-encoding", "expect")
_USUAL = (
    "accept", "accept-encoding", "accept-language", "authorization", "cache-control", "connection", "content-length",
    "content-type", "dpop", "host", "last-event-id", "mcp-method", "mcp-name", "mcp-protocol-version", "mcp-session-id", "origin",
    "traceparent", "tracestate", "user-agent",
)  # fmt: skip
_NAMES = {  # as they mostly come, and as they are read
    each.encode(): name
    for name in _USUAL
    for each in (name, name.title(), name.title().replace("Mcp", "MCP").replace("Dpop", "DPoP"))
}

_Asked = tuple[str, str, bytes, bytes, str]  # method, path, raw path, query, version
_lines: dict[bytes, _Asked] = {}  # request lines that were found to be well-formed, and what they ask for
_hosts: set[str] = set()  # that were found to be well-formed; whether one is ours, the application says


class FaultyRequestError(Exception):
    """A request that is refused before it is anybody's: `status`, and what to do about it."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


_MALFORMED = "the request is not well-formed HTTP/1.1"


class Head:
    """What was asked, and how its body is framed: `length` bytes, or `chunked`, or none.

    fields    name, in lower case, and value of each field, in order of arrival.
    by_name   the same values by name.
    keep      whether the connection may serve another request.
    expects   whether the client waits for `100 Continue` before it sends the body.

    Iterated, it is what ASGI calls headers: pairs of bytes, made for whoever reads no text.
    """

    __slots__ = (
        "by_name", "chunked", "expects", "fields", "keep", "length", "method", "path", "query", "raw_path", "version", "whole",
    )  # fmt: skip

    method: str
    path: str
    raw_path: bytes
    query: bytes
    version: str

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] = []
        self.by_name: dict[str, list[str]] = {}
        self.length = 0
        self.chunked = False
        self.keep = True
        self.expects = False
        self.whole = False

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter([(name.encode("ascii"), value.encode("latin-1")) for name, value in self.fields])

    def __len__(self) -> int:
        return len(self.fields)

    def on_header(self, raw_name: bytes, raw_value: bytes) -> None:
        """One field, as the parser saw it; space that ends a value it keeps."""
        name = _NAMES.get(raw_name) or raw_name.decode("ascii").lower()
        value = raw_value.rstrip().decode("latin-1")
        self.fields.append((name, value))
        if name in self.by_name:
            self.by_name[name].append(value)
        else:
            self.by_name[name] = [value]

    def on_headers_complete(self) -> None:
        """The parser, too, sees the head's end."""
        self.whole = True


def read_head(raw: bytes) -> Head:
    """The head that `raw` is, its final empty line included; `FaultyRequestError` where it is not exactly one."""
    line = raw[: raw.find(b"\r\n")]
    asked = _lines.get(line)
    if asked is None and _LINE.fullmatch(line) is None:
        raise FaultyRequestError(400, _MALFORMED)
    head = Head()
    try:
        httptools.HttpRequestParser(head).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # an offer that is not taken up (RFC 9110 §7.8): the request is one of HTTP/1.1, its body framed as ever
    except httptools.HttpParserError:
        raise FaultyRequestError(400, _MALFORMED) from None
    if not head.whole or (_TAB in raw and _TABBED.search(raw) is not None):
        raise FaultyRequestError(400, _MALFORMED)
    if asked is None:
        asked = _read_line(line)
    if len(head.fields) > HEADER_COUNT:
        raise FaultyRequestError(431, f"more than {HEADER_COUNT} header fields")
    head.method, head.path, head.raw_path, head.query, head.version = asked
    _frame(head)
    return head


def _read_line(line: bytes) -> _Asked:
    """What a request line that is well-formed asks for."""
    method, target, version = line.split(b" ")
    if version not in _VERSIONS:
        raise FaultyRequestError(505, "this port speaks HTTP/1.1")
    if method == b"CONNECT":
        raise FaultyRequestError(501, "this port is no tunnel")
    if len(target) > TARGET_BYTES:
        raise FaultyRequestError(414, f"the request's target is longer than {TARGET_BYTES} bytes")
    if target[0] != 0x2F or b"#" in target:
        raise FaultyRequestError(400, "the request's target must be a path, with or without a query")
    raw_path, _, query = target.partition(b"?")
    path = raw_path.decode()
    asked = (method.decode(), unquote(path) if "%" in path else path, raw_path, query, version[5:].decode())
    if len(line) <= _KNOWN_LINE_BYTES:
        if len(_lines) >= _KNOWN_LINES:
            _lines.clear()
        _lines[line] = asked
    return asked


def _frame(head: Head) -> None:
    """Where the body ends, and whether another request may follow (RFC 9112 §6 and §9.3, without their leniencies)."""
    said, old = head.by_name, head.version == "1.0"
    if len(said) != len(head.fields):
        for name in _ONCE:
            if len(said.get(name, ())) > 1:
                raise FaultyRequestError(400, _MALFORMED)
    host = said.get("host")
    if host is None:
        if not old:
            raise FaultyRequestError(400, "exactly one Host is expected")
    elif host[0] not in _hosts:
        _learn_host(host[0])
    length, coding = said.get("content-length"), said.get("transfer-encoding")
    if length is not None:
        digits = length[0]
        if coding is not None or not (digits.isascii() and digits.isdigit()) or len(digits) > _LENGTH_DIGITS:
            raise FaultyRequestError(400, _MALFORMED)
        head.length = int(digits)
    elif coding is not None:
        _code(head, coding[0])
    wishes = said.get("connection")
    if old or (wishes is not None and "close" in [token.strip(" \t") for token in ",".join(wishes).lower().split(",")]):
        head.keep = False
    expected = said.get("expect")
    if expected is not None and not old:
        if expected[0].lower() != "100-continue":
            raise FaultyRequestError(417, "of the expectations only `100-continue` is understood")
        head.expects = True


def _code(head: Head, coding: str) -> None:
    if head.version == "1.0":
        raise FaultyRequestError(400, _MALFORMED)
    if coding.lower() != "chunked":
        raise FaultyRequestError(501, "of the transfer codings only `chunked` is understood")
    head.chunked = True


def _learn_host(host: str) -> None:
    if _HOST.fullmatch(host) is None:
        raise FaultyRequestError(400, "Host must be a name or an address, with or without a port")
    if len(_hosts) < _KNOWN_HOSTS and len(host) < 256:
        _hosts.add(host)


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
