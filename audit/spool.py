"""The spool: a file beside the gateway that keeps records while the store is away.  What it took is durable, in order.

A file is one outage of one writer: a head, then frames, one for each sync.  Each frame's tag (HMAC-SHA256 under a key made from
the seal key) covers the tag before it, so that nothing is changed, exchanged, moved or put in between.  A last frame that is cut
short was never acknowledged and is dropped; anything else that is not as it was written is an alarm.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from audit.model import TamperedError
from audit.store import StoreError
from audit.store_files import Locks

_SIZE: Final = 4
_SHORT, _LONG = 12, 16  # bytes of the tag over a length, and of that over a frame
_BEGINNING: Final = b"bailiwick/spool/v1"
_MOST: Final = 512 * 1024 * 1024
SPOOL_BYTES: Final = 32 * 1024 * 1024
SPOOL_SECONDS: Final = 300.0


class SpoolLimits(NamedTuple):
    """Where spools lie, how much one may hold, and for how long after its first record new calls are taken into it."""

    folder: Path
    bytes: int = SPOOL_BYTES
    seconds: float = SPOOL_SECONDS


class Head(msgspec.Struct, frozen=True):
    """What a spool says of itself.

    id  of the `spool.replayed` record that will say that all of it is in the log; at  UTC microseconds.
    """

    log: str
    writer: str
    boot: str
    id: str
    at: int
    v: int = 1


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """Records that became durable together.

    leaves    id and bytes, in the order of the writer's chain.
    openings  number of the leaf, name, sealed value: ciphertext, as in the store.
    """

    leaves: list[tuple[str, bytes]]
    openings: list[tuple[int, str, bytes]]


class Read(NamedTuple):
    """What a file holds: its head, its frames, and how much of it they are."""

    head: Head
    frames: list[Frame]
    size: int


class _Seal:
    """Makes the tags of one file, one after the other."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._last = _BEGINNING

    def length(self, size: bytes) -> bytes:
        return hmac.digest(self._key, b"length\0" + self._last + size, "sha256")[:_SHORT]

    def frame(self, payload: bytes) -> bytes:
        return hmac.digest(self._key, b"frame\0" + self._last + payload, "sha256")[:_LONG]

    def take(self, payload: bytes) -> bytes:
        """The whole frame of a payload; the next one follows it."""
        size = len(payload).to_bytes(_SIZE, "big")
        tag = self.frame(payload)
        whole = size + self.length(size) + payload + tag
        self._last = tag
        return whole

    def follow(self, tag: bytes) -> None:
        self._last = tag


def read(data: bytes, key: bytes, name: str) -> Read | None:
    """What a spool's bytes hold; None where not even its head was written whole.  `TamperedError` where one is not as written."""
    seal, payloads, at = _Seal(key), [], 0
    while at < len(data):
        start = at + _SIZE + _SHORT
        if len(data) < start or not any(data[at:]):
            break  # cut short; or room that the file system gave and nobody filled
        size = int.from_bytes(data[at : at + _SIZE], "big")
        if not hmac.compare_digest(seal.length(data[at : at + _SIZE]), data[at + _SIZE : start]):
            raise _damaged(name, at)
        end = start + size + _LONG
        if len(data) < end:
            break
        payload, tag = data[start : start + size], data[start + size : end]
        if not hmac.compare_digest(seal.frame(payload), tag):
            raise _damaged(name, at)
        seal.follow(tag)
        payloads.append(payload)
        at = end
    if not payloads:
        return None
    try:
        head = msgspec.msgpack.decode(payloads[0], type=Head)
        frames = [msgspec.msgpack.decode(payload, type=Frame) for payload in payloads[1:]]
    except msgspec.MsgspecError:
        raise _damaged(name, 0) from None
    if head.v != 1:
        msg = f"the spool {name} is of a newer version"
        raise TamperedError(msg)
    return Read(head, frames, at)


def _damaged(name: str, at: int) -> TamperedError:
    return TamperedError(
        f"the spool {name} is damaged at byte {at}, or of another seal key: records are in it that nowhere else are"
    )


class Left(NamedTuple):
    """A spool that an earlier process left, whose lock is ours now."""

    path: Path
    head: Head
    frames: list[Frame]


class Spool:
    """The spools of one log in one folder, and the one that this writer writes.  Used by the thread that writes."""

    def __init__(self, limits: SpoolLimits, log: str, writer: str, key: bytes) -> None:
        """key  made from the seal key (`audit.privacy.SealKey.spool_key`)."""
        self.limits = limits
        self._log = log
        self._key = key
        self._prefix = hashlib.sha256(log.encode()).hexdigest()[:16]
        self._path = limits.folder / f"{self._prefix}-{hashlib.sha256(writer.encode()).hexdigest()[:16]}.spool"
        self._locks: dict[Path, Locks] = {}
        self._file: int | None = None
        self._seal = _Seal(key)
        self.size = 0
        self.records = 0

    def left(self) -> list[Left]:
        """Spools that are left of earlier processes, oldest first; those of processes that live are theirs.

        `TamperedError` for one that is damaged, `StoreError` for one that cannot be read.
        """
        found = []
        try:
            paths = sorted(self.limits.folder.glob(f"{self._prefix}-*.spool"))
            for path in paths:
                if not self._lock(path):
                    continue
                held = read(path.read_bytes(), self._key, str(path)) if path.stat().st_size <= _MOST else None
                if held is None and path.stat().st_size > _MOST:
                    raise _damaged(str(path), _MOST)
                if held is None or not held.frames:
                    _remove(path)  # nothing of it was acknowledged
                elif held.head.log != self._log:
                    raise _damaged(str(path), 0)
                else:
                    found.append(Left(path, held.head, held.frames))
        except OSError as error:
            msg = f"the spools in {self.limits.folder} cannot be read: {error.strerror}"
            raise StoreError(msg) from error
        return sorted(found, key=lambda left: left.head.at)

    def remove(self, left: Left) -> None:
        """All of one that was left is in the log: it goes, and its name is free again."""
        _remove(left.path)
        if left.path != self._path and (locks := self._locks.pop(left.path, None)) is not None:
            locks.close()

    def begin(self, head: Head, frames: Sequence[Frame]) -> None:
        """Begin a file with these frames: durable on return.  `OSError` where it is not."""
        self.limits.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._lock(self._path):
            raise OSError(0, "another process holds this writer's spool")
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._seal, self.size, self.records = _Seal(self._key), 0, 0
        try:
            self._write([msgspec.msgpack.encode(head), *map(msgspec.msgpack.encode, frames)])
            _sync_folder(self.limits.folder)
        except OSError:
            os.ftruncate(self._file, 0)  # were it to stay, it must hold nothing
            self._close()
            _remove(self._path)
            raise
        self.records = sum(len(frame.leaves) for frame in frames)

    def append(self, frame: Frame) -> None:
        """Durable on return; after an `OSError` the file takes nothing more, and holds what it took before."""
        if self._file is None:
            raise OSError(0, "the spool takes no more after a failure of its disk")
        try:
            self._write([msgspec.msgpack.encode(frame)])
        except OSError:
            self._close()
            raise
        self.records += len(frame.leaves)

    def kept(self) -> list[Frame]:
        """What was acknowledged, read again from the file.  `TamperedError` where it is not what was written."""
        try:
            data = self._path.read_bytes()[: self.size]
        except OSError as error:
            msg = f"the spool {self._path} cannot be read: {error.strerror}"
            raise TamperedError(msg) from error
        held = read(data, self._key, str(self._path))
        if held is None or held.size != self.size:
            raise _damaged(str(self._path), len(data))
        return held.frames

    def clear(self) -> None:
        """All of it is in the log: the file goes."""
        self._close()
        _remove(self._path)
        self.size = self.records = 0

    def close(self) -> None:
        """Let the files and their locks go; what is in them stays."""
        self._close()
        for locks in self._locks.values():
            locks.close()
        self._locks.clear()

    def _write(self, payloads: Sequence[bytes]) -> None:
        data = b"".join(map(self._seal.take, payloads))
        descriptor, rest = self._file, memoryview(data)
        if descriptor is None:
            raise OSError(0, "the spool is closed")
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
        self.size += len(data)

    def _lock(self, path: Path) -> bool:
        return self._locks.setdefault(path, Locks(path)).take("spool")

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def pieces(frames: Sequence[Frame]) -> Iterator[tuple[str, bytes]]:
    """Id and bytes of every record, in order."""
    for frame in frames:
        yield from frame.leaves


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
