"""Scratch folders that last for a workflow: sealed files of the gateway's, carried into a cage and out of it again.

Same tenant, workflow, person and profile: the same folder; anything else: another's, and there is no way to name it.
A thief of the folder learns how many there are, how large, and when each ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import struct
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gateway.model import Clock, Principal, Refused
from gateway.reasons import Code
from gateway.state.sealing import Sealer, UnsealableError
from sandbox.model import FILES, FILES_BYTES

_NOTHING: Final[Mapping[str, bytes]] = MappingProxyType({})
_PURPOSE: Final = "sandbox session"
SESSIONS: Final = b"sandbox sessions"
"""What the key is derived for."""
MOST_FILES: Final = FILES - 16
_WAITING: Final = 16
_SPARE: Final = 256 << 10
"""Less than a run may be given, so that there is room for what its caller brings."""


@dataclass(slots=True)
class Session:
    """A folder that one run holds: `files` as it found them, and what it leaves once it has said so."""

    files: Mapping[str, bytes]
    room: int
    left: Mapping[str, bytes] | None = None

    def leave(self, files: Mapping[str, bytes]) -> tuple[str, ...]:
        """What the next run will find; the names of what does not fit into a folder's bounds, and is not kept."""
        kept: dict[str, bytes] = {}
        dropped, room = [], self.room
        for name, data in files.items():
            if len(kept) < MOST_FILES and len(data) <= room:
                kept[name] = data
                room -= len(data)
            else:
                dropped.append(name)
        self.left = kept
        return tuple(dropped)


class Folders:
    """All of them, in one folder of this gateway's data.  They are this replica's; a run on another one finds its own."""

    def __init__(self, folder: Path, key: bytes, clock: Clock, *, most: int, most_of_one: int) -> None:
        """`key` is 32 bytes; `most` folders in all, `most_of_one` for one person: the one used longest ago makes room."""
        self._folder = folder
        self._sealer = Sealer(key, _PURPOSE)
        self._key = key
        self._clock = clock
        self._most = most
        self._most_of_one = most_of_one
        self._held: dict[str, asyncio.Lock] = {}
        self._waiting: dict[str, int] = {}
        self._erased: Counter[str] = Counter()

    @asynccontextmanager
    async def held(
        self, principal: Principal, profile: str, room: int = FILES_BYTES, *, wait: bool = True
    ) -> AsyncIterator[Session]:
        """The folder, for one run at a time; what the body says is left, at most `room` bytes, is kept when it ends.

        `Refused(OVERLOADED)` where another run has it and one must not wait, where too many wait already, or where there are too
        many folders.
        """
        binding = json.dumps([principal.tenant, principal.subject, principal.workflow, profile])
        person = self._person(principal.subject)
        stem = f"{person}{self._mark(binding)}"
        lock = self._held.setdefault(stem, asyncio.Lock())
        if lock.locked() and (not wait or self._waiting.get(stem, 0) > _WAITING):
            raise Refused(Code.OVERLOADED, "the session's folder is in use")
        self._waiting[stem] = self._waiting.get(stem, 0) + 1
        try:
            async with lock:
                erased = self._erased[person]
                most = max(0, min(FILES_BYTES, room) - _SPARE)
                session = Session(await asyncio.to_thread(self._read, stem, binding), most)
                yield session
                if session.left is not None and self._erased[person] == erased:
                    await asyncio.to_thread(self._write, stem, binding, session.left, principal.ends)
                if self._erased[person] != erased:  # meanwhile; a run that had begun leaves nothing either
                    await asyncio.to_thread(self._remove, stem)
        finally:
            self._waiting[stem] -= 1
            if not self._waiting[stem]:
                del self._waiting[stem], self._held[stem]

    def sweep(self) -> int:
        """Remove the folders whose workflow is over; how many.  Blocks."""
        now, gone = self._clock() // 1_000_000, 0
        for path in self._all():
            ends = path.suffix.removeprefix(".")
            if not ends.isdigit() or int(ends) <= now:
                path.unlink(missing_ok=True)
                gone += 1
        return gone

    async def erase(self, subject: str) -> int:
        """Remove all that runs left for a person, in whichever tenant; how many folders.  What is under way leaves nothing."""
        person = self._person(subject)
        self._erased[person] += 1
        return await asyncio.to_thread(self._remove, person)

    def _remove(self, beginning: str) -> int:
        found = [path for path in self._all() if path.name.startswith(beginning)]
        for path in found:
            path.unlink(missing_ok=True)
        return len(found)

    def _person(self, subject: str) -> str:
        """How the names of a person's folders begin."""
        return f"{self._mark(subject)[:16]}-"

    def _mark(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def _all(self) -> list[Path]:
        return sorted(self._folder.iterdir()) if self._folder.is_dir() else []

    def _read(self, stem: str, binding: str) -> Mapping[str, bytes]:
        self.sweep()
        for path in self._all():
            if path.stem == stem:
                try:
                    return _unpacked(self._sealer.open(binding, path.read_bytes()))
                except UnsealableError:
                    raise Refused(Code.DUTY_FAILED, "the session's folder cannot be opened") from None
        return _NOTHING

    def _write(self, stem: str, binding: str, files: Mapping[str, bytes], ends: int) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{stem}.{ends}"
        self._make_room(stem)
        part = self._folder / f"{name}.part"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._sealer.seal(binding, _packed(files)))
        part.replace(self._folder / name)
        for path in self._all():
            if path.stem == stem and path.name != name:
                path.unlink(missing_ok=True)

    def _make_room(self, stem: str) -> None:
        others = [path for path in self._all() if path.stem != stem]
        mine = sorted((path for path in others if path.name.startswith(stem[:17])), key=lambda path: path.stat().st_mtime)
        for path in mine[: max(0, len(mine) - self._most_of_one + 1)]:
            with suppress(FileNotFoundError):
                path.unlink()
                others.remove(path)
        if len(others) >= self._most:
            raise Refused(Code.OVERLOADED, "there are as many sessions as there may be")


def _packed(files: Mapping[str, bytes]) -> bytes:
    head = json.dumps([[name, len(data)] for name, data in files.items()]).encode()
    return struct.pack(">I", len(head)) + head + b"".join(files.values())


def _unpacked(packed: bytes) -> Mapping[str, bytes]:
    (length,) = struct.unpack_from(">I", packed)
    at, files = 4 + length, {}
    for name, size in json.loads(packed[4:at]):
        files[name] = packed[at : at + size]
        at += size
    return MappingProxyType(files)
