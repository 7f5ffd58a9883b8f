"""Stands between the gateway and a server without a cage: when either ends, all that the server started ends too.

Run as a script, `keeper.py LIFELINE COMMAND …`, by any Python 3.9 or later.  At the other end of the lifeline, a socket, is the
gateway: a byte from it asks the server to end, and its end is the gateway's own, however it came.
"""

# ruff: noqa: PTH208  every import is paid for at each start
from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import NoReturn

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


def _become(command: list[str], keeper: int, report: int) -> NoReturn:
    """In the forked child: the server, or its errno to `report`."""
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)  # should the keeper be killed
        if os.getppid() == keeper:
            os.execvpe(command[0], command, os.environ)  # noqa: S606  no shell
    except OSError as error:
        os.write(report, str(error.errno or 1).encode())
    os._exit(127)


def _below(pid: int) -> list[int]:
    """Processes that `pid` and what it started have started.  The keeper is their subreaper, so none hangs elsewhere."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError, IndexError, ValueError), open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123
                parents.setdefault(int(file.read().rsplit(b")", 1)[1].split()[1]), []).append(int(entry))
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def _reaped(child: int) -> tuple[bool, int | None]:
    """Collect whoever has ended: (whether nobody is left, how the server ended if it did)."""
    status = None
    while True:
        try:
            pid, how = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True, status
        if not pid:
            return False, status
        if pid == child:
            status = how


def _end_all(child: int, wake: int) -> int | None:
    """Kill what is there and what comes of it meanwhile, until nothing is left: how the server ended, if seen here."""
    status, pause = None, 0.005
    while True:
        for pid in _below(os.getpid()):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        nobody, how = _reaped(child)
        status = how if how is not None else status
        if nobody:
            return status
        pause = min(2 * pause, 1.0)  # what has gained other rights than the keeper's cannot be killed, only waited for
        select.select([wake], [], [], pause)
        with suppress(BlockingIOError):
            os.read(wake, 512)


def _exit_as(status: int | None) -> NoReturn:
    """End as the server ended."""
    if status is not None and os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(1 if status is None else os.WEXITSTATUS(status))


def _watched(child: int, lifeline: socket.socket, wake: int) -> int | None:
    """Until the server has ended, or the gateway: how the server ended, None where it did not."""
    while True:
        ready = select.select([lifeline.fileno(), wake], [], [])[0]
        if wake in ready:
            with suppress(BlockingIOError):
                os.read(wake, 512)
            status = _reaped(child)[1]
            if status is not None:
                return status
        if lifeline.fileno() in ready:
            if not lifeline.recv(16):
                return None
            with suppress(OSError):
                os.killpg(child, signal.SIGTERM)


def main() -> None:
    """Start it, say whether that went well, keep it, and leave nothing behind."""
    lifeline = socket.socket(fileno=int(sys.argv[1]))
    lifeline.set_inheritable(False)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # the lifeline says when to end
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    told, report = os.pipe2(os.O_CLOEXEC)
    keeper, child = os.getpid(), os.fork()
    if not child:
        _become(sys.argv[2:], keeper, report)
    os.close(report)
    nothing = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)  # the server's streams end with the server
    failure = os.read(told, 16)
    with suppress(OSError):
        lifeline.send(failure or b"0")
    status = _watched(child, lifeline, wake)
    after = _end_all(child, wake)
    _exit_as(status if status is not None else after)


if __name__ == "__main__":
    main()
