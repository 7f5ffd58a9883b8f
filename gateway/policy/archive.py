"""Every bundle that was in force, kept under its digest, so that a decision can be made again and an old bundle come back.

A folder of it is whole or not there, and believed only where its files hash to its name.  A thief of it learns the rules.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from policies.bundle import Bundle, BundleError, digest_of, load_texts
from policies.finding import Report
from policies.manifest import serial_of
from policies.reading import read_folder

log = logging.getLogger("gateway.policy")

LARGE_BYTES: Final = 2 * 1024 * 1024 * 1024
_HEX = re.compile(r"[0-9a-f]{64}")
_LEFT_OVER_SECONDS: Final = 3600


class ArchiveError(Exception):
    """There is no such bundle here, or not this one only, or it is not what it was."""


class Archive:
    """Nothing goes from it by itself: every recorded decision needs its bundle, as long as the record is there.

    It grows only by what came into force, each time with a record.  Its methods block.
    """

    def __init__(self, folder: Path, *, large: int = LARGE_BYTES) -> None:
        """Beyond `large` bytes each further bundle is a warning in the log."""
        self.folder = folder
        self._large = large
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in folder.glob(".new-*"):  # of a process that was killed; a younger one may be another's, at work
            if time.time() - left.stat().st_mtime > _LEFT_OVER_SECONDS:
                shutil.rmtree(left, ignore_errors=True)

    def put(self, bundle: Bundle) -> None:
        """Keep a bundle, durably; OSError where that fails.  One that is here already only becomes the youngest again."""
        target = self.folder / _hex(bundle.digest)
        kept = self._texts(target) if target.exists() else {}
        if kept == bundle.texts:
            os.utime(target)
            return
        if kept and digest_of(kept) != bundle.digest:
            log.warning("the archived bundle %s was changed, and is written anew", bundle.digest)
        made = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
        old = made.with_name(f"{made.name}-old")
        try:
            _write(made, bundle.texts)
            if target.exists():  # changed, or kept with other tests or an older signature, which its digest leaves out
                target.rename(old)
            try:
                made.rename(target)
            except OSError:
                if not target.exists():  # else another replica was quicker
                    raise
            _sync(self.folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)

    def get(self, digest: str) -> Bundle:
        """The bundle of this digest (with or without `sha256:`), as it was in force.  Raises ArchiveError."""
        target = self.folder / _hex(digest)
        if not target.is_dir():
            raise ArchiveError(f"no bundle {digest} was in force here")
        try:
            bundle = load_texts(self._texts(target))
        except BundleError as error:
            raise ArchiveError(f"the archived bundle {digest} cannot be read: {error.findings[0]}") from None
        if bundle.digest != f"sha256:{target.name}":
            raise ArchiveError(f"the archived bundle {digest} is not what it was: its files hash to {bundle.digest}")
        return bundle

    def find(self, wanted: str) -> str:
        """The digest that a digest, at least 8 characters of one, or a serial means.  Raises ArchiveError."""
        text = wanted.strip().removeprefix("sha256:")
        if len(text) <= 15 and text.isascii() and text.isdecimal():
            found = [name for name in self._names() if self._serial(name) == int(text)]
            if found:
                return _one(found, wanted)
        if len(text) < 8 or not re.fullmatch(r"[0-9a-f]{8,64}", text):
            raise ArchiveError(f"'{wanted[:80]}' is neither a kept serial nor (at least 8 characters of) a digest")
        return _one([name for name in self._names() if name.startswith(text)], wanted)

    def weigh(self) -> int:
        """Bytes that it holds; said in the log where they are many."""
        files = [file for name in self._names() for file in (self.folder / name).rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        if size > self._large:
            log.warning("the archive of bundles holds %d bytes; what no kept record needs can be moved elsewhere", size)
        return size

    def _names(self) -> Iterator[str]:
        return (path.name for path in self.folder.iterdir() if _HEX.fullmatch(path.name))

    def _serial(self, name: str) -> int | None:
        return serial_of(self._texts(self.folder / name))

    @staticmethod
    def _texts(folder: Path) -> Mapping[str, str]:
        return read_folder(folder, Report())


def _hex(digest: str) -> str:
    name = digest.removeprefix("sha256:")
    if not _HEX.fullmatch(name):
        raise ArchiveError(f"'{digest[:80]}' is no digest")
    return name


def _one(found: list[str], wanted: str) -> str:
    if len(found) != 1:
        raise ArchiveError(f"{len(found) or 'no'} kept bundles are meant by '{wanted[:80]}'")
    return f"sha256:{found[0]}"


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    """The files, for their owner alone, on the disk when this returns."""
    (folder / "grants").mkdir(mode=0o700)
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:  # noqa: PTH123
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    for each in (*(path for path in folder.iterdir() if path.is_dir()), folder):
        _sync(each)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
