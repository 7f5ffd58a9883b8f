"""What flows between the gateway and the code, through the warden: frames on one side, pipes on the other, never more than fits.

A frame is one byte of kind, four of length (big-endian), and the payload.  From the code come O (stdout), E (stderr) and T (calls
back), to it go I (stdin) and T; an empty frame is the end of its stream.  Nothing here waits for the gateway or for the code.
"""

from __future__ import annotations

import os
import select
import struct

FRAMES = 0  # the socket to the gateway
MOST_FRAME = 64 << 20
_PIECE, _FULL, _TAIL = 65536, 1 << 20, 2048


class Frames:
    """The socket to the gateway."""

    def __init__(self) -> None:
        self._in, self.out = bytearray(), bytearray()

    def receive(self, kinds: bytes) -> tuple[bytes, bytes]:
        """Wait for the next frame, of one of these kinds; EOFError where the gateway has gone or says anything else."""
        kind, length = struct.unpack(">cI", self._read(5))
        if kind not in kinds or length > MOST_FRAME:
            raise EOFError
        return kind, self._read(length)

    def send(self, kind: bytes, payload: bytes) -> None:
        """One frame, and all that was put before it; waits until the socket has taken it."""
        self.put(kind, payload)
        os.set_blocking(FRAMES, True)
        while self.out:
            del self.out[: os.write(FRAMES, self.out)]

    def drain(self) -> None:
        """Take what still comes, unread, until the gateway closes.

        A socket that goes with bytes unread, or is written to when it has gone, is reset, and a reset overtakes the last frame.
        """
        while os.read(FRAMES, _PIECE):
            pass

    def put(self, kind: bytes, payload: bytes) -> None:
        """One frame, when there is room for it."""
        self.out += struct.pack(">cI", kind, len(payload)) + payload

    def flush(self) -> None:
        """As much as the socket takes now."""
        try:
            while self.out:
                del self.out[: os.write(FRAMES, self.out[:_PIECE])]
        except BlockingIOError:
            pass

    def take(self) -> list[tuple[bytes, bytes]]:
        """Whole frames that have come; EOFError at the end of all, or for a frame that is too long."""
        try:
            piece = os.read(FRAMES, _PIECE)
        except BlockingIOError:
            return []
        if not piece:
            raise EOFError
        self._in += piece
        found = []
        while len(self._in) >= 5:
            kind, length = struct.unpack_from(">cI", self._in)
            if length > MOST_FRAME:
                raise EOFError
            if len(self._in) < 5 + length:
                break
            found.append((kind, bytes(self._in[5 : 5 + length])))
            del self._in[: 5 + length]
        return found

    @staticmethod
    def _read(count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = os.read(FRAMES, min(count - len(data), 1 << 20))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)


class Relay:
    """The code's streams.  `most` bytes of stdout and as many of stderr are passed on; None for a program that goes on.

    out, err, stdin and tools are the warden's ends, not blocking; tools is None where there is no way back.
    cut holds the kinds that had more than `most`; ended says that the gateway wants no more, or has gone; moved that something
    went in or out since it was last looked at.
    """

    def __init__(self, frames: Frames, wake: int, ends: tuple[int, int, int, int | None], most: int | None) -> None:
        out, err, self._stdin, tools = ends
        self._frames, self._wake, self._most = frames, wake, most
        self._sources = {out: b"O", err: b"E"}
        self._sinks: dict[bytes, tuple[int, bytearray]] = {b"I": (self._stdin, bytearray())}
        if tools is not None:
            self._sources[tools] = b"T"
            self._sinks[b"T"] = (tools, bytearray())
        self._over: set[bytes] = set()  # sinks that end once they are empty
        self._passed = {b"O": 0, b"E": 0}
        self._poller, self._interest = select.poll(), dict[int, int]()
        self.cut: set[bytes] = set()
        self.tail = b""  # of stderr
        self.ended = self.moved = False
        self._want(wake, select.POLLIN)

    def give(self, kind: bytes, data: bytes) -> None:
        """Bytes for the code; none for the end of that stream."""
        if kind not in self._sinks:
            return
        if data and kind not in self._over:
            self._sinks[kind][1].extend(data)
        elif not data:
            self._over.add(kind)
        self._write(kind)

    def poll(self, seconds: float) -> bool:
        """Move what can be moved, waiting at most so long for the first of it; whether a child may have ended."""
        self._interests()
        ended = False
        for fd, event in self._poller.poll(max(seconds, 0) * 1000 + 1):
            if fd == self._wake:
                ended = True
                os.read(fd, 512)
            elif fd == FRAMES:
                self._gateway(event)
            else:
                if event & select.POLLOUT:
                    self._write(b"I" if fd == self._stdin else b"T")
                if fd in self._sources and event & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    self._read(fd)
        self._flush()
        return ended

    def drain(self) -> None:
        """What the code had written when it ended."""
        for fd in list(self._sources):
            while self._read(fd):
                pass

    def _interests(self) -> None:
        room = len(self._frames.out) < _FULL
        wanted = {FRAMES: select.POLLRDHUP | (select.POLLOUT if self._frames.out else 0)}
        if all(len(data) < _FULL for _, data in self._sinks.values()):
            wanted[FRAMES] |= select.POLLIN
        if room:  # a source that is not wanted is not polled: its hang-up would be told again and again
            wanted.update(dict.fromkeys(self._sources, select.POLLIN))
        for fd, data in self._sinks.values():
            if data:
                wanted[fd] = wanted.get(fd, 0) | select.POLLOUT
        for fd in [fd for fd in self._interest if fd not in wanted and fd != self._wake]:
            self._poller.unregister(fd)
            del self._interest[fd]
        for fd, events in wanted.items():
            self._want(fd, events)

    def _want(self, fd: int, events: int) -> None:
        if self._interest.get(fd) != events:
            self._interest[fd] = events
            self._poller.register(fd, events)

    def _gateway(self, event: int) -> None:
        if event & select.POLLIN:
            try:
                for kind, data in self._frames.take():
                    self.moved = True
                    self.give(kind, data)
            except (EOFError, ConnectionError):
                self.ended = True
        elif event & ~select.POLLOUT:
            self.ended = True

    def _flush(self) -> None:
        try:
            self._frames.flush()
        except ConnectionError:
            self.ended = True

    def _read(self, fd: int) -> bool:
        """Take what there is; False at the end, or where there is nothing now."""
        try:
            piece = os.read(fd, _PIECE)
        except BlockingIOError:
            return False
        except OSError:
            piece = b""
        kind = self._sources[fd]
        if not piece:
            del self._sources[fd]
            if kind == b"T" or self._most is None:
                self._frames.put(kind, b"")
            return False
        self.moved = True
        if kind == b"E":
            self.tail = (self.tail + piece)[-_TAIL:]
        if self._most is not None and kind != b"T":
            room = self._most - self._passed[kind]
            if len(piece) > room:
                self.cut.add(kind)
                piece = piece[:room]
            self._passed[kind] += len(piece)
        if piece:
            self._frames.put(kind, piece)
        return True

    def _write(self, kind: bytes) -> None:
        fd, data = self._sinks[kind]
        try:
            while data:
                del data[: os.write(fd, data[:_PIECE])]
        except BlockingIOError:
            return
        except OSError:  # nobody reads it any more
            data.clear()
            self._over.add(kind)
        if kind in self._over:
            del self._sinks[kind]
            self._sources.pop(fd, None)  # calls back are one socket: without answers there are no questions
            if self._interest.pop(fd, None) is not None:
                self._poller.unregister(fd)
            os.close(fd)
