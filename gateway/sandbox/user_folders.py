"""Folders that last, of servers that each person has for themselves: one for a tenant, a person and a server.

A thief of the place learns how many people have folders, and of how many servers; who they are takes the key.  What is in
them is as the servers wrote it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandbox import lasting
from sandbox.interpreter import own_uids
from sandbox.runner import Lasting

if TYPE_CHECKING:
    from gateway.settings import Settings

_MARK: Final = 40  # hex digits


def place_of(settings: Settings) -> Path:
    """Where they are.  A gateway that is root gives programs user ids of their own, which its data folder is closed to."""
    if settings.sandbox.folders is not None:
        return settings.sandbox.folders
    data = settings.data.absolute()
    return data.with_name(f"{data.name}-folders") if own_uids() else data / "folders"


PURPOSE: Final = b"user folders"
"""What the key is derived for."""


def eraser(settings: Settings, key: bytes) -> Callable[[str], Awaitable[int]]:
    """Removes a person's folders where no gateway runs."""
    folders = UserFolders(place_of(settings), key)

    async def erase(subject: str) -> int:
        return await asyncio.to_thread(folders.erase, subject)

    return erase


class UserFolders:
    """All of them, in one place.  They are this machine's: another replica finds them only where it sees the same file system."""

    def __init__(self, place: Path, key: bytes) -> None:
        """`key` is 32 bytes: with another one, nobody's folders are found."""
        self._place = place
        self._key = key

    def unfit(self) -> str:
        """Why programs could not use them, "" where they could.  Blocks."""
        if own_uids():
            for folder in self._place.absolute().parents:
                if folder.is_dir() and not folder.stat().st_mode & 0o001:
                    return f"{folder} is closed to the user ids that programs have: chmod o+x, or another place (sandbox.folders)"
        return ""

    def of(self, tenant: str, subject: str, server: str, most: int) -> Lasting:
        """The folder of this person's with this server, to hold at most so many bytes.  Blocks; OSError where it cannot be."""
        person = self._person(subject)
        for folder in (self._place, person):
            folder.mkdir(mode=0o700, parents=folder == self._place, exist_ok=True)
            about = folder.lstat()
            if about.st_uid != os.geteuid() or about.st_mode & 0o022 or folder.is_symlink():
                raise OSError(f"{folder} must be a folder that this user owns and nobody else can write")
            folder.chmod(0o711 if own_uids() else 0o700)
        return Lasting(person / self._mark("server", tenant, subject, server), most)

    def erase(self, subject: str) -> int:
        """Remove all that servers kept of this person; how many folders.  Blocks; SandboxBusyError while one is in use."""
        person, gone = self._person(subject), 0
        if person.is_dir():
            for each in sorted(person.iterdir()):
                gone += lasting.remove(each)
            person.rmdir()
        return gone

    def _person(self, subject: str) -> Path:
        return self._place / self._mark("person", subject)

    def _mark(self, *of: str) -> str:
        return hmac.new(self._key, json.dumps(of).encode(), hashlib.sha256).hexdigest()[:_MARK]
