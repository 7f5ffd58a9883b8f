"""A chunked body, decoded strictly: bare hexadecimal sizes, lines that end in CRLF, no extensions, trailers dropped.  Sans I/O.

A field that comes after the body never becomes one of the request's headers: what judged the head has judged all of them.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.listener.head import FaultyRequestError

TRAILER_BYTES: Final = 8 * 1024
_SIZE_LINE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*")
_SPOKEN = (b"content-length:", b"transfer-encoding:", b"connection:", b"host:", b"expect:", b"upgrade:")
_LONGEST_SIZE_LINE = 15


class Chunks:
    """Fed with bytes as they come; `done` once the body is whole, `rest` is then what came after it."""

    __slots__ = ("_buffer", "_left", "_part", "_trailer", "done", "rest")

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0
        self._part = "size"  # size, data, end (of a chunk), trailer
        self._trailer = 0
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """The body's bytes that are in `data`; `FaultyRequestError` where it is not a chunked body."""
        data = self._buffer + data if self._buffer else data
        self._buffer = b""
        pieces: list[bytes] = []
        at = 0
        while not self.done and at < len(data):
            if self._part == "data":
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left == 0:
                    self._part = "end"
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._unfinished(data[at:])
                self._buffer = data[at:]
                break
            self._line(data[at:end])
            at = end + 2
        if self.done:
            self.rest = data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _line(self, line: bytes) -> None:
        if self._part == "size":
            if _SIZE_LINE.fullmatch(line) is None:
                raise _faulty()
            self._left = int(line, 16)
            self._part = "data" if self._left else "trailer"
        elif self._part == "end":
            if line:
                raise _faulty()
            self._part = "size"
        elif line:
            self._trailer += len(line) + 2
            if self._trailer > TRAILER_BYTES or _FIELD.fullmatch(line) is None or line.lower().startswith(_SPOKEN):
                raise _faulty()
        else:
            self.done = True

    def _unfinished(self, line: bytes) -> None:
        """Refuse at once what no further byte can mend."""
        line = line.removesuffix(b"\r")
        if self._part == "size":
            faulty = len(line) > _LONGEST_SIZE_LINE or (bool(line) and _SIZE_LINE.fullmatch(line) is None)
        elif self._part == "end":
            faulty = bool(line)
        else:
            faulty = self._trailer + len(line) > TRAILER_BYTES or b"\n" in line
        if faulty:
            raise _faulty()


def _faulty() -> FaultyRequestError:
    return FaultyRequestError(400, "the body is not well-formed in chunks")
