"""The folder that a run may write, made for it and removed after it; what a gateway that died has left is removed by the next.

A folder is claimed by a lock that ends with the process that holds it.  Removal follows no link and leans on no path's length.
Everything here blocks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import secrets
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

UIDS = range(60_900, 61_156)
"""Uids for runs: a stretch that systemd's table of uids leaves unused, and that fits into a 16-bit user namespace."""
_SENTINEL = "outside"


_NO_RIGHT = (
    "this root has not the rights to give runs uids of their own: run the gateway as a plain user, "
    "or give its container CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID and SETUID, as Docker does by default"
)


class ScratchError(Exception):
    """No folder could be made for a run."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A claimed folder.  `uid` owns it and is the run's alone; None where runs have the gateway's uid."""

    path: Path
    lock: int
    uid: int | None


class Scratch:
    """The folders of all runs, beneath `base`; with `own_uids` each belongs to a uid of its own."""

    def __init__(self, base: Path | None, *, own_uids: bool) -> None:
        self.base = base or Path(tempfile.gettempdir()) / f"bailiwick-sandbox-{os.geteuid()}"
        self.own_uids = own_uids

    @property
    def sentinel(self) -> Path:
        """A file that every run's uid may read and write but for its cage."""
        return self.base / _SENTINEL

    def claim(self, prefer: int | None = None) -> Folder:
        """A new folder, empty and nobody else's, of the uid `prefer` where it is free; ScratchError where there is none."""
        self._open_base()
        if not self.own_uids:
            folder = self._take(self.base / f"run-{secrets.token_hex(8)}", None)
            if folder is not None:
                return folder
            raise ScratchError("a new folder was taken")
        first = () if prefer not in UIDS else (prefer,)
        for uid in (*first, *random.sample(UIDS, len(UIDS))):
            folder = self._take(self.base / f"run-{uid}", uid)
            if folder is not None:
                return folder
        msg = f"every uid of {UIDS.start}-{UIDS.stop - 1} is in use"
        raise ScratchError(msg)

    def release(self, folder: Folder) -> bool:
        """Remove the folder and give up the claim; whether it is gone."""
        try:
            remove(folder.path)
        finally:
            os.close(folder.lock)
        return not folder.path.exists()

    def sweep(self) -> int:
        """Remove what runs of dead gateways have left; how many folders that were."""
        self._open_base()
        count = 0
        for path in self.base.glob("run-*"):
            lock = _lock(path)
            if lock is not None:
                self.release(Folder(path, lock, None))
                count += 1
        return count

    def _open_base(self) -> None:
        # 0711: a run's uid may pass through to its own folder, and see no other's name.
        mode = 0o711 if self.own_uids else 0o700
        with suppress(FileExistsError):
            self.base.mkdir(mode=0o700)
        about = self.base.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o022:
            msg = f"{self.base} must be a folder that this user owns and nobody else can write"
            raise ScratchError(msg)
        self.base.chmod(mode)
        fd = os.open(self.sentinel, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.fchmod(fd, 0o666 if self.own_uids else 0o600)
        os.close(fd)

    def _take(self, path: Path, uid: int | None) -> Folder | None:
        if uid is not None and processes_of(uid):
            return None
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            stale = _lock(path)
            if stale is not None:  # of a dead gateway; whoever wants this uid next finds it free
                self.release(Folder(path, stale, uid))
            return None
        lock = _lock(path)
        if lock is None:
            return None
        folder = Folder(path, lock, uid)
        if uid is not None:
            try:
                os.chown(path, uid, uid)
            except OSError as error:
                self.release(folder)
                raise ScratchError(_NO_RIGHT) from error
        return folder


def processes_of(uid: int) -> list[int]:
    """Ids of the processes, zombies but not threads, that belong to `uid` here."""
    found = []
    for entry in os.scandir("/proc"):
        with suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                found.append(int(entry.name))
    return found


def remove(path: Path) -> None:
    """Remove a folder whose contents are untrusted; nothing runs any more that could change it meanwhile.

    Subfolders are moved up before they are emptied, so that neither depth nor the length of a path is a limit.
    """
    with suppress(FileNotFoundError):
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            serial, prefix = 0, f"removed-{secrets.token_hex(8)}-"
            while names := os.listdir(root):  # noqa: PTH208  by descriptor
                for name in names:
                    serial = _remove_entry(root, name, prefix, serial)
        finally:
            os.close(root)
        path.rmdir()


def _remove_entry(root: int, name: str, prefix: str, serial: int) -> int:
    if not _is_folder(root, name):
        os.unlink(name, dir_fd=root)
        return serial
    inner = open_folder(root, name)
    try:
        for child in os.listdir(inner):  # noqa: PTH208  by descriptor
            if _is_folder(inner, child):
                os.close(open_folder(inner, child))
                serial += 1
                os.rename(child, prefix + str(serial), src_dir_fd=inner, dst_dir_fd=root)
            else:
                os.unlink(child, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=root)
    return serial


def _is_folder(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def open_folder(parent: int, name: str) -> int:
    """A descriptor of a folder within `parent`, which its owner may use whatever its mode was; OSError for a link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    if stat.S_IMODE(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode) & 0o700 != 0o700:
        os.chmod(name, 0o700, dir_fd=parent)  # a folder, as was just seen, that nobody can exchange
    return os.open(name, flags, dir_fd=parent)


def _lock(path: Path) -> int | None:
    """The lock of a folder, or None where somebody else has it or the folder went meanwhile."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        if error.errno == errno.EACCES:  # of a run with a uid of its own, whose gateway had the rights that this one lacks
            raise ScratchError(_NO_RIGHT) from error
        raise
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine, there = os.fstat(fd), path.stat(follow_symlinks=False)
        if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return None
