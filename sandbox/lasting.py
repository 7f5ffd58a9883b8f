"""Folders that last from one program to the next: one program's at a time, and its owner's alone.

An outer folder is the gateway's; `files` in it is the program's.  Whatever a program left there is handled by its name within
its folder, and no link is ever followed.  Everything here blocks.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.model import SandboxBusyError
from sandbox.runner import Lasting
from sandbox.scratch import UIDS, open_folder
from sandbox.scratch import remove as remove_folder

FILES: Final = "files"
MOST_ENTRIES: Final = 20_000
_DEEPEST: Final = 200
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LastingError(OSError):
    """A folder cannot be used as it is; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A folder that one program has.

    files  what it may read and write; bytes: most that they may come to while it has them; uid: whose they were.
    lock   ends with the last process that has it open.
    """

    outer: Path
    files: Path
    lock: int
    bytes: int
    uid: int


def claim(wanted: Lasting) -> Claimed:
    """The folder, made where there is none; SandboxBusyError where another program has it, LastingError for an unfit one."""
    with suppress(FileExistsError):
        wanted.path.mkdir(mode=0o700)
    lock = _locked(wanted.path)
    try:
        with suppress(FileExistsError):
            os.mkdir(FILES, mode=0o700, dir_fd=lock)
        inner = os.open(FILES, _OPEN, dir_fd=lock)
        try:
            size, owner = _size(inner, wanted.path), os.fstat(inner).st_uid
        finally:
            os.close(inner)
        if size > 2 * wanted.bytes:
            msg = f"{wanted.path} holds {size} bytes, and may hold {wanted.bytes}: have it emptied, or allow more"
            raise LastingError(msg)
    except BaseException:
        os.close(lock)
        raise
    # One that is over its bound may be read and emptied; it does not grow any further.
    return Claimed(wanted.path, wanted.path / FILES, lock, max(wanted.bytes, size), owner)


def give(claimed: Claimed, uid: int | None) -> None:
    """Make it the program's whose user id this is, None for the gateway's own; LastingError for what is no program's."""
    if uid is None:
        return
    _passable(claimed.outer, uid)
    os.fchmod(claimed.lock, 0o711)  # to pass through, and to see no name
    inner = os.open(FILES, _OPEN, dir_fd=claimed.lock)
    try:
        if os.fstat(inner).st_uid != uid:
            for folder, name, about in _entries(inner, claimed.outer):
                if about.st_uid not in UIDS:
                    raise LastingError(f"{claimed.outer} holds something that belongs to user {about.st_uid}, and is left alone")
                os.chown(name, uid, uid, dir_fd=folder, follow_symlinks=False)
            os.fchown(inner, uid, uid)  # last: until then whoever comes next goes through it again
    finally:
        os.close(inner)


def release(claimed: Claimed) -> None:
    """Close it to everybody else again; whoever holds the lock still keeps others from it."""
    with suppress(OSError):
        os.fchmod(claimed.lock, 0o700)
    os.close(claimed.lock)


def remove(outer: Path) -> bool:
    """Remove it with all that it holds; whether there was one.  SandboxBusyError while a program has it."""
    try:
        lock = _locked(outer)
    except FileNotFoundError:
        return False
    try:
        gone = outer.with_name(f"gone-{secrets.token_hex(8)}")
        outer.rename(gone)  # nobody finds it any more, however long it takes
        remove_folder(gone)
    finally:
        os.close(lock)
    return True


def _locked(outer: Path) -> int:
    lock = os.open(outer, _OPEN)
    try:
        about = os.fstat(lock)
        if about.st_uid != os.geteuid() or about.st_mode & 0o022:
            raise LastingError(f"{outer} must be a folder that this user owns and nobody else can write")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SandboxBusyError("another program has this folder") from None
        there = outer.stat(follow_symlinks=False)
        if (about.st_dev, about.st_ino) != (there.st_dev, there.st_ino):
            raise SandboxBusyError("this folder is being removed")
    except FileNotFoundError:
        os.close(lock)
        raise SandboxBusyError("this folder is being removed") from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _passable(outer: Path, uid: int) -> None:
    for folder in outer.parents:
        about = folder.stat()
        if not about.st_mode & 0o001 and not (about.st_uid == uid and about.st_mode & 0o100):
            raise LastingError(f"{folder} is closed to the user ids of programs: chmod o+x, or keep their folders elsewhere")


def _size(inner: int, outer: Path) -> int:
    return sum(about.st_blocks * 512 for _, _, about in _entries(inner, outer))


def _entries(inner: int, outer: Path) -> Iterator[tuple[int, str, os.stat_result]]:
    """(its folder, name, what it is) of everything below, links as themselves; nothing runs that could change it meanwhile."""
    for seen, each in enumerate(_below(inner, outer, 0)):
        if seen >= MOST_ENTRIES:
            raise LastingError(f"{outer} holds more than {MOST_ENTRIES} files and folders: have it emptied")
        yield each


def _below(folder: int, outer: Path, depth: int) -> Iterator[tuple[int, str, os.stat_result]]:
    if depth > _DEEPEST:
        raise LastingError(f"{outer} holds folders in folders, more than {_DEEPEST} deep: have it emptied")
    for name in os.listdir(folder):
        about = os.stat(name, dir_fd=folder, follow_symlinks=False)
        yield folder, name, about
        if stat.S_ISDIR(about.st_mode):
            inner = open_folder(folder, name)
            try:
                yield from _below(inner, outer, depth + 1)
            finally:
                os.close(inner)
