"""Watching one run from above: its output, its processes, its limits; and ending it so that nothing of it is left."""

# ruff: noqa: PTH116, PTH123, PTH208  every import is paid for at each run; nothing here wants more than a descriptor
from __future__ import annotations

import errno
import os
import select
import signal
import stat
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from sandbox.inside.confine import failing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.inside.confine import Setup

Ended = tuple[int, int, Any]
"""pid, wait status and resource usage of a process that was collected."""
TICK, _DISK_TICK, _REAP_SECONDS = 0.05, 0.2, 5.0
_MOST_ENTRIES = 10_000  # files and folders in scratch


def descendants() -> dict[int, tuple[int, int]]:
    """pid → (CPU ticks, threads) of every process below this one.  The warden is their subreaper, so none hangs elsewhere."""
    parents: dict[int, list[int]] = {}
    facts: dict[int, tuple[int, int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if os.stat("/proc/" + entry).st_uid not in (os.getuid(), 0):  # 0: a process that is not dumpable
                continue
            with open(f"/proc/{entry}/stat", "rb") as file:
                fields = file.read().rsplit(b")", 1)[1].split()
        except OSError:
            continue  # gone meanwhile
        parents.setdefault(int(fields[1]), []).append(int(entry))
        facts[int(entry)] = (sum(map(int, fields[11:15])), int(fields[17]))
    found: dict[int, tuple[int, int]] = {}
    queue = [os.getpid()]
    while queue:
        for child in parents.get(queue.pop(), ()):
            if child not in found:
                found[child] = facts[child]
                queue.append(child)
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


def scratch_bytes(root: str, pids: Iterable[int]) -> tuple[int, bool]:
    """(bytes, whether there are too many entries) of the folder and of deleted files that are still open."""
    total, entries, queue = 0, 0, [root]
    while queue:
        try:
            with os.scandir(queue.pop()) as listing:
                for entry in listing:
                    entries += 1
                    about = entry.stat(follow_symlinks=False)
                    total += about.st_blocks * 512
                    if entries > _MOST_ENTRIES:
                        return total, True
                    if stat.S_ISDIR(about.st_mode):
                        queue.append(entry.path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return total, True  # deeper than anything honest
    deleted: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                about = os.stat(f"/proc/{pid}/fd/{fd}")
                if stat.S_ISREG(about.st_mode) and about.st_nlink == 0:
                    deleted[about.st_dev, about.st_ino] = about.st_blocks * 512
        except OSError:
            continue
    return total + sum(deleted.values()), False


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
            failing(partial(os.kill, -1, signal.SIGKILL))
        else:
            for pid in descendants():
                failing(partial(os.kill, pid, signal.SIGKILL))
        if time.monotonic() > deadline:
            return len(descendants()) or 1, ended
        select.select([wake], [], [], 0.005)
        failing(partial(os.read, wake, 512))


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
    """One run.  `reason` is the first limit that it went beyond, "" while there is none."""

    def __init__(self, setup: Setup, code: int, streams: tuple[int, int], wake: int, frames: int, *, at_once: bool) -> None:
        self.limits, self.root, self.code, self.at_once = setup["limits"], setup["scratch"], code, at_once
        self.out, self.err = streams
        self.volumes = setup["volumes"]
        self.wake, self.frames = wake, frames
        self.streams = {fd: bytearray() for fd in streams}
        self.truncated: set[int] = set()
        self.reason, self.over = "", False
        self.status: int | None = None
        self.started, self.disk_at, self.wall = time.monotonic(), 0.0, 0.0
        self.reaped_cpu = self.own_cpu = 0.0
        self.peak = {"memory": 0, "processes": 1, "scratch": 0}

    def run(self) -> int:
        """Until the code's first process ends or a limit is passed; then all is killed and collected.  How many would not go."""
        poller = select.poll()
        for fd in (self.frames, self.wake, *self.streams):
            poller.register(fd, select.POLLIN)
        end, next_tick = self.started + self.limits["wall_seconds"], self.started
        while not self.reason:
            wait = min(next_tick, end) - time.monotonic()
            for fd, _ in poller.poll(max(wait, 0) * 1000 + 1):
                if fd == self.frames:
                    self.reason = "cancelled"  # nothing is sent during a run: the gateway has gone, or wants the end
                elif fd == self.wake:
                    failing(partial(os.read, fd, 512))
                elif not self._read(fd):
                    poller.unregister(fd)
            self._collected(reap()[1])
            if self.status is not None or self.reason:
                break
            now = time.monotonic()
            if now >= end:
                self.reason = "timeout"
            elif now >= next_tick:
                self._check(now)
                next_tick = time.monotonic() + (TICK / 5 if self.over else TICK)
        self.wall = time.monotonic() - self.started
        left, ended = kill_below(at_once=self.at_once, wake=self.wake)
        self._collected(ended)
        for fd in self.streams:
            while self._read(fd):
                pass
        if self.volumes and not self.reason:  # cheap there: also what was written between the last look and the end
            self._check_disk(())
        return left

    def _read(self, fd: int) -> bool:
        """Take what there is; False at the end.  What is over the limit is dropped."""
        try:
            piece = os.read(fd, 65536)
        except BlockingIOError:
            return False
        room = self.limits["output_bytes"] - len(self.streams[fd])
        self.streams[fd] += piece[:room]
        if len(piece) > room:
            self.truncated.add(fd)
            self.reason = self.reason or "output"
        return bool(piece)

    def _collected(self, ended: list[Ended]) -> None:
        for pid, status, usage in ended:
            self.reaped_cpu += usage.ru_utime + usage.ru_stime
            if pid == self.code:
                self.status, self.own_cpu = status, usage.ru_utime + usage.ru_stime
                self.peak["memory"] = max(self.peak["memory"], usage.ru_maxrss << 10)

    def _check(self, now: float) -> None:
        """The limits that no single process's rlimit keeps."""
        limits, alive = self.limits, descendants()
        threads = sum(count for _, count in alive.values())
        used = self.reaped_cpu + sum(ticks for ticks, _ in alive.values()) / os.sysconf("SC_CLK_TCK")
        resident = sum(memory(pid, fairly=False) for pid in alive)
        self.peak["memory"] = max(self.peak["memory"], resident)
        self.peak["processes"] = max(self.peak["processes"], threads)
        over, self.over = self.over, False
        if threads > limits["processes"]:
            self.reason = "pids"
        elif used > limits["cpu_seconds"]:
            self.reason = "cpu"
        elif resident > limits["memory_bytes"] and sum(memory(pid, fairly=True) for pid in alive) > limits["memory_bytes"]:
            # Twice, because between vfork and exec the same memory is counted for two.
            self.reason, self.over = ("oom" if over else ""), True
        if not self.reason and (self.volumes or now >= self.disk_at):
            self._check_disk(alive)
            self.disk_at = time.monotonic() + max(_DISK_TICK, 3 * (time.monotonic() - now))

    def _check_disk(self, alive: Iterable[int]) -> None:
        size, crowded = volume_bytes(self.volumes) if self.volumes else scratch_bytes(self.root, alive)
        self.peak["scratch"] = max(self.peak["scratch"], size)
        if crowded or size > self.limits["scratch_bytes"]:
            self.reason = "disk"

    def _verdict(self) -> tuple[str, int | None, int | None]:
        """(reason, exit code, signal)."""
        if self.status is None:
            return self.reason or "sandbox_error", None, None
        number = os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else None
        exit_code = os.WEXITSTATUS(self.status) if number is None else None
        if self.reason:
            return self.reason, exit_code, number
        if number == signal.SIGXCPU or (number == signal.SIGKILL and self.own_cpu >= self.limits["cpu_seconds"]):
            return "cpu", None, number
        if number is not None:
            return ("disk" if number == signal.SIGXFSZ else "signal"), None, number
        last = bytes(self.streams[self.err]).rstrip().rsplit(b"\n", 1)[-1]
        if exit_code and last.startswith(b"MemoryError"):
            return "oom", exit_code, None  # the address space ended before the watchdog saw it
        if exit_code and self.volumes and b"No space left on device" in last:
            return "disk", exit_code, None  # the file system was full before the watchdog saw it
        return ("error" if exit_code else "ok"), exit_code, None

    def result(self, left: int) -> dict[str, Any]:
        """What the gateway is told of the end."""
        reason, exit_code, number = self._verdict()
        return {
            "reason": reason,
            "exit_code": exit_code,
            "signal": number,
            "left": left,
            "stdout_truncated": self.out in self.truncated,
            "stderr_truncated": self.err in self.truncated,
            "wall_ms": int(self.wall * 1000),
            "cpu_ms": int(self.reaped_cpu * 1000),
            "peak": self.peak,
        }
