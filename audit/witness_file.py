"""A witness's memory: one small file, exchanged whole and synced before a cosignature leaves; locked against a second witness."""

from __future__ import annotations

import base64
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import orjson

from audit.witness import Seen

MAX_FILE = 64 * 1024 * 1024


class WitnessFile:
    """Every log's newest head, in memory and in the file.  Used by any thread."""

    def __init__(self, path: Path, heads: dict[str, Seen], lock: int) -> None:
        self._path = path
        self._heads = heads
        self._lock = lock
        self._turn = threading.Lock()

    @classmethod
    def open(cls, path: Path, *, new: bool = False) -> Self:
        """Open the memory; `new` makes one, and refuses where there is one.

        A witness without its memory would cosign a log that was rewritten, so it is never made by the way.  `FileNotFoundError`,
        `FileExistsError`, `BlockingIOError` where another process has it, `ValueError` where it is damaged.
        """
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if new:
                if path.exists():
                    raise FileExistsError(17, "there is a memory already", str(path))
                made = cls(path, {}, lock)
                made._write()
                return made
            return cls(path, _read(path), lock)
        except BaseException:
            os.close(lock)
            raise

    @contextmanager
    def holding(self) -> Iterator[None]:
        """See `State`."""
        with self._turn:
            yield

    def seen(self, origin: str) -> Seen | None:
        """See `State`."""
        return self._heads.get(origin)

    def keep(self, origin: str, seen: Seen) -> None:
        """See `State`."""
        before = self._heads
        self._heads = before | {origin: seen}
        try:
            self._write()
        except OSError:
            self._heads = before
            raise

    def close(self) -> None:
        """Let the file go."""
        os.close(self._lock)

    def _write(self) -> None:
        said = {
            origin: {"size": seen.size, "root": base64.b64encode(seen.root).decode(), "note": seen.note}
            for origin, seen in self._heads.items()
        }
        fresh = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(said))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _read(path: Path) -> dict[str, Seen]:
    if path.stat().st_size > MAX_FILE:
        msg = f"{path} is too large to be a witness's memory"
        raise ValueError(msg)
    try:
        found = orjson.loads(path.read_bytes())
        heads = {
            str(origin): Seen(int(each["size"]), base64.b64decode(each["root"], validate=True), str(each["note"]))
            for origin, each in found.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        heads = None
    if heads is None or any(len(seen.root) != 32 or seen.size < 1 for seen in heads.values()):
        msg = f"{path} is damaged: restore what it said, or the witness forgets what it has seen"
        raise ValueError(msg)
    return heads
