"""An answer's head: built in one go, and proven to be one; no value in it can begin a line of its own.  Sans I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_STATUS_LINES: Final = {code: f"HTTP/1.1 {code} {_PHRASES.get(code, '')}\r\n".encode() for code in range(200, 600)}
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_FEW: Final = frozenset({b"content-type: ", b"cache-control: ", b"x-accel-buffering: ", b"vary: "})  # have few values
_BODILESS: Final = frozenset({204, 304})
_KNOWN_NAMES, _KNOWN_LINES, _KNOWN_LINE_BYTES = 256, 256, 256
_LENGTH: Final = b"content-length: "
_CONNECTION: Final = b"connection: "
# What frames the answer is the listener's to say; of the application's words count its length, and a wish to close.
_FRAMING: Final = frozenset({_LENGTH, _CONNECTION, b"transfer-encoding: ", b"keep-alive: ", b"upgrade: "})

_lines: dict[tuple[bytes, bytes], bytes] = {}  # fields that were found to be well-formed, as they go onto the wire
_names: dict[bytes, bytes] = {}  # names that were found to be tokens, with their colon; an application uses few


class FaultyAnswerError(RuntimeError):
    """The application broke the rules of an answer; nothing of that message was sent."""


class AnswerHead:
    """`raw` goes onto the wire.  `length`: bytes of body to come, or None where only `chunked` or the connection's end tell.

    bodiless   whatever the application sends as a body is dropped.
    keep       whether the connection goes on.
    """

    __slots__ = ("bodiless", "chunked", "keep", "length", "raw")

    def __init__(self, status: int, headers: Iterable[tuple[bytes, bytes]], *, method: str, version: str, keep: bool) -> None:
        line = _STATUS_LINES.get(status)
        if line is None:
            msg = "a status is between 200 and 599"
            raise FaultyAnswerError(msg)
        self.keep = keep
        length: int | None = None
        raw = [line]
        for field in headers:
            known = _lines.get(field) if type(field) is tuple else None
            if known is not None:
                raw.append(known)
                continue
            name, value = field
            prefix = _names.get(name) or _learn(name)
            if prefix not in _FRAMING:
                raw.append(_line(field, prefix, value))
            elif prefix == _LENGTH:
                length = _number(value, length)
            elif prefix == _CONNECTION and b"close" in [token.strip() for token in value.lower().split(b",")]:
                self.keep = False
        self.bodiless = status in _BODILESS or method == "HEAD"
        self.chunked = False
        self.length = length
        if length is not None:
            if status != 204:
                raw.append(b"content-length: %d\r\n" % length)
        elif not self.bodiless:
            self.chunked = version == "1.1"
            self.keep = self.keep and self.chunked
            if self.chunked:
                raw.append(b"transfer-encoding: chunked\r\n")
        raw.append(b"\r\n" if self.keep else b"connection: close\r\n\r\n")
        self.raw = b"".join(raw)


def _number(value: bytes, earlier: int | None) -> int:
    if earlier is not None or not value.isdigit() or len(value) > 18:
        msg = "an answer has one Content-Length, a number"
        raise FaultyAnswerError(msg)
    return int(value)


def _line(field: tuple[bytes, bytes], prefix: bytes, value: bytes) -> bytes:
    if _CONTROL.search(value) is not None:
        msg = "a header value must not contain control characters"
        raise FaultyAnswerError(msg)
    line = b"%b%b\r\n" % (prefix, value)
    if prefix in _FEW and len(_lines) < _KNOWN_LINES and len(line) <= _KNOWN_LINE_BYTES and type(field) is tuple:
        _lines[field] = line
    return line


def _learn(name: bytes) -> bytes:
    lower = name.lower()
    if _TOKEN.fullmatch(lower) is None:
        msg = "a header name must be a token"
        raise FaultyAnswerError(msg)
    prefix = lower + b": "
    if len(_names) < _KNOWN_NAMES:
        _names[name] = prefix
    return prefix


def refusal(status: int, detail: str) -> bytes:
    """The whole answer to a request that is refused here; nothing of the request is repeated in it."""
    title = _PHRASES[status]
    body = f'{{"title":"{title}","status":{status},"detail":"{detail}"}}'.encode()
    return (
        f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    ).encode() + body
