"""The head of an HTTP CONNECT, read strictly: bytes in, one target out or a refusal with its status.  No I/O.

What two readers could read differently is refused: one spelling of a name, one of a port, CRLF alone, no body, no second Host.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

HEAD_BYTES: Final = 8192
_FIELDS: Final = 64
_METHOD: Final = b"CONNECT "
_VERSIONS: Final = (b"HTTP/1.1", b"HTTP/1.0")
_LABEL = re.compile(rb"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PORT = re.compile(rb"[1-9][0-9]{0,4}")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_ODD = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"upgrade", b"expect", b"trailer", b"te"})
_OURS: Final = (b"127.0.0.1:3128", b"localhost:3128")
"""What some clients, as Node's plain `http`, say in Host: the proxy itself."""


class Target(NamedTuple):
    """A host by name, in lower case, and a port."""

    host: str
    port: int


class HeadError(Exception):
    """This is not the head of a CONNECT that is served.  `status` is HTTP's; the message is for whoever wrote the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Head:
    """Collects one head.  Feed it until it gives the target; afterwards it is spent."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Target | None:
        """The target, once the head is whole; None while it is not.  HeadError as soon as it cannot become one."""
        seen = len(self._data)
        self._data += data
        if _ODD.search(self._data, max(seen - 1, 0)):
            raise HeadError(400, "a line of the head ends in something else than CR LF, or holds a NUL")
        _begins(bytes(self._data[:32]))
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            if len(self._data) > HEAD_BYTES:
                raise HeadError(431, "the head is longer than is read here")
            return None
        if end > HEAD_BYTES:
            raise HeadError(431, "the head is longer than is read here")
        if len(self._data) > end + 4:
            raise HeadError(400, "something follows the head before it was answered")
        return _read(bytes(self._data[:end]))


def _begins(data: bytes) -> None:
    """HeadError for what begins otherwise than a CONNECT: SOCKS, TLS and HTTP/2 are not waited for."""
    if data[:1] in (b"\x04", b"\x05"):
        raise HeadError(400, "this is an HTTP proxy, not a SOCKS one")
    if data[:1] == b"\x16":
        raise HeadError(400, "this is a proxy: ask with CONNECT first, then speak TLS")
    if data.startswith(_METHOD) or _METHOD.startswith(data):
        return
    method, space, _ = data.partition(b" ")
    if re.fullmatch(rb"[A-Z]{1,16}", method) is None:
        raise HeadError(400, "the request is not HTTP/1.1")
    if space:
        raise HeadError(405, "only CONNECT is spoken here: plain http:// is not offered, use https://")


def _read(head: bytes) -> Target:
    line, *fields = head.split(b"\r\n")
    parts = line.split(b" ")
    if len(parts) != 3 or parts[2] not in _VERSIONS:
        raise HeadError(400, "the request line is not 'CONNECT host:port HTTP/1.1'")
    target = authority(parts[1])
    _check(fields, target)
    return target


def authority(text: bytes) -> Target:
    """`host:port` as it stands in a CONNECT; HeadError for every other form of a host than its name, and of a port."""
    host, colon, port = text.rpartition(b":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        raise HeadError(400, "the target is not host:port")
    name = host.lower()
    labels = name.split(b".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise HeadError(400, "the host is not a plain name: letters, digits, hyphens and dots (IDNA as xn--)")
    if not labels[-1][:1].isalpha():  # 10.0.0.1, 0x7f.1, 2130706433: whatever a resolver takes for an address
        raise HeadError(403, "the host is an address: destinations are names")
    return Target(name.decode("ascii"), int(port))


def _check(fields: list[bytes], target: Target) -> None:
    """HeadError for a field that is malformed, promises a body, or names another host."""
    if len(fields) > _FIELDS:
        raise HeadError(431, "the head has more fields than are read here")
    hosts = 0
    for line in fields:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise HeadError(400, "a field of the head is malformed")
        name, value = field[1].lower(), field[2].strip(b" \t")
        if name in _FRAMING:
            raise HeadError(400, f"a CONNECT has no {name.decode('ascii')}")
        if name == b"host":
            hosts += 1
            if hosts > 1 or value.lower() not in (f"{target.host}:{target.port}".encode(), target.host.encode(), *_OURS):
                raise HeadError(400, "the field Host names another host than the request line")
