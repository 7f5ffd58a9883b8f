"""What stands beside a ledger in SQLite: the last signed head, locks, and the proof that the file is still the file."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import orjson

from audit.store import IdentityError, Signed, StoreError

_LOCK_SECONDS: Final = 10.0
_LOCK_PAUSE: Final = 0.005


class FileIdentity:
    """Notices when the database that is open is no longer the one at its path.

    SQLite goes on committing into a file that was unlinked, without an error.  The file is not opened here: closing a second
    descriptor of it would drop SQLite's own locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._wal = f"{path}-wal"
        self._file = self._look(self._path)
        self._log: tuple[int, int] | None = None

    def begin(self) -> None:
        """Before a connection's first commit: which write-ahead log is its own.  Later ones are checked when they are made."""
        if self._log is None:
            self.check()

    def check(self) -> None:
        """`IdentityError` where the file or its write-ahead log was removed, exchanged or hard-linked since the first check."""
        self.same()
        log = self._look(self._wal)
        if self._log is None:
            self._log = log
        elif self._log != log:
            msg = "the ledger's write-ahead log was exchanged while it was open"
            raise IdentityError(msg)

    def same(self) -> None:
        """Before a new connection: what is at the path is the file that was opened, or `IdentityError`."""
        if self._look(self._path) != self._file:
            msg = "the ledger's file was exchanged while it was open"
            raise IdentityError(msg)

    def reopened(self) -> None:
        """A new connection may have made a new write-ahead log."""
        self._log = None

    @staticmethod
    def _look(path: str) -> tuple[int, int]:
        try:
            found = os.stat(path)  # noqa: PTH116  runs at every flush: half the cost of Path.stat
        except OSError as error:
            msg = f"the ledger's file is gone: {error.strerror}"
            raise IdentityError(msg) from error
        if found.st_nlink != 1:  # by its other name it can be written to, or kept, and nobody looks there
            msg = "the ledger's file has another name (a hard link); remove that, and records are written again"
            raise IdentityError(msg)
        return found.st_dev, found.st_ino


class Locks:
    """Advisory locks of this process, as files beside the database; the kernel lets them go when the process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: dict[str, int] = {}

    def take(self, name: str) -> bool:
        """Whether the lock is ours now, until `close`."""
        if name in self._held:
            return True
        descriptor = self._try(name)
        if descriptor is None:
            return False
        self._held[name] = descriptor
        return True

    def is_free(self, name: str) -> bool:
        """Whether nobody, this process included, holds the lock."""
        if name in self._held:
            return False
        descriptor = self._try(name)
        if descriptor is None:
            return False
        os.close(descriptor)
        return True

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """The lock, for a block; `StoreError` where another keeps it longer than anybody should."""
        deadline = time.monotonic() + _LOCK_SECONDS
        while (descriptor := self._try(name)) is None:
            if time.monotonic() > deadline:
                msg = "another process holds the lock"
                raise StoreError(msg)
            time.sleep(_LOCK_PAUSE)  # flock cannot wait for a bounded time
        try:
            yield
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let all of them go."""
        while self._held:
            os.close(self._held.popitem()[1])

    def _try(self, name: str) -> int | None:
        suffix = hashlib.sha256(name.encode()).hexdigest()[:16]
        try:
            descriptor = os.open(f"{self._path}.{suffix}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            msg = f"cannot make a lock file: {error.strerror}"
            raise StoreError(msg) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor


class SignedFile:
    """The last signed head in a file of its own: a restored backup of the database does not take it back."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def last(self) -> Signed | None:
        """What `save` wrote last; `StoreError` where the file is not what it writes."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            msg = f"cannot read {self._path}: {error.strerror}"
            raise StoreError(msg) from error
        try:
            found = orjson.loads(data)
            size, frontier, note = found["size"], base64.b64decode(found["frontier"], validate=True), found["note"]
            if not isinstance(size, int) or not isinstance(note, str):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            msg = f"{self._path} is damaged; if it is removed, the whole log is read again before anything is signed"
            raise StoreError(msg) from None
        return Signed(size, frontier, note)

    def save(self, signed: Signed) -> None:
        """Exchange the file for a new one; on disk when this returns."""
        data = orjson.dumps({"size": signed.size, "frontier": base64.b64encode(signed.frontier).decode(), "note": signed.note})
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            fresh.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            msg = f"cannot write {self._path}: {error.strerror}"
            raise StoreError(msg) from error
