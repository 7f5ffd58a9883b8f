"""Faults for `bench.crashes`: a process that dies, or whose disk or connection fails, at the n-th point of its way.

A point is before or after a statement of the store, or around a sync of a file.  What happens inside of a statement (a commit
writes pages and syncs) is reached by a seccomp filter: the thread's next write or sync fails, or the process is killed there.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import platform
import random
import signal
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

_NUMBERS: Final = {  # system calls: x86_64, aarch64
    "pwrite64": (18, 68),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "ftruncate": (77, 46),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
}
_ARCHITECTURES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2

WRITES: Final = ("pwrite64", "ftruncate")
SYNCS: Final = ("fsync", "fdatasync")
TALK: Final = ("sendto", "recvfrom")


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and at which point."""

    name: str
    point: int
    span: int = 0  # points for which the store is away
    dies: int = 0  # the point at which the process is killed after that


# By store: what a fault does to the thread that meets it.
SYSTEM: Final[dict[str, dict[str, tuple[Sequence[str], int]]]] = {
    "sqlite": {
        "writes fail (EIO)": (WRITES, _ERRNO | errno.EIO),
        "the disk is full (ENOSPC)": (WRITES, _ERRNO | errno.ENOSPC),
        "syncs fail (EIO)": (SYNCS, _ERRNO | errno.EIO),
        "killed in a write": (WRITES, _KILL),
        "killed in a sync": (SYNCS, _KILL),
    },
    "postgresql": {
        "the connection breaks": ((), 0),
        "the answer is not read (EIO)": (("recvfrom",), _ERRNO | errno.EIO),
        "killed while it talks": (TALK, _KILL),
        "killed before it reads the answer": (("recvfrom",), _KILL),
    },
}
KILLED: Final = "killed"
UNANSWERED: Final = "a commit's answer is lost"
REFUSED: Final = "a statement is refused"
AWAY: Final = "the store goes away"
AHEAD: Final = "fdatasync"
"""Of the file ahead of the tables: where the store is away, so is that."""
AWAY_KILLED: Final = "the store goes away, and the process is killed then"


def names(store: str) -> list[str]:
    """All faults of a store; to be killed between two statements is tried as often as all the others together."""
    others = [UNANSWERED, REFUSED, *(SYSTEM[store] if filters() else ())]
    return [KILLED] * len(others) + others


def filters() -> bool:
    """Whether system calls can be made to fail on this machine."""
    return platform.system() == "Linux" and platform.machine() in _ARCHITECTURES


def confine(calls: Sequence[str], action: int, descriptor: int | None) -> None:
    """From now on these system calls of this thread (on this descriptor) end so.  There is no way back: a filter stays."""
    column, architecture = _ARCHITECTURES[platform.machine()]
    code = [(0x20, 0, 0, 4), (0x15, 1, 0, architecture), (0x06, 0, 0, _ALLOW)]
    if descriptor is not None:  # the loop is woken by a socket too, and must go on being woken
        code += [(0x20, 0, 0, 16), (0x15, 1, 0, descriptor), (0x06, 0, 0, _ALLOW)]
    code.append((0x20, 0, 0, 0))
    for left, name in zip(range(len(calls), 0, -1), calls, strict=True):
        code.append((0x15, left, 0, _NUMBERS[name][column]))
    code += [(0x06, 0, 0, _ALLOW), (0x06, 0, 0, action)]
    packed = b"".join(struct.pack("HBBI", *each) for each in code)
    program = ctypes.create_string_buffer(packed)
    head = struct.pack("HxxxxxxP", len(code), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    unused = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), unused, unused, unused) or libc.prctl(
        _PR_SET_SECCOMP, ctypes.c_ulong(_FILTER), ctypes.create_string_buffer(head)
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


class Points:
    """Counts points, in all threads, and lets the fault happen at its own."""

    def __init__(self, store: str, fault: Fault | None, error: Callable[[str], Exception]) -> None:
        self._store = store
        self._fault = fault
        self._error = error
        self._count = itertools.count()
        self._until = 0  # the store is away till then
        self.passed = 0

    def pass_one(self, *, done: bool, statement: str = "", descriptor: int | None = None, sync: bool = False) -> None:
        """At a point: `done` where a statement is over, and only its answer is still to come; `descriptor` of its connection.

        sync  it is no statement but a file that is synced, and fails as a disk does.
        """
        self.passed = number = next(self._count)
        fault = self._fault
        if fault is None or number < fault.point:
            return
        if fault.name == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.name in {AWAY, AWAY_KILLED}:
            if fault.dies and number >= fault.dies:
                os.kill(os.getpid(), signal.SIGKILL)
            # A commit is not answered: every other time it was made all the same.
            commits = statement in {"COMMIT", AHEAD}
            fails = bool(statement) and (done == bool(fault.point % 2) if commits else not done)
            if not self._until and fails and (fault.point % 4 < 2 or commits):  # half of the times with a commit
                self._until = number + fault.span
            if fails and number < self._until:
                raise OSError(errno.EIO, fault.name) if sync else self._error(fault.name)
            return
        if fault.name in {UNANSWERED, REFUSED}:
            if (done and statement in {"COMMIT", AHEAD}) if fault.name == UNANSWERED else not done:
                self._fault = None  # once
                raise OSError(errno.EIO, "a sync is refused") if sync else self._error(fault.name)
            return
        if self._store == "sqlite" or descriptor is not None:
            self._fault = None
            calls, action = SYSTEM[self._store][fault.name]
            if calls:
                confine(calls, action, descriptor)
            elif descriptor is not None:
                with socket.socket(fileno=os.dup(descriptor)) as connection:
                    connection.shutdown(socket.SHUT_RDWR)


class Watched:
    """A driver's cursor with a point before and after each statement."""

    def __init__(self, real: Any, points: Points, descriptor: int | None) -> None:
        self._real = real
        self._points = points
        self._descriptor = descriptor

    def execute(self, statement: str, parameters: Any = ()) -> Any:
        """As the cursor does."""
        self._points.pass_one(done=False, statement=statement, descriptor=self._descriptor)
        result = self._real.execute(statement, parameters)
        self._points.pass_one(done=True, statement=statement, descriptor=self._descriptor)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def watch_syncs(points: Points) -> None:
    """A point before and after each sync that Python itself asks for: of the last signed head, and of the file ahead."""
    own = threading.current_thread()

    def watched(real: Callable[[int], None], name: str = "") -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            if threading.current_thread() is not own:
                points.pass_one(done=False, sync=True, statement=name)
            real(descriptor)
            if threading.current_thread() is not own:
                points.pass_one(done=True, sync=True, statement=name)

        return sync

    os.fsync, os.fdatasync = watched(os.fsync), watched(os.fdatasync, AHEAD)  # type: ignore[assignment]


def draw(chance: random.Random, store: str, points: int, *, spool: bool = False) -> Fault:
    """Any fault at any point; `spool`: mostly that the store goes away for a while, whatever else befalls the process then."""
    if spool and chance.random() < 0.8:
        point, span = chance.randrange(points), chance.randrange(2, 60)
        dies = point + chance.randrange(1, span + 40) if chance.random() < 0.6 else 0
        return Fault(AWAY_KILLED if dies else AWAY, point, span, dies)
    return Fault(chance.choice(names(store)), chance.randrange(points))
