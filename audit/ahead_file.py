"""How the file ahead of a log looks: a page that says how far it goes, then frames with a checksum each; and how it is read.

The page is for readers that live beside the writer.  What counts after a crash is the frames alone.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from audit.model import TamperedError

SUFFIX: Final = "-ahead"
SIZE: Final = 1 << 19
START: Final = 4096
MAGIC: Final = b"bailiwick ahead 1\n"
HINT: Final = struct.Struct("<Q")
"""In the page: the log's size with what is durable in the file."""
HINT_AT: Final = 32
_FRAME: Final = struct.Struct("<4sIQQQI")  # mark, checksum of what follows, generation, first record, log's size after it, length
_MARK: Final = b"bwf1"
_SUMMED: Final = 8  # the checksum is of all but itself and the mark
OVERHEAD: Final = _FRAME.size


class Said(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a frame holds; indexes count from its first record."""

    leaves: list[tuple[str, bytes]]
    openings: list[tuple[int, str, bytes]]
    opened: list[tuple[str, int, str, str]]
    closed: list[str]
    ended: list[str]


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Said)


class AheadFile:
    """For readers of a database: until where its log goes on in the file ahead."""

    def __init__(self, database: Path) -> None:
        self._path = f"{database}{SUFFIX}"

    @property
    def size(self) -> int:
        """Of the log with what is durable ahead of it, as far as its writer says; 0 where there is no such file."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return 0
        try:
            page = os.pread(file, HINT_AT + HINT.size, 0)
        finally:
            os.close(file)
        whole = page.startswith(MAGIC) and len(page) == HINT_AT + HINT.size
        return int(HINT.unpack_from(page, HINT_AT)[0]) if whole else 0

    @property
    def waiting(self) -> bool:
        """Whether a process lives that will put it into the tables."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(file)
        return False


def framed(said: Said, generation: int, first: int, size: int) -> bytes:
    """One frame; the log has `size` records with it."""
    body = _ENCODER.encode(said)
    head = _FRAME.pack(_MARK, 0, generation, first, size, len(body))[_SUMMED:]
    return b"".join((_MARK, zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "little"), head, body))


def frames(data: bytes) -> Iterator[tuple[int, Said]]:
    """The frames of one generation, from the beginning, up to the first that is not whole."""
    at, generation = 0, None
    while at + _FRAME.size <= len(data):
        mark, checksum, written, first, size, length = _FRAME.unpack_from(data, at)
        body = data[at + _FRAME.size : at + _FRAME.size + length]
        if mark != _MARK or generation not in {None, written} or len(body) != length:
            return
        if zlib.crc32(body, zlib.crc32(data[at + _SUMMED : at + _FRAME.size])) != checksum:
            return
        try:
            said = _DECODER.decode(body)
        except msgspec.DecodeError as error:
            msg = "the file ahead of the log holds what no writer wrote"
            raise TamperedError(msg) from error
        if first + len(said.leaves) != size:
            msg = "the file ahead of the log holds what no writer wrote"
            raise TamperedError(msg)
        yield first, said
        at, generation = at + _FRAME.size + length, written
