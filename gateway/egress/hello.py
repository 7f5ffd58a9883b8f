"""The beginning of a TLS connection, as far as it is in clear: whose name the client asks for.  Bytes in, a verdict out; no I/O.

Only a whole, strictly read ClientHello passes, however its records are cut.  A name that is hidden (ECH, ESNI) is no name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

HELLO_BYTES: Final = 64 * 1024
"""Most bytes of records until a ClientHello is whole: those of post-quantum clients have two kilobytes."""
_CHANGE_CIPHER, _ALERT, _HANDSHAKE, _DATA = 20, 21, 22, 23
_CLIENT_HELLO, _SERVER_HELLO = 1, 2
_SERVER_NAME: Final = 0
_HIDDEN: Final = frozenset({0xFE0D, 0xFFCE})  # encrypted_client_hello, and the encrypted_server_name of its drafts
_RETRY: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")  # RFC 8446 §4.1.3


class HelloError(Exception):
    """This is not the beginning of a TLS connection to the name that was asked for; the message says why."""


class Hello:
    """Collects one ClientHello for `name` (lower case).

    again  it is the second one, after a HelloRetryRequest: early data and the change of ciphers may come before it.
    """

    __slots__ = ("_again", "_at", "_data", "_message", "_name")

    def __init__(self, name: str, *, again: bool = False) -> None:
        self._name = name.encode("ascii")
        self._again = again
        self._data = bytearray()
        self._at = 0  # where the next record begins
        self._message = bytearray()

    def feed(self, data: bytes) -> bool:
        """Whether the hello is whole, and asks for the name.  HelloError as soon as it cannot become that."""
        self._data += data
        while (record := _record(self._data, self._at)) is not None:
            kind, payload, self._at = record
            if self._again and not self._message and kind in (_CHANGE_CIPHER, _DATA):
                continue
            if kind != _HANDSHAKE:
                raise HelloError("something else than a ClientHello came")
            self._message += payload
            if self._whole():
                return True
        if len(self._data) > HELLO_BYTES:
            raise HelloError("the ClientHello is longer than is read here")
        if not self._again:
            _begins(self._data, self._at)
        return False

    def taken(self) -> tuple[bytes, bytes]:
        """The records of the hello as they came, and what came after them."""
        return bytes(self._data[: self._at]), bytes(self._data[self._at :])

    def _whole(self) -> bool:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            raise HelloError("the first message is no ClientHello")
        if len(message) < 4:
            return False
        length = int.from_bytes(message[1:4])
        if len(message) > 4 + length:
            raise HelloError("something follows the ClientHello in its record")
        if len(message) < 4 + length:
            return False
        found = server_name(bytes(message[4:]))
        if found.lower() != self._name:
            raise HelloError("the ClientHello names another server than the CONNECT")
        return True


class Answer:
    """What a server answers to a ClientHello, read until it is known whether it asks for another one."""

    __slots__ = ("_at", "_data", "_message")

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0
        self._message = bytearray()

    def feed(self, data: bytes) -> bool | None:
        """True: a HelloRetryRequest, so that another hello follows in clear; False: anything else; None: not known yet."""
        self._data += data
        if self._data[0] != _HANDSHAKE:
            return False
        try:
            while (record := _record(self._data, self._at)) is not None:
                kind, payload, self._at = record
                if kind != _HANDSHAKE:
                    return False
                self._message += payload
                if self._message[0] != _SERVER_HELLO:
                    return False
                if len(self._message) >= 38:
                    return bytes(self._message[6:38]) == _RETRY
        except HelloError:
            return False  # the client will say so; nothing of it concerns what the client sends
        return None


def _begins(data: bytearray, at: int) -> None:
    """HelloError for the beginning of a record that can be none of a hello: HTTP is not waited for."""
    if len(data) > at and data[at] != _HANDSHAKE:
        raise HelloError("this is no TLS: the destination is not declared plain")
    if len(data) > at + 1 and data[at + 1] != 3:
        raise HelloError("the record is of no known version of TLS")


def _record(data: bytearray, at: int) -> tuple[int, bytes, int] | None:
    """(kind, payload, where the next one begins); None where it is not whole."""
    if len(data) < at + 5:
        return None
    kind, major, minor, length = data[at], data[at + 1], data[at + 2], int.from_bytes(data[at + 3 : at + 5])
    if kind not in (_CHANGE_CIPHER, _ALERT, _HANDSHAKE, _DATA):
        raise HelloError("this is no TLS: the destination is not declared plain")
    if major != 3 or minor > 4:
        raise HelloError("the record is of no known version of TLS")
    if not 0 < length <= (1 << 14) + 256:
        raise HelloError("a record is empty or too long")
    if len(data) < at + 5 + length:
        return None
    return kind, bytes(data[at + 5 : at + 5 + length]), at + 5 + length


def server_name(body: bytes) -> bytes:
    """The one host name of a ClientHello without its header; HelloError where it has none, hides it, or is not well formed."""
    reader = _Reader(body)
    if reader.take(2)[0] != 3:
        raise HelloError("the ClientHello is of no known version of TLS")
    reader.take(32)
    session, ciphers, compressions = reader.vector(1), reader.vector(2), reader.vector(1)
    if len(session) > 32 or len(ciphers) < 2 or len(ciphers) % 2 or 0 not in compressions:
        raise HelloError("the ClientHello is malformed")
    if reader.rest() == 0:
        raise HelloError("the ClientHello names no server (SNI)")
    extensions = _Reader(reader.vector(2))
    if reader.rest():
        raise HelloError("the ClientHello is malformed")
    seen: dict[int, bytes] = {}
    while extensions.rest():
        kind = int.from_bytes(extensions.take(2))
        content = extensions.vector(2)
        if kind in seen:
            raise HelloError("the ClientHello says something twice")
        seen[kind] = content
    if _HIDDEN & seen.keys():
        raise HelloError("the ClientHello hides the server's name (ECH)")
    if _SERVER_NAME not in seen:
        raise HelloError("the ClientHello names no server (SNI)")
    return _only(seen[_SERVER_NAME])


def _only(content: bytes) -> bytes:
    outer = _Reader(content)
    names = list(_names(_Reader(outer.vector(2))))
    if outer.rest() or len(names) != 1:
        raise HelloError("the ClientHello names several servers, or none")
    return names[0]


def _names(reader: _Reader) -> Iterator[bytes]:
    while reader.rest():
        if reader.take(1) != b"\0":
            raise HelloError("the ClientHello names its server in an unknown way")
        yield reader.vector(2)


class _Reader:
    """Reads lengths and what they count; HelloError where something is missing."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) < count:
            raise HelloError("the ClientHello is malformed")
        self._at += count
        return piece

    def vector(self, width: int) -> bytes:
        return self.take(int.from_bytes(self.take(width)))

    def rest(self) -> int:
        return len(self._data) - self._at
