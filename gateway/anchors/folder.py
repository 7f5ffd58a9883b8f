"""A folder that takes checkpoints, one file each: a mount of another machine, or whatever carries files elsewhere."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

from audit.checkpoint import MAX_NOTE, Checkpoint, Vkey
from gateway.anchors.anchor import AnchorConflictError, AnchorFailedError, compare, name_of

_NAME = re.compile(r"[0-9]{16}\.checkpoint")


class FolderAnchor:
    """Files that are made and never changed.  Thief: with the folder alone, nothing; who empties it is found by the next look."""

    def __init__(self, folder: Path, own: Vkey) -> None:
        self._folder = folder
        self._own = own

    def newest(self) -> str | None:
        """The note of the largest checkpoint in the folder; `AnchorFailedError` where it cannot be read."""
        try:
            names = [file.name for file in self._folder.iterdir() if _NAME.fullmatch(file.name)] if self._folder.exists() else []
            if not names:
                return None
            with (self._folder / max(names)).open("rb") as file:
                return file.read(MAX_NOTE + 1).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise AnchorFailedError(f"the folder cannot be read: {error}") from None

    def check(self, head: Checkpoint) -> None:
        """`AnchorConflictError` where the folder holds more than the log, or something else."""
        found = self.newest()
        if found is not None:
            compare(found, self._own, head)

    async def put(self, head: Checkpoint, note: str) -> None:
        """See `Anchor`."""
        await asyncio.to_thread(self._put, head, note)

    def _put(self, head: Checkpoint, note: str) -> None:
        self.check(head)
        path = self._folder / name_of(head.size)
        fresh = self._folder / f".{name_of(head.size)}.{os.getpid()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                file.write(note.encode())
                file.flush()
                os.fsync(file.fileno())
            try:
                path.hardlink_to(fresh)  # never over what is there
            except FileExistsError:
                compare(path.read_text(), self._own, head)
            finally:
                fresh.unlink()
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except (OSError, UnicodeDecodeError) as error:
            raise AnchorFailedError(f"the folder does not take it: {error}") from None


__all__ = ["AnchorConflictError", "FolderAnchor"]
