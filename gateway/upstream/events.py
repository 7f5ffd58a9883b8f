"""A `text/event-stream` taken apart as it comes (WHATWG HTML §9.2), bounded; never more than one event is held."""

from __future__ import annotations

from typing import NamedTuple

from gateway.model import UpstreamError

_LONGEST_ID = 512


class Event(NamedTuple):
    """A whole event: its data, the id that it sets (None: none), the milliseconds of `retry` (0: none)."""

    data: bytes
    id: str | None = None
    retry: int = 0


class EventParser:
    """Bytes in, whole events out.  Comments and names are dropped; an event without data is none."""

    __slots__ = ("_buffer", "_data", "_id", "_limit", "_retry", "_scanned", "_size", "_started")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._scanned = 0  # of the buffer, known to hold no line end
        self._data: list[bytes] = []
        self._id: str | None = None
        self._retry = 0
        self._size = 0
        self._started = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that this chunk completes; `UpstreamError("too-large")` for one beyond the limit."""
        return [event.data for event in self.events(chunk)]

    def events(self, chunk: bytes) -> list[Event]:
        """The same events, with ids and `retry`."""
        self._buffer += chunk
        found: list[Event] = []
        while (line := self._line()) is not None:
            if line:
                self._field(line)
                continue
            if self._data:
                found.append(Event(b"\n".join(self._data), self._id, self._retry))
            self._data, self._id, self._retry, self._size = [], None, 0, 0
        if len(self._buffer) + self._size > self._limit:
            raise UpstreamError("too-large", "event")
        return found

    def _line(self) -> bytes | None:
        buffer = self._buffer
        feed = buffer.find(b"\n", self._scanned)
        turn = buffer.find(b"\r", self._scanned, feed if feed >= 0 else len(buffer))
        end = turn if turn >= 0 else feed
        if end < 0:
            self._scanned = len(buffer)
            return None
        width = 1
        if buffer[end] == 0x0D:
            if end + 1 == len(buffer):  # CR or CRLF: the next byte will tell
                self._scanned = end
                return None
            width = 2 if buffer[end + 1] == 0x0A else 1
        line = bytes(buffer[:end])
        del buffer[: end + width]
        self._scanned = 0
        if not self._started:
            self._started = True
            line = line.removeprefix(b"\xef\xbb\xbf")
        return line

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > self._limit + 1:  # also of an event that comes whole in one piece
                raise UpstreamError("too-large", "event")
        elif name == b"id":
            self._id = _id(value.removeprefix(b" "))
        elif name == b"retry" and (number := value.removeprefix(b" ")).isdigit() and len(number) < 8:
            self._retry = int(number)


def _id(value: bytes) -> str | None:
    """An id that can be said again in a header; any other one cannot be resumed at."""
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        return None
    return text if 0 < len(text) <= _LONGEST_ID and text.isprintable() and text == text.strip() else None
