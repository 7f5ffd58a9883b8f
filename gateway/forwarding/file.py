"""A file that grows by a line a record, on disk before it counts; whoever rotates it may move it away at any time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from audit.reader import Record
from gateway.forwarding.receiver import NotTakenError, row_of


class LinesFile:
    """Opened anew for each batch."""

    def __init__(self, path: Path, form: str) -> None:
        self._path = path
        self._form = form

    async def take(self, log: str, records: Sequence[Record]) -> None:
        """See `Receiver`."""
        lines = "".join(f"{row_of(self._form, log, record)}\n" for record in records).encode()
        try:
            await asyncio.to_thread(self._append, lines)
        except OSError as error:
            raise NotTakenError(f"{self._path}: {error.strerror}") from error

    async def close(self) -> None:
        """Nothing is kept open."""

    def _append(self, lines: bytes) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # cut off in the middle of a line, which comes again whole
                lines = b"\n" + lines
            while lines:
                lines = lines[file.write(lines) or 0 :]
            os.fsync(descriptor)
