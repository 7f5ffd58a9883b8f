"""Where segments go: a place that takes a file once and never gives it back to be changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from audit.model import TamperedError


class ArchiveError(Exception):
    """The archive cannot be reached, or does not take or give what was asked."""


class Archive(Protocol):
    """Files by name, as `0000000000000000-0000000000000256/manifest.json`."""

    def put(self, name: str, data: bytes, keep_until: int) -> None:
        """Durable on return, and not to be destroyed before `keep_until` (UTC microseconds) as far as the place can promise it.

        The same bytes again are fine; `TamperedError` where other bytes are there.
        """

    def get(self, name: str) -> bytes:
        """The file; `ArchiveError` where there is none."""


class FolderArchive:
    """A folder, of which its owner can take everything away again: put it on storage that does not let him."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, data: bytes, keep_until: int) -> None:  # noqa: ARG002  a folder promises nothing
        """See `Archive`.  The file is read-only; that it stays is not a folder's to promise."""
        path = self._folder / name
        aside = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if path.exists():
                if path.read_bytes() != data:
                    msg = f"{path} is there already, with other contents"
                    raise TamperedError(msg)
                return
            with aside.open("xb") as file:
                os.fchmod(file.fileno(), 0o400)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(aside, path)  # never over another
            aside.unlink()
            _synced(path.parent)
        except OSError as error:
            aside.unlink(missing_ok=True)
            msg = f"{path} cannot be written: {error.strerror}"
            raise ArchiveError(msg) from error

    def get(self, name: str) -> bytes:
        """See `Archive`."""
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            msg = f"{self._folder / name} cannot be read: {error.strerror}"
            raise ArchiveError(msg) from error

    def segments(self) -> Sequence[str]:
        """Names of the segments that have a manifest, in order."""
        return sorted(each.parent.name for each in self._folder.glob("*-*/manifest.json"))


def _synced(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
