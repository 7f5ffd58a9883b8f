"""A control group (v2) for each run, where a part of the hierarchy is ours: bounds for all of a run's processes together.

Law: nothing is believed that was not tried here: a group is really made, a bound is really run into.  The warden stays outside
the group, so that what the kernel does to the group never costs us the result.  Everything here blocks.
"""

from __future__ import annotations

import errno
import os
import secrets
import subprocess
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from sandbox.model import Guarantee, Limits, Strength

_CONTROLLERS = {Guarantee.MEMORY: "memory", Guarantee.CPU: "cpu", Guarantee.PIDS: "pids"}
_OURS, _RUNS, _LEAF = "bailiwick", "run-", "gateway"
_PERIOD = 100_000  # microseconds
_SPARE_PROCESSES, _SPARE_MEMORY = 8, 8 << 20  # above the watchdog's bounds, so that the watchdog can name the reason
_SECONDS = 30


class NoGroupError(Exception):
    """No control group could be made, or it did not take what was written; the message says which."""


@dataclass(frozen=True, slots=True)
class Groups:
    """A folder of the hierarchy in which this gateway makes a group for each run.

    controllers  those that can be switched on there.
    """

    folder: Path
    controllers: frozenset[str]

    @classmethod
    def find(cls) -> Groups | None:
        """The part that is this gateway's, None where there is none.  Moves this process into a leaf where the kernel wants it.

        Where systemd is, only what it has delegated (`Delegate=yes`) is touched: the rest of the hierarchy is its own.
        """
        with suppress(OSError, NoGroupError, ValueError):
            return cls._open(own_group())
        return None

    @classmethod
    def _open(cls, own: Path) -> Groups:
        base = own.parent if own.name == _LEAF else own
        _delegated(base)
        available = frozenset(_read(base / "cgroup.controllers").split()) & frozenset(_CONTROLLERS.values())
        if available and base == own and (base / "cgroup.type").exists():  # no processes where controllers are handed on
            leaf = base / _LEAF
            leaf.mkdir(exist_ok=True)
            for pid in _read(base / "cgroup.procs").split():
                with suppress(ProcessLookupError):
                    _write(leaf / "cgroup.procs", pid)
        folder = base / _OURS
        folder.mkdir(exist_ok=True)
        switched = frozenset(name for name in available if _switch_on(base, name) and _switch_on(folder, name))
        found = cls(folder, switched)
        found.sweep()
        found.make(None).close()
        return found

    def make(self, limits: Limits | None, *, files: int = 0, throttle: bool = False) -> Group:
        """A new, empty group.  NoGroupError, OSError where it does not take its bounds.

        files     bytes that the run's own file systems in memory may take: they count as memory here.
        throttle  bound processor time by its rate, so that a run cannot use more than cpu_seconds in wall_seconds.
        """
        group = Group(self.folder / f"{_RUNS}{os.getpid()}-{_started(os.getpid())}-{secrets.token_hex(6)}")
        group.folder.mkdir()
        try:
            if limits is not None:
                group.bound(self.controllers, limits, files, throttle=throttle)
        except BaseException:
            group.close()
            raise
        return group

    def sweep(self) -> None:
        """End and remove the groups that gateways which are no more have left."""
        for path in self.folder.glob(f"{_RUNS}*"):
            pid, started, *_ = path.name.removeprefix(_RUNS).split("-")
            if not pid.isdigit() or _started(int(pid)) != started:
                Group(path).close()

    def hold(self, limits: Limits, pid: int, *, files: int, throttle: bool) -> tuple[Group, frozenset[Guarantee]]:
        """A group with this process in it, and what it bounds by that; what `make` and `take` raise, with nothing left."""
        group = self.make(limits, files=files, throttle=throttle)
        try:
            group.take(pid)
        except BaseException:
            group.close()
            raise
        held = {name for name, controller in _CONTROLLERS.items() if controller in self.controllers} | {Guarantee.KILL_TREE}
        return group, frozenset(held if throttle else held - {Guarantee.CPU})

    def prove(self, python: str, wanted: Collection[Guarantee]) -> Mapping[Guarantee, str]:
        """Guarantee → evidence, for each of `wanted` that held when it was run into: `python` runs a process for each."""
        attempts = {Guarantee.MEMORY: _fill, Guarantee.PIDS: _fork, Guarantee.CPU: _burn, Guarantee.KILL_TREE: _detach}
        found = {}
        for name, attempt in attempts.items():
            if name in wanted and _CONTROLLERS.get(name, "") in {*self.controllers, ""}:
                with suppress(OSError, NoGroupError, subprocess.SubprocessError):
                    found[name] = attempt(self, python)
        return MappingProxyType(found)


@dataclass(frozen=True, slots=True)
class Group:
    """One run's."""

    folder: Path

    def bound(self, controllers: frozenset[str], limits: Limits, files: int, *, throttle: bool) -> None:
        """Write the bounds of the controllers that there are."""
        if "memory" in controllers:
            _write(self.folder / "memory.max", str(limits.memory_bytes + files + _SPARE_MEMORY))
            _write(self.folder / "memory.oom.group", "1")
            if (self.folder / "memory.swap.max").exists():
                _write(self.folder / "memory.swap.max", "0")
            elif len(_read(Path("/proc/swaps")).splitlines()) > 1:
                raise NoGroupError("swap is on and cannot be bounded")
        if "pids" in controllers:
            _write(self.folder / "pids.max", str(limits.processes + _SPARE_PROCESSES))
        if "cpu" in controllers and throttle:
            _write(self.folder / "cpu.max", f"{max(1000, int(_PERIOD * limits.cpu_seconds / limits.wall_seconds))} {_PERIOD}")

    def take(self, pid: int) -> None:
        """Put a process in; what it starts from then on is born here.  NoGroupError where it is not there afterwards."""
        _write(self.folder / "cgroup.procs", str(pid))
        if str(pid) not in _read(self.folder / "cgroup.procs").split() or not _is_in(pid, self.folder):
            raise NoGroupError(f"process {pid} did not enter its group")

    def out_of_memory(self) -> bool:
        """Whether the kernel has ended somebody here for want of memory."""
        with suppress(OSError):
            return any(int(value) for name, value in _events(self.folder / "memory.events").items() if name.startswith("oom_"))
        return False

    def cpu_seconds(self) -> float:
        """Processor time of all that were ever in here, as the kernel counts it."""
        return int(_events(self.folder / "cpu.stat").get("usage_usec", "0")) / 1e6

    def close(self) -> bool:
        """End whoever is still here, and remove the group; whether it is gone."""
        with suppress(OSError):
            _write(self.folder / "cgroup.kill", "1")
        for _ in range(500):
            try:
                self.folder.rmdir()
            except FileNotFoundError:
                return True
            except OSError as error:
                if error.errno != errno.EBUSY:
                    return False
                time.sleep(0.01)
            else:
                return True
        return False


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a probe has found that control groups add here.

    proven  guarantee → evidence, for those that the cages alone prove no more of than `otherwise`.
    """

    groups: Groups
    proven: Mapping[Guarantee, str]
    otherwise: Mapping[Guarantee, Strength]

    @classmethod
    def found(cls, python: str, otherwise: Mapping[Guarantee, Strength]) -> Bounds | None:
        """By trying; None where groups add nothing to `otherwise`."""
        groups = Groups.find()
        if groups is None:
            return None
        proven = groups.prove(python, [name for name, strength in otherwise.items() if strength is Strength.SOFT])
        if not proven:
            with suppress(OSError):  # somebody else's runs are there
                groups.folder.rmdir()
            return None
        return cls(groups, proven, otherwise)

    def without(self, proven: Mapping[Guarantee, Strength]) -> Mapping[Guarantee, Strength]:
        """The same, as far as a cage proves it without a group."""
        return {name: min(got, self.otherwise[name]) if name in self.proven else got for name, got in proven.items()}

    def applied(
        self, alone: Mapping[Guarantee, Strength], limits: Limits, code: int, *, files: int, throttle: bool
    ) -> tuple[Group, Mapping[Guarantee, Strength]]:
        """Put the code's process into a group of its own: the group, and what is proven with it where `alone` is without.

        Raises as `Groups.hold`.
        """
        group, held = self.groups.hold(limits, code, files=files, throttle=throttle)
        hard = held & set(self.proven)
        return group, MappingProxyType({name: Strength.HARD if name in hard and got else got for name, got in alone.items()})


def own_group() -> Path:
    """The folder of this process's group in the v2 hierarchy; NoGroupError where it is not mounted."""
    for line in _read(Path("/proc/self/mountinfo")).splitlines():
        own, _, kind = line.partition(" - ")
        if kind.split(" ", 1)[0] == "cgroup2":
            root, point = own.split(" ")[3:5]
            for each in _read(Path("/proc/self/cgroup")).splitlines():
                if each.startswith("0::"):
                    path = Path(each[3:])
                    return Path(point) / path.relative_to(root) if path.is_relative_to(root) else Path(point)
    raise NoGroupError("no cgroup v2 is mounted here")


def _delegated(base: Path) -> None:
    """NoGroupError unless this part of the hierarchy is ours to use."""
    if os.geteuid() != 0 or not (base / "cgroup.type").exists() or not Path("/run/systemd/system").is_dir():
        return  # what a plain user can write was given to it; a machine's own root, or a container's, without a manager
    for name in ("trusted.delegate", "user.delegate"):
        with suppress(OSError):
            if os.getxattr(base, name) == b"1":
                return
    raise NoGroupError("systemd has not delegated its control group: Delegate=yes in the unit")


def _switch_on(folder: Path, controller: str) -> bool:
    try:
        _write(folder / "cgroup.subtree_control", f"+{controller}")
    except OSError:
        return False
    return controller in _read(folder / "cgroup.subtree_control").split()


def _is_in(pid: int, folder: Path) -> bool:
    lines: list[str] = []
    with suppress(OSError):
        lines = _read(Path(f"/proc/{pid}/cgroup")).splitlines()
    return any(
        line.startswith("0::") and line.endswith("/" + folder.name)
        for line in lines
    )  # fmt: skip


def _started(pid: int) -> str:
    """When the process was started, in the kernel's ticks; "" where there is none.  With its pid it names it for good."""
    with suppress(OSError, IndexError):
        return _read(Path(f"/proc/{pid}/stat")).rsplit(")", 1)[1].split()[19]
    return ""


def _events(path: Path) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in _read(path).splitlines())


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)


# -- bounds that are really run into ---------------------------------------------------------------------------------------


def _trial(
    groups: Groups, python: str, limits: Limits, source: str, *, throttle: bool = False
) -> tuple[Group, subprocess.CompletedProcess[bytes]]:
    """Run a program in a group, which is to be closed."""
    group = groups.make(limits, throttle=throttle)
    try:
        process = subprocess.Popen(  # noqa: S603  a proven interpreter, our own source
            [python, "-I", "-S", "-c", "import sys; sys.stdin.read(1)\n" + source], env={}, cwd="/", stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            group.take(process.pid)
            out, _ = process.communicate(b"x", timeout=_SECONDS)
        finally:
            process.kill()
            process.wait()
    except BaseException:
        group.close()
        raise
    return group, subprocess.CompletedProcess(process.args, process.returncode, out)


def _fill(groups: Groups, python: str) -> str:
    limits = Limits(10, 10, 32 << 20, 16, 1 << 20, 1 << 20, 1 << 16, 64)
    group, done = _trial(groups, python, limits, "x = bytearray(b'x' * (128 << 20)); print(len(x))")
    try:
        if done.returncode != -9 or done.stdout or not group.out_of_memory():
            raise NoGroupError("memory beyond the bound was to be had")
    finally:
        group.close()
    return "128 MiB under a bound of 40 MiB: ended by the kernel, swap included"


_FORK = """
import os, time
made = []
try:
    while len(made) < 100:
        made.append(os.fork())
        if not made[-1]: time.sleep(60); os._exit(0)
except OSError as error: print(len(made), error.errno)
for pid in made: os.kill(pid, 9)
"""
_BURN = """
import time
end, used = time.monotonic() + 0.5, time.process_time()
while time.monotonic() < end: pass
print(time.process_time() - used)
"""


def _fork(groups: Groups, python: str) -> str:
    limits = Limits(10, 10, 64 << 20, 4, 1 << 20, 1 << 20, 1 << 16, 64)
    group, done = _trial(groups, python, limits, _FORK)
    try:
        if done.stdout.split() != [str(limits.processes + _SPARE_PROCESSES - 1).encode(), str(errno.EAGAIN).encode()]:
            raise NoGroupError("processes beyond the bound were to be had")
    finally:
        group.close()
    return f"the process after the {limits.processes + _SPARE_PROCESSES}th: EAGAIN"


def _burn(groups: Groups, python: str) -> str:
    limits = Limits(1, 4, 64 << 20, 4, 1 << 20, 1 << 20, 1 << 16, 64)
    group, done = _trial(groups, python, limits, _BURN, throttle=True)
    try:
        used = float(done.stdout)
        if int(_events(group.folder / "cpu.stat").get("nr_throttled", "0")) < 1 or used > 0.4:
            raise NoGroupError("processor time beyond the rate was to be had")
    finally:
        group.close()
    return f"half a second of spinning at a quarter of a processor: held back, {used:.2f} s used"


_DETACH = """
import os, time
near, far = os.pipe()
if not os.fork():
    os.setsid()
    if os.fork(): os._exit(0)
    os.write(far, str(os.getpid()).encode())
    os.closerange(0, 16)
    time.sleep(60)
print(os.read(near, 20).decode(), flush=True)
"""


def _detach(groups: Groups, python: str) -> str:
    limits = Limits(10, 10, 64 << 20, 4, 1 << 20, 1 << 20, 1 << 16, 64)
    group, done = _trial(groups, python, limits, _DETACH)
    lived = bool(_started(int(done.stdout or "0")))
    if not group.close() or not lived or _is_in(int(done.stdout), group.folder):
        raise NoGroupError("a detached daemon was not ended with its group")
    return "a detached daemon was ended in one stroke with its group, which was then empty"
