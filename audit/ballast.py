"""Room that is kept for the last words: a file that is let go of when the disk is full, so that what was begun can be closed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

BALLAST_BYTES: Final = 4 * 1024 * 1024  # room for what is durable ahead of the tables, too
_PIECE: Final = bytes(64 * 1024)


class Ballast:
    """The file beside a ledger in SQLite.  Used by the thread that writes."""

    def __init__(self, path: Path, size: int = BALLAST_BYTES) -> None:
        self._path = path
        self._size = size
        self._held = False

    def keep(self) -> bool:
        """Whether the room is there, also where it has to be taken (again) first."""
        if not self._held:
            self._held = self._take()
        return self._held

    def let_go(self) -> None:
        """Give the room to whoever writes next."""
        self._held = False
        self._path.unlink(missing_ok=True)

    def _take(self) -> bool:
        """Written, not only asked for: some file systems promise room that they do not have."""
        try:
            if self._path.exists() and self._path.stat().st_size == self._size:
                return True
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                for _ in range(self._size // len(_PIECE)):
                    os.write(descriptor, _PIECE)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            self._path.unlink(missing_ok=True)
            return False
        return True
