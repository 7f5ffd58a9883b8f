"""Watching one run from above: its output, its processes, its limits; and ending it so that nothing of it is left."""

# ruff: noqa: PTH116, PTH123, PTH208  every import is paid for at each run; nothing here wants more than a descriptor
from __future__ import annotations

import errno
import os
import select
import stat
import time

from sandbox.inside.confine import failing

TYPE_CHECKING = False  # importing `typing` would cost more than everything else here
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from sandbox.inside.confine import Setup
    from sandbox.inside.relay import Relay

    Ended = tuple[int, int, Any]
    """pid, wait status and resource usage of a process that was collected."""

TICK, _FIRST_TICK, _DISK_TICK, _REAP_SECONDS = 0.05, 0.02, 0.2, 5.0
_MOST_ENTRIES = 10_000  # files and folders in scratch
_SIGKILL, _SIGXCPU, _SIGXFSZ = 9, 24, 25  # importing `signal` costs more than running the code


def descendants() -> dict[int, tuple[int, int]]:
    """pid → (CPU ticks, threads) of every process below this one.  The warden is their subreaper, so none hangs elsewhere."""
    found: dict[int, tuple[int, int]] = {}
    queue = _children(os.getpid())
    while queue:
        pid = queue.pop()
        if pid in found:
            continue
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rsplit(b")", 1)[1].split()
        except OSError:
            continue  # gone meanwhile
        found[pid] = sum(map(int, fields[11:15])), int(fields[17])
        queue += _children(pid)
    return found


def _children(pid: int) -> list[int]:
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found: list[int] = []
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += map(int, file.read().split())
        except FileNotFoundError:
            if not os.path.exists("/proc/self/task/" + str(os.getpid()) + "/children"):  # noqa: PTH110
                return _children_by_parent(pid)
        except OSError:
            continue
    return found


def _children_by_parent(pid: int) -> list[int]:
    """The same on a kernel without CONFIG_PROC_CHILDREN."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit():
                with open(f"/proc/{entry}/stat", "rb") as file:
                    if int(file.read().rsplit(b")", 1)[1].split()[1]) == pid:
                        found.append(int(entry))
        except OSError:
            continue
    return found


def memory(pid: int, *, fairly: bool) -> int:
    """Bytes of anonymous and shared memory; with `fairly` a page counts once, divided among its users."""
    path, names = ("smaps_rollup", (b"Pss_Anon:", b"Pss_Shmem:")) if fairly else ("status", (b"RssAnon:", b"RssShmem:"))
    try:
        with open(f"/proc/{pid}/{path}", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return memory(pid, fairly=False) if fairly else 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(names))


def scratch_bytes(root: str, pids: Iterable[int], device: int | None = None) -> tuple[int, int, bool]:
    """(bytes, those of the largest file, whether there are too many entries): the folder's, and deleted files' that are open.

    Of the deleted ones only those on `device`, where it is given.
    """
    total, largest, entries, queue = 0, 0, 0, [root]
    while queue:
        try:
            with os.scandir(queue.pop()) as listing:
                for entry in listing:
                    entries += 1
                    about = entry.stat(follow_symlinks=False)
                    total += about.st_blocks * 512
                    if entries > _MOST_ENTRIES:
                        return total, largest, True
                    if stat.S_ISDIR(about.st_mode):
                        queue.append(entry.path)
                    elif stat.S_ISREG(about.st_mode):
                        largest = max(largest, about.st_size)
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.EACCES):
                return total, largest, True  # deeper than anything honest, or made so that nobody sees what is in it
    deleted: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                about = os.stat(f"/proc/{pid}/fd/{fd}")
                if stat.S_ISREG(about.st_mode) and about.st_nlink == 0 and device in (None, about.st_dev):
                    deleted[about.st_dev, about.st_ino] = about.st_blocks * 512
                    largest = max(largest, about.st_size)
        except OSError:
            continue
    return total + sum(deleted.values()), largest, False


def open_files(pid: int) -> int:
    """How many descriptors the process has; 0 for one that has gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def volume_bytes(volumes: Iterable[str]) -> tuple[int, bool]:
    """(bytes, whether there are too many entries) of file systems of the cage's own, deleted files that are open included."""
    total = entries = 0
    for volume in volumes:
        about = os.statvfs(volume)
        total += (about.f_blocks - about.f_bfree) * about.f_frsize
        entries += about.f_files - about.f_ffree
    return total, entries > _MOST_ENTRIES


def kill_below(*, at_once: bool, wake: int) -> tuple[int, list[Ended]]:
    """Kill everything below this process and collect it: (how many would not go, those collected).

    `at_once` says that kill(-1) reaches nobody else: this process has a domain with a signal scope, or a uid of its own.
    """
    ended: list[Ended] = []
    deadline = time.monotonic() + _REAP_SECONDS
    while True:
        everybody, more = reap()
        ended += more
        if everybody:
            return 0, ended
        if at_once:
            _kill(-1)
        else:
            for pid in descendants():
                _kill(pid)
        if time.monotonic() > deadline:
            return len(descendants()) or 1, ended
        select.select([wake], [], [], 0.005)
        failing(lambda: os.read(wake, 512))


def _kill(pid: int) -> None:
    failing(lambda: os.kill(pid, _SIGKILL))


def reap() -> tuple[bool, list[Ended]]:
    """Collect whoever has ended: (whether nobody is left, those collected)."""
    ended: list[Ended] = []
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return True, ended
        if not pid:
            return False, ended
        ended.append((pid, status, usage))


class Watch:
    """One run.  `reason` is the first limit that it went beyond, "" while there is none.

    wall, idle  seconds that it may take, and that it may go on with nothing passing in or out; None for no bound.
    """

    def __init__(self, setup: Setup, code: int, relay: Relay, wall: float | None, idle: float | None, *, at_once: bool) -> None:
        self.limits, self.root, self.code, self.at_once = setup["limits"], setup["scratch"], code, at_once
        self.volumes = setup["volumes"]
        self.kept, self.kept_bytes = setup["kept"], setup["kept_bytes"]
        self.relay, self.wall_seconds, self.idle_seconds = relay, wall, idle
        self.reason, self.over = "", False
        self.status: int | None = None
        self.started, self.disk_at, self.wall = time.monotonic(), 0.0, 0.0
        self.end = self.started + min(wall or 1e9, idle or 1e9)
        self.reaped_cpu = self.own_cpu = 0.0
        self.peak = {"memory": 0, "processes": 1, "scratch": 0}

    def run(self, wake: int) -> int:
        """Until the code's first process ends or a limit is passed; then all is killed and collected.  How many would not go."""
        next_tick = self.started + _FIRST_TICK
        while not self.reason and self.status is None:
            if self.relay.poll(min(next_tick, self.end) - time.monotonic()):
                self._collected(reap()[1])
            now = time.monotonic()
            self._passed(now)
            if now >= next_tick:
                self._check(now)
                next_tick = time.monotonic() + (TICK / 5 if self.over else TICK)
        self.wall = time.monotonic() - self.started
        left, ended = kill_below(at_once=self.at_once, wake=wake)
        self._collected(ended)
        self.relay.drain()
        if not self.reason:
            self._check_disk(())
        if not self.reason and self.relay.cut:
            self.reason = "output"
        return left

    def _passed(self, now: float) -> None:
        if self.idle_seconds is not None and self.relay.moved:
            self.relay.moved, self.end = False, now + self.idle_seconds
        if self.relay.cut:
            self.reason = "output"
        elif self.relay.ended:
            self.reason = "cancelled"
        elif now >= self.end and self.status is None:
            self.reason = "timeout"

    def _collected(self, ended: list[Ended]) -> None:
        for pid, status, usage in ended:
            self.reaped_cpu += usage.ru_utime + usage.ru_stime
            if pid == self.code:
                self.status, self.own_cpu = status, usage.ru_utime + usage.ru_stime
                self.peak["memory"] = max(self.peak["memory"], usage.ru_maxrss << 10)

    def _check(self, now: float) -> None:
        """The limits that no single process's rlimit keeps, or that lie a little below it."""
        limits, alive = self.limits, descendants()
        threads = sum(count for _, count in alive.values())
        used = self.reaped_cpu + sum(ticks for ticks, _ in alive.values()) / os.sysconf("SC_CLK_TCK")
        resident = sum(memory(pid, fairly=False) for pid in alive)
        self.peak["memory"] = max(self.peak["memory"], resident)
        self.peak["processes"] = max(self.peak["processes"], threads)
        over, self.over = self.over, False
        if self.reason or self.status is not None:
            return
        if threads > limits["processes"]:
            self.reason = "pids"
        elif used > limits["cpu_seconds"]:
            self.reason = "cpu"
        elif any(open_files(pid) > limits["open_files"] for pid in alive):
            self.reason = "open_files"
        elif resident > limits["memory_bytes"] and sum(memory(pid, fairly=True) for pid in alive) > limits["memory_bytes"]:
            # Twice, because between vfork and exec the same memory is counted for two.
            self.reason, self.over = ("oom" if over else ""), True
        if not self.reason and self.volumes:
            self._check_volumes()
        if not self.reason and now >= self.disk_at:
            self._check_disk(alive)
            self.disk_at = time.monotonic() + max(_DISK_TICK, 3 * (time.monotonic() - now))

    def _check_disk(self, alive: Iterable[int]) -> None:
        if self.kept:
            self._check_kept(alive)
        size, largest, crowded = scratch_bytes(self.root, alive)
        if largest > self.limits["file_bytes"]:
            self.reason = "file_size"
        elif self.volumes:
            self._check_volumes()
        else:
            self._hold(size, crowded=crowded)

    def _check_kept(self, alive: Iterable[int]) -> None:
        """A folder that lasts lies on the machine's disk: its own bound is kept by looking."""
        size, largest, crowded = scratch_bytes(self.kept, alive, os.stat(self.kept).st_dev)
        if crowded or size > self.kept_bytes:
            self.reason = "disk"
        elif largest > self.limits["file_bytes"]:
            self.reason = "file_size"

    def _check_volumes(self) -> None:
        """Cheap, and nothing that is written there is missed."""
        size, crowded = volume_bytes(self.volumes)
        self._hold(size, crowded=crowded)

    def _hold(self, size: int, *, crowded: bool) -> None:
        self.peak["scratch"] = max(self.peak["scratch"], size)
        if crowded or size > self.limits["scratch_bytes"]:
            self.reason = "disk"

    def _verdict(self) -> tuple[str, int | None, int | None]:
        """(reason, exit code, signal)."""
        if self.status is None:
            return self.reason or "sandbox_error", None, None
        number = os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else None
        exit_code = os.WEXITSTATUS(self.status) if number is None else None
        return self.reason or self._named(exit_code, number), exit_code, number

    def _named(self, exit_code: int | None, number: int | None) -> str:
        """The reason of a run that ended by itself; a limit that the kernel kept shows in how it ended."""
        tail = self.relay.tail.lower()
        if number == _SIGXCPU or (number == _SIGKILL and self.own_cpu >= self.limits["cpu_seconds"]):
            return "cpu"
        if number == _SIGXFSZ:
            return "file_size"
        if (exit_code and tail.rstrip().rsplit(b"\n", 1)[-1].startswith(b"memoryerror")) or (
            number is not None and b"out of memory" in tail
        ):
            return "oom"  # the address space ended before the watchdog saw it
        if exit_code and self.volumes and b"no space left on device" in tail.rstrip().rsplit(b"\n", 1)[-1]:
            return "disk"  # the file system was full before the watchdog saw it
        if exit_code and b"too many open files" in tail:
            return "open_files"
        return "signal" if number is not None else "error" if exit_code else "ok"

    def result(self, left: int) -> dict[str, Any]:
        """What the gateway is told of the end."""
        reason, exit_code, number = self._verdict()
        return {
            "reason": reason,
            "exit_code": exit_code,
            "signal": number,
            "left": left,
            "stdout_truncated": b"O" in self.relay.cut,
            "stderr_truncated": b"E" in self.relay.cut,
            "wall_ms": int(self.wall * 1000),
            "cpu_ms": int(self.reaped_cpu * 1000),
            "peak": self.peak,
        }
