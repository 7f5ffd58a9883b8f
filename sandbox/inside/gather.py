"""What a run has left in its folder, taken out once nothing of it lives: regular files, by one name, through no link."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False  # importing `typing` would cost more than everything else here
if TYPE_CHECKING:
    from collections.abc import Mapping

_DEPTH, _MOST_ENTRIES, _MOST_SKIPPED = 16, 10_000, 100
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Gather:
    """Files that are new or changed, at most `count` of at most `room` bytes together; `given` are those that it began with."""

    def __init__(self, given: Mapping[str, bytes], count: int, room: int) -> None:
        self._given, self._count, self._room = given, count, room
        self._entries = 0
        self._there: set[str] = set()
        self.files: list[tuple[str, bytes]] = []
        self.skipped: list[tuple[str, str]] = []

    def folder(self, path: str) -> None:
        """Everything beneath it, in the order of the names."""
        fd = os.open(path, _FOLDER)
        try:
            self._walk(fd, "", 1)
        finally:
            os.close(fd)

    def gone(self) -> list[str]:
        """Given files that are no more: deleted, or become something that is not taken.  Empty where not everything was seen."""
        return [] if self._entries > _MOST_ENTRIES else [name for name in self._given if name not in self._there]

    def _walk(self, fd: int, prefix: str, depth: int) -> None:
        for name in sorted(os.listdir(fd)):
            self._entries += 1
            if self._entries > _MOST_ENTRIES:
                return
            path = prefix + name
            about = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(about.st_mode):
                why = self._into(fd, name, path, depth)
            elif stat.S_ISLNK(about.st_mode):
                why = "a link"
            elif not stat.S_ISREG(about.st_mode):
                why = "not a regular file"
            else:
                why = self._take(fd, name, path)
            if why and len(self.skipped) < _MOST_SKIPPED:
                self.skipped.append((os.fsencode(path).decode("utf-8", "backslashreplace")[:200], why))

    def _into(self, fd: int, name: str, path: str, depth: int) -> str:
        if depth >= _DEPTH:
            return "too deep"
        try:
            inner = os.open(name, _FOLDER, dir_fd=fd)
        except OSError:
            return "cannot be opened"
        try:
            self._walk(inner, path + "/", depth + 1)
        finally:
            os.close(inner)
        return ""

    def _take(self, fd: int, name: str, path: str) -> str:
        try:
            path.encode("utf-8")
            file = os.open(name, _FILE, dir_fd=fd)
        except UnicodeEncodeError:
            return "its name is not text"
        except OSError:
            return "cannot be opened"
        try:
            about = os.fstat(file)
            if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1:
                return "has several names"
            given = self._given.get(path)
            if given is not None and len(given) == about.st_size and _read(file, about.st_size) == given:
                self._there.add(path)
                return ""
            if len(self.files) >= self._count:
                return "one file too many"
            if about.st_size > self._room:
                return "too large"
            os.lseek(file, 0, os.SEEK_SET)
            data = _read(file, about.st_size)
        finally:
            os.close(file)
        self._room -= len(data)
        self.files.append((path, data))
        self._there.add(path)
        return ""


def _read(fd: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = os.read(fd, min(size - len(data), 1 << 20))
        if not piece:
            break
        data += piece
    return bytes(data)
