"""The file ahead of a SQLite log's tables: one write into a file that has its size already is durable in a third of the time.

A batch that is records, their sealed values, and calls that begin or end goes there first, is acknowledged, and comes into the
tables together with what follows.  Crash story: whoever appends next takes the lock and puts there what a dead process left.  A
frame counts where its checksum says that all of it is there, and it begins where the log ends.  Trust: as the database beside it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Final, NamedTuple

from audit.ahead_file import HINT, HINT_AT, MAGIC, OVERHEAD, SIZE, START, SUFFIX, Said, framed, frames
from audit.model import TamperedError
from audit.store import Batch, Head, IdentityError, OpenCall, StoreError
from audit.tree import leaf_hash

MOST_RECORDS: Final = 256
"""So many records wait for the tables at most, but for the batch that makes them more; """
MOST_SECONDS: Final = 0.1
"""and so long, while more come."""

_LOCK_SECONDS: Final = 10.0
_LOCK_PAUSE: Final = 0.001
_MANY_OPEN: Final = 65_536


class Pending(NamedTuple):
    """A batch that is durable here; `head` is where the log ends with it, `before` the tree's frontier without it."""

    batch: Batch
    head: Head
    before: bytes

    @property
    def first(self) -> int:
        """The index of its first record."""
        return self.batch.leaves[0][0]


class Ahead:
    """The file, its lock, and what of it is not in the tables.  Used by the thread that takes turns.

    pending  in order; the lock is held while there are any.
    behind   they could not be put into the tables when they should have been: nothing more is taken before they are.
    """

    def __init__(self, database: Path) -> None:
        self._path = f"{database}{SUFFIX}"
        self._door = f"{self._path}.lock"
        self._file: int | None = None
        self._same: tuple[int, int] = (0, 0)
        self._whole = False  # the file has its size
        self._at = START
        self._generation = 0
        self.held = False
        self.behind = False
        self.pending: list[Pending] = []
        self.records = 0
        self.since = 0.0
        self.head: Head | None = None  # of the log with what is pending, while the lock is held and somebody asked
        self._ids: set[str] = set()
        self._largest = ""
        self._open: set[str] = set()  # calls that this process began, as far as it remembers
        self._closing: set[str] = set()  # calls that are closed here
        self._known = 0  # records that the log had when we last put some into the tables
        self._looked = False  # at what was left when this process came

    def take(self) -> bool:
        """The log's lock among all processes.  Whether it was free: then somebody may have left something here.

        Whoever waits stands in the door, and who had the lock comes after him.  `StoreError` where another keeps it too long.
        """
        if self.held:
            return False
        deadline = time.monotonic() + _LOCK_SECONDS
        door = _opened(self._door)
        try:
            _lock(door, deadline)
            while True:
                file = self._opened()
                _lock(file, deadline)
                if (there := _named(self._path)) == self._same:
                    break
                self._let_file_go()  # removed while we waited: that of now is another one
                if there == (0, 0) and os.path.lexists(self._path):
                    msg = "the file ahead of the log has another name (a hard link); remove that, and records are written again"
                    raise IdentityError(msg)
                if time.monotonic() > deadline:
                    msg = "the file ahead of the log is exchanged again and again"
                    raise StoreError(msg)
        finally:
            os.close(door)
        self.held = True
        return True

    def let_go(self) -> None:
        """Give the lock back, unless something is pending."""
        if self.held and not self.pending:
            self.held, self.head = False, None
            if self._file is not None:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def left(self, head: Head) -> list[Pending]:
        """What a dead process left here that is not in the log, which ends at `head`.  `TamperedError` where it cannot follow it.

        The first look is at all of the file; later ones at what its page says, which is true while the machine runs.
        """
        if head.size < self._known:
            msg = f"the log has {head.size} leaves and had {self._known}: it was set back"
            raise TamperedError(msg)
        if self._file is None or os.fstat(self._file).st_size < SIZE:
            return []
        if self._looked and HINT.unpack(os.pread(self._file, HINT.size, HINT_AT))[0] <= head.size:
            return []
        self._looked = True
        found: list[Pending] = []
        for first, said in frames(os.pread(self._file, SIZE - START, START)):
            if first < head.size:
                continue
            if first > head.size:
                msg = f"the log has {head.size} leaves, and records wait that begin with {first}: it was set back"
                raise TamperedError(msg)
            found.append(_pending(said, head))
            head = found[-1].head
        return found

    def adopt(self, left: list[Pending]) -> None:
        """Take on what was left: it is put into the tables before anything else is written."""
        if left:
            self.pending, self.behind = left, True
            self.records = sum(len(each.batch.leaves) for each in left)
            self.since = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether what is pending has to go into the tables, whatever else there is to do."""
        return bool(self.pending) and (self.records >= MOST_RECORDS or time.monotonic() - self.since > MOST_SECONDS)

    def remember(self, head: Head, largest: str) -> None:
        """Where the log ends, and the largest id in it, as the tables say under the lock."""
        self.head, self._largest = head, largest

    def fits(self, batch: Batch) -> bool:
        """Whether the batch may stand here at all: no new person, no erasure, no legal hold, and not too much."""
        if batch.subjects or batch.destroyed or batch.held or batch.released or not batch.leaves:
            return False
        room = SIZE - START - OVERHEAD - 1024
        for _, _, _, data in batch.leaves:
            room -= len(data) + 256
        for _, _, sealed in batch.openings:
            room -= len(sealed) + 64
        return room > 0

    def unsure(self, batch: Batch) -> list[str]:
        """Those ids of the batch of which the tables have to say whether they are new.  `KeyError`: one is not."""
        asked, largest = [], self._largest
        mine: set[str] = set()
        for _, record, _, _ in batch.leaves:
            if record in self._ids or record in mine:
                raise KeyError(record)
            mine.add(record)
            if record <= largest:
                asked.append(record)
        return asked

    def not_open(self, batch: Batch) -> list[str]:
        """Those of its closed calls of which the tables have to say whether they are open.  `KeyError`: one is closed already."""
        if len(set(batch.closed)) != len(batch.closed) or not self._closing.isdisjoint(batch.closed):
            raise KeyError
        here = {call.id for call in batch.opened}
        return [call for call in batch.closed if call not in self._open and call not in here]

    def append(self, batch: Batch, head: Head) -> bool:
        """Make the batch durable; the log then ends at `head`.  False: there is no room until what is pending is in the tables.

        `StoreError` where it may be on the disk and may not.  What a later start would find there must be what stands in the log,
        so the batch then goes into the tables with what is pending, before anything else, as after a commit without an answer.
        """
        first = batch.leaves[0][0]
        said = Said(
            [(record, data) for _, record, _, data in batch.leaves],
            [(index - first, name, sealed) for index, name, sealed in batch.openings],
            [(call.id, call.index - first, call.writer, call.boot) for call in batch.opened],
            batch.closed,
            batch.ended,
        )
        frame = framed(said, self._generation, first, head.size)
        if self._at + len(frame) > SIZE:
            return False
        try:
            file = self._sized()
        except OSError as error:
            self.behind = True
            msg = f"the file ahead of the log: {error.strerror}"
            raise StoreError(msg) from error
        self._hold(batch, head)
        try:
            if os.pwrite(file, frame, self._at) != len(frame):
                raise OSError(errno.EIO, "it was not written whole")
            os.fdatasync(file)
            os.pwrite(file, HINT.pack(head.size), HINT_AT)
            self.check()
        except OSError as error:
            self.behind = True
            msg = f"the file ahead of the log: {error.strerror}"
            raise StoreError(msg) from error
        except StoreError:
            self.behind = True
            raise
        self._at += len(frame)
        return True

    def _hold(self, batch: Batch, head: Head) -> None:
        if not self.pending:
            self.since = time.monotonic()
        self.pending.append(Pending(batch, head, self.head.frontier if self.head is not None else b""))
        self.records += len(batch.leaves)
        self.head = head
        self._note(batch)

    def _note(self, batch: Batch) -> None:
        ids = [record for _, record, _, _ in batch.leaves]
        self._ids.update(ids)
        self._largest = max(self._largest, *ids)
        self._begun(batch)
        self._closing.update(batch.closed)

    def _begun(self, batch: Batch) -> None:
        """Which calls are open, after this batch."""
        if len(self._open) > _MANY_OPEN:
            self._open.clear()  # the tables know
        self._open.update([call.id for call in batch.opened])
        self._open.difference_update(batch.closed)

    def settled(self, batch: Batch | None) -> None:
        """All that was pending is in the tables, and so is `batch`, which went there directly.  The file begins anew."""
        if self.pending:
            self._known = self.pending[-1].head.size
        if batch is not None:
            self._begun(batch)
            if batch.destroyed:
                self._wipe()
        self.pending, self.records, self.behind, self.head = [], 0, False, None
        self._ids.clear()
        self._closing.clear()
        self._at, self._generation = START, int.from_bytes(os.urandom(8), "big")

    def _wipe(self) -> None:
        """What was sealed for somebody who is erased does not stay here, though nobody can open it."""
        if self._file is not None and os.fstat(self._file).st_size == SIZE:
            try:
                os.pwrite(self._file, bytes(SIZE - START), START)
                os.fdatasync(self._file)
            except OSError:
                self._looked = False  # without its key it opens for nobody; the next erasure tries again

    def check(self) -> None:
        """`IdentityError` where the file is no longer the one at its path."""
        if self._file is not None and _named(self._path) != self._same:
            msg = "the file ahead of the log was removed or exchanged while it was open"
            raise IdentityError(msg)

    def close(self) -> None:
        """Let the file go; what is pending stays in it."""
        self._let_file_go()

    def _opened(self) -> int:
        if self._file is None:
            self._file = _opened(self._path)
            found = os.fstat(self._file)
            self._same = found.st_dev, found.st_ino
            self._generation = int.from_bytes(os.urandom(8), "big")
        return self._file

    def _sized(self) -> int:
        """The file, at its whole size: what is written into it later changes nothing but its contents."""
        file = self._opened()
        if not self._whole:
            if os.fstat(file).st_size != SIZE:
                os.ftruncate(file, 0)
                whole = MAGIC.ljust(START, b"\0") + bytes(SIZE - START)
                if os.pwrite(file, whole, 0) != SIZE:
                    msg = "there is no room for the file ahead of the log"
                    raise StoreError(msg)
                os.fsync(file)
                folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY)  # noqa: PTH120
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            self._whole = True
        return file

    def _let_file_go(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file, self._whole = None, False
        self.held, self.head = False, None


def together(pending: list[Pending]) -> Batch:
    """What is pending as one batch: a call that began and ended in it is none that is open."""
    whole = Batch()
    opened: dict[str, OpenCall] = {}
    for batch, _, _ in pending:
        whole.leaves += batch.leaves
        whole.openings += batch.openings
        whole.nodes += batch.nodes
        for call in batch.opened:
            opened[call.id] = call
        whole.closed += [call for call in batch.closed if opened.pop(call, None) is None]
        whole.ended += [call for call in batch.ended if opened.pop(call, None) is None]
    whole.opened = list(opened.values())
    return whole


def _pending(said: Said, head: Head) -> Pending:
    """A frame's batch, with hashes and tree made anew from its bytes."""
    batch, frontier, first = Batch(), head.tree(), head.size
    for record, data in said.leaves:
        digest = leaf_hash(data)
        batch.leaves.append((frontier.size, record, digest, data))
        batch.nodes += frontier.append(digest)
    batch.openings = [(first + number, name, sealed) for number, name, sealed in said.openings]
    batch.opened = [OpenCall(call, first + number, writer, boot) for call, number, writer, boot in said.opened]
    batch.closed, batch.ended = said.closed, said.ended
    return Pending(batch, Head(frontier.size, frontier.encode(), head.erasures), head.frontier)


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        msg = f"cannot open the file ahead of the log: {error.strerror}"
        raise StoreError(msg) from error


def _lock(file: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                msg = "another process keeps the log to itself"
                raise StoreError(msg) from None
            time.sleep(_LOCK_PAUSE)  # flock cannot wait for a bounded time
        else:
            return


def _named(path: str) -> tuple[int, int]:
    """Which file is at the path now; (0, 0) for none."""
    try:
        found = os.stat(path, follow_symlinks=False)  # noqa: PTH116  runs at every batch
    except OSError:
        return 0, 0
    return (found.st_dev, found.st_ino) if found.st_nlink == 1 else (0, 0)
