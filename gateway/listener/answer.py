"""An answer's head: built in one go, and proven to be one; no value in it can begin a line of its own.  Sans I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

import msgspec

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_STATUS_LINES: Final = {code: f"HTTP/1.1 {code} {_PHRASES.get(code, '')}".encode() for code in range(200, 600)}
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_CONTROL: Final = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])
_BODILESS: Final = frozenset({204, 304})
_KNOWN_NAMES = 256
# Each line is begun where it ends the one before it.
_LENGTH: Final = b"\r\ncontent-length: "
_CODING: Final = b"\r\ntransfer-encoding: "
_CONNECTION: Final = b"\r\nconnection: "
_END: Final = b"\r\n\r\n"
# What frames the answer is the listener's to say; of the application's words count its length, and a wish to close.
_FRAMING: Final = frozenset({_LENGTH, _CONNECTION, _CODING, b"\r\nkeep-alive: ", b"\r\nupgrade: "})

_names: dict[bytes, bytes] = {}  # names that were found to be tokens, as a line begins with them; an application uses few


class FaultyAnswerError(RuntimeError):
    """The application broke the rules of an answer; nothing of that message was sent."""


class AnswerHead(msgspec.Struct, eq=False):
    """`raw` goes onto the wire.  `length`: bytes of body to come, or None where only `chunked` or the connection's end tell.

    bodiless   whatever the application sends as a body is dropped.
    keep       whether the connection goes on.
    """

    raw: bytes
    length: int | None
    chunked: bool
    bodiless: bool
    keep: bool


def answer_head(status: int, headers: Iterable[tuple[bytes, bytes]], method: str, version: str, keep: bool) -> AnswerHead:
    """The head that answers such a request; `FaultyAnswerError` where the application's words make none."""
    line = _STATUS_LINES.get(status)
    if line is None:
        raise FaultyAnswerError("a status is between 200 and 599")
    digits = None
    raw = [line]
    for name, value in headers:
        start = _names.get(name) or _learn(name)
        if start not in _FRAMING:
            raw.append(start)
            raw.append(value)
        elif start == _LENGTH:
            if digits is not None or not value.isdigit() or len(value) > 18:
                raise FaultyAnswerError("an answer has one Content-Length, a number")
            digits = value
        elif start == _CONNECTION and b"close" in [token.strip() for token in value.lower().split(b",")]:
            keep = False
    bodiless = status in _BODILESS or method == "HEAD"
    chunked = digits is None and not bodiless and version == "1.1"
    if digits is not None:
        if status != 204:
            raw += _LENGTH, digits
    elif chunked:
        raw += _CODING, b"chunked"
    elif not bodiless:
        keep = False
    if not keep:
        raw += _CONNECTION, b"close"
    raw.append(_END)
    whole = b"".join(raw)
    lines = len(raw) // 2 + 1  # of them all, the empty one included
    if len(whole.translate(None, _CONTROL)) != len(whole) - 2 * lines:
        raise FaultyAnswerError("a header value must not contain control characters")
    return AnswerHead(whole, None if digits is None else int(digits), chunked, bodiless, keep)


def _learn(name: bytes) -> bytes:
    lower = name.lower()
    if _TOKEN.fullmatch(lower) is None:
        raise FaultyAnswerError("a header name must be a token")
    start = b"\r\n%b: " % lower
    if len(_names) < _KNOWN_NAMES:
        _names[name] = start
    return start


def refusal(status: int, detail: str) -> bytes:
    """The whole answer to a request that is refused here; nothing of the request is repeated in it."""
    title = _PHRASES[status]
    body = f'{{"title":"{title}","status":{status},"detail":"{detail}"}}'.encode()
    return (
        f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    ).encode() + body
