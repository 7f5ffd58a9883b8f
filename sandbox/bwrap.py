"""The cage with namespaces: bubblewrap around the warden, and inside it all that the cage without namespaces has.

Law: never as uid 0 (a root's cage could write the kernel's settings); never a mount beneath anything that untrusted code could
write, and nothing kept from one cage for the next; only the system's own bubblewrap, as its package left it.
"""

from __future__ import annotations

import errno
import logging
import os
import platform
import stat
import subprocess
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sandbox.attestation import status_of
from sandbox.backend import NotHereError
from sandbox.engine import CagedRunner
from sandbox.interpreter import ENVIRONMENT, Interpreter
from sandbox.landlock import HELP as WITHOUT
from sandbox.layers import BY_TRYING
from sandbox.model import Guarantee, Limits, Strength
from sandbox.namespaces import (
    Mount,
    children_of,
    digest_of,
    interfaces_of,
    looking_as,
    mounts_of,
    namespaces_of,
    pids_of,
    routes_of,
    uid_map_of,
)
from sandbox.plan import Place, Plan
from sandbox.planted import tried
from sandbox.scratch import Folder
from sandbox.toolsets import Kit, Toolset, python

log = logging.getLogger("sandbox.bwrap")
PROGRAM = Path("/usr/bin/bwrap")
"""The only one: AppArmor's profiles name this path, and a copy elsewhere is nobody's to update."""
_ISOLATION = (
    "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
    "--disable-userns", "--new-session", "--die-with-parent", "--as-pid-1", "--clearenv", "--cap-drop", "ALL",
    "--hostname", "cage",
)  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_LEGACY = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_WORK, _SENTINEL, _SMALL = "/work", "/sentinel", ("/tmp", "/dev/shm")  # noqa: S108  the cage's own
_WORKS = (_WORK, "/scratch", "/cage")  # the first beneath which nothing is to be read
_KEPT = ("/data", "/kept", "/lasting")  # likewise
_SMALL_BYTES, _SPARE_BYTES, _PAGE = 16 << 20, 1 << 20, 4096
_HIDDEN = ("/etc/passwd", "/sys", "/root", "/var")  # but for what the code is given to read beneath them
_SECONDS = 20
_TRIAL = Limits(10, 20, 256 << 20, 16, 1 << 20, 4 << 20, 1 << 16, 64)
_COUNTED = (5, 14)  # from here on the kernel counts a user's processes for each user namespace, and tells networks apart

_INSTALL = "Install the system's bubblewrap (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap)."
HELP: Mapping[Guarantee, str] = MappingProxyType({
    **WITHOUT,
    Guarantee.NET_ALLOWLIST: "Linux 5.14 or later tells a cage's own network from the machine's.",
    Guarantee.PIDS: "Linux 5.14 or later counts the processes of each user namespace by themselves.",
})  # fmt: skip


class Bwrap:
    """Implements `sandbox.backend.Backend`."""

    name = "bwrap"
    help = HELP

    def __init__(self, program: Path = PROGRAM) -> None:
        self._program = program
        self._facts: dict[str, str] = {}
        self._interpreter: Interpreter

    def plan(self, interpreter: Interpreter, sentinel: Path, folder: Folder) -> Plan:
        """See `Backend.plan`."""
        if (os.getuid() if folder.uid is None else folder.uid) == 0:
            raise NotHereError("bubblewrap is never started as root: runs need a uid of their own")
        if interpreter.abi < 1:
            raise NotHereError("Landlock is not there. " + HELP[Guarantee.FS_READ])
        trusted(self._program)
        plan = Plan(interpreter, platform.machine(), interpreter.abi, sentinel)
        self._interpreter = interpreter
        trial = Kit(_TRIAL, python(interpreter))
        planted = tried(self._program, lambda: self.command(plan, folder, trial), interpreter.path, (_WORK, *_SMALL), folder)
        version = subprocess.run([self._program, "--version"], env={}, capture_output=True, timeout=_SECONDS, check=True)  # noqa: S603
        digest = sha256(self._program.read_bytes()).hexdigest()
        self._facts = {
            "bwrap": f"{version.stdout.decode('ascii', 'replace').strip()} sha256:{digest}",
            "cve-2026-87766": planted,
        }
        return plan

    def place(self, plan: Plan, folder: Folder, kit: Kit) -> Place:  # noqa: ARG002  nothing of it is seen inside
        """See `Backend.place`."""
        bound = _bound(plan.interpreter, kit.toolset)
        seen = {str(parent) for path in bound for parent in (Path(path), *Path(path).parents)}
        hidden = [str(plan.sentinel), *(path for path in _HIDDEN if path not in seen and Path(path).exists())]
        volumes = tuple(path for path in _sizes(kit.limits, bound) if path != _SENTINEL)
        kept = _kept(bound) if kit.kept else ""
        return Place(volumes[0], f"{_SENTINEL}/file", True, volumes, tuple(hidden), apart=True, kept=kept)

    def candidates(self, plan: Plan, *, own_uid: bool) -> Mapping[Guarantee, Strength]:  # noqa: ARG002
        """See `Backend.candidates`."""
        kernel = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
        return {
            **dict.fromkeys(BY_TRYING, Strength.HARD),
            Guarantee.IDENTITY: Strength.HARD if own_uid else Strength.SOFT,
            Guarantee.KILL_TREE: Strength.HARD,
            Guarantee.PIDS: Strength.HARD if kernel >= _COUNTED or own_uid else Strength.SOFT,
            Guarantee.MEMORY: Strength.SOFT,
            Guarantee.CPU: Strength.SOFT,
            Guarantee.DISK: Strength.HARD,
            Guarantee.NET_ALLOWLIST: Strength.HARD if kernel >= _COUNTED else Strength.ABSENT,
            Guarantee.FOLDER: Strength.HARD,
            Guarantee.OWN_KERNEL: Strength.ABSENT,
        }

    def command(self, plan: Plan, folder: Folder, kit: Kit) -> Sequence[str]:  # noqa: ARG002
        """See `Backend.command`.  Every target of a mount lies on the cage's own new root, which only we have written."""
        environment = [part for name, value in ENVIRONMENT.items() for part in ("--setenv", name, value)]
        bound = _bound(plan.interpreter, kit.toolset)
        mounts = [part for path in bound for part in ("--ro-bind", path, path)]
        for path in map(Path, _LEGACY):
            if path.is_symlink():
                mounts += ["--symlink", str(path.readlink()), str(path)]
        mounts += ["--proc", "/proc", "--dir", "/dev"]
        mounts += [part for path in _DEVICES for part in ("--dev-bind", path, path)]
        sizes = _sizes(kit.limits, bound)
        for path_, size in sizes.items():
            mounts += ["--perms", "0700", "--size", str(size), "--tmpfs", path_]
        if kit.kept:
            mounts += ["--bind", kit.kept, _kept(bound)]  # whole, and nothing is ever mounted beneath it
        return [str(self._program), *_ISOLATION, *environment, *mounts, "--remount-ro", "/", "--chdir", next(iter(sizes)), "--"]

    def confirmed(self, facts: Mapping[str, Any], started: int, uid: int | None, kit: Kit) -> bool:
        """See `Backend.confirmed`."""
        warden, code = _line(started)
        wanted = os.getuid() if uid is None else uid
        ours, theirs, of_code = (namespaces_of(who) for who in ("self", warden, code))
        if not theirs:  # a container's root, which may not look there but as the one whose they are
            with looking_as(wanted):
                theirs, of_code = namespaces_of(warden), namespaces_of(code)
        checks = {
            "pids": pids_of(warden)[-1] == facts["warden"]["pid"] == 1 != warden
            and pids_of(code)[-1] == facts["code"]["pid"] != code,
            "rights": all(_is_bare(status_of(pid), wanted) for pid in (warden, code)),
            "namespaces": len(theirs) == len(ours)
            and not set(ours.values()) & set(theirs.values())
            and theirs == of_code == facts["warden"]["namespaces"] == facts["code"]["namespaces"],
            "users": uid_map_of(warden) == [[wanted, wanted, 1]],
            "network": interfaces_of(warden) == {"lo"} and routes_of(warden) == 0,
            "view": all(set(facts[side]["hidden"]) == {errno.ENOENT} for side in ("warden", "code")),
            "mounts": self._is_as_built(mounts_of(warden), kit),
        }
        amiss = [name for name, right in checks.items() if not right]
        if amiss:
            log.warning("a cage is not as it was to be built: %s", ", ".join(amiss))
        return not amiss

    def code_of(self, facts: Mapping[str, Any], started: int) -> int:  # noqa: ARG002
        """See `Backend.code_of`."""
        return _line(started)[1]

    def in_memory(self, kit: Kit) -> int:
        """See `Backend.in_memory`."""
        return sum(_sizes(kit.limits, _bound(self._interpreter, kit.toolset)).values())

    def end_of(self, started: int) -> int | None:
        """See `Backend.end_of`: the namespace's first process ends when everybody else in it has ended."""
        warden, _ = _line(started)
        end = os.pidfd_open(warden)
        if warden not in children_of(started):
            os.close(end)
            raise ProcessLookupError(f"process {warden} is gone")
        return end

    def mark(self) -> str:
        """See `Backend.mark`."""
        try:
            about = self._program.stat()
        except OSError as error:
            return str(error)
        return f"{os.uname().release} {about.st_dev} {about.st_ino} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"

    def layers(self) -> Mapping[str, str]:
        """See `Backend.layers`."""
        return self._facts

    def _is_as_built(self, mounts: tuple[Mount, ...], kit: Kit) -> bool:
        """Whether nothing is mounted but what `command` asked for, and nothing is writable but what is to be, to its size."""
        bound = _bound(self._interpreter, kit.toolset)
        sizes = _sizes(kit.limits, bound)
        kept = {_kept(bound)} if kit.kept else set()
        for mount in mounts:
            sealed = {"nosuid", "nodev"} <= mount.options or (mount.point in _DEVICES and "nosuid" in mount.options)
            if mount.point in sizes:
                bounded = mount.kind == "tmpfs" and mount.size is not None and mount.size <= sizes[mount.point]
            elif mount.point in ("/proc", *_DEVICES, *kept):
                bounded = True
            else:
                known = mount.point == "/" or any(Path(mount.point).is_relative_to(path) for path in bound)
                bounded = known and "ro" in mount.options
            if not sealed or not bounded:
                return False
        points = {mount.point for mount in mounts}
        self._facts["mounts"] = f"{len(points)}, sha256:{digest_of(mounts)}"
        return {"/", "/proc", *sizes, *bound, *kept} <= points


def trusted(program: Path) -> None:
    """NotHereError unless this is the system's own program: root's, nobody else's to change, and with no privilege of its own."""
    try:
        about = program.lstat()
    except OSError as error:
        raise NotHereError(f"{program} is not there. {_INSTALL}") from error
    if not stat.S_ISREG(about.st_mode) or about.st_mode & (stat.S_ISUID | stat.S_ISGID):
        raise NotHereError(f"{program} is a link or setuid; bubblewrap as an ordinary program is needed. {_INSTALL}")
    for path in (program, *program.parents):
        about = path.lstat()
        if about.st_uid != 0 or about.st_mode & 0o022:
            raise NotHereError(f"{path} is not root's alone to write, so {program} could be anybody's. {_INSTALL}")


def _sizes(limits: Limits, bound: Sequence[str]) -> dict[str, int]:
    """Mount point → most bytes, the working folder first.  Where something bound lies beneath one, it is not there at all.

    The kernel's bound lies above the watchdog's, so that the watchdog can name the reason.
    """
    taken = _taken(bound)
    work_place = _free(_WORKS, taken)
    small = min(limits.scratch_bytes, _SMALL_BYTES) // _PAGE * _PAGE + _PAGE
    work = limits.scratch_bytes // _PAGE * _PAGE + _SPARE_BYTES
    return {work_place: work, **{path: small for path in _SMALL if path not in taken}, _SENTINEL: _PAGE}


def _taken(bound: Sequence[str]) -> set[str]:
    return {str(parent) for path in bound for parent in (Path(path), *Path(path).parents)}


def _free(places: Sequence[str], taken: set[str]) -> str:
    found = next((path for path in places if path not in taken), None)
    if found is None:
        raise OSError(f"something to be read lies beneath each of {', '.join(places)}")
    return found


def _kept(bound: Sequence[str]) -> str:
    """Where the folder that lasts is found inside."""
    return _free(_KEPT, _taken(bound))


def _bound(interpreter: Interpreter, toolset: Toolset) -> list[str]:
    """What is bound read-only: /usr, and what else warden and code need.  Landlock then opens of it only what is needed."""
    found = ["/usr", *(path for path in _LEGACY if Path(path).is_dir() and not Path(path).is_symlink())]
    folders = {*interpreter.listed, *toolset.listed}
    needed = {path for each in (interpreter, toolset) for path in (*each.read, *each.listed, *each.execute)}
    for path in sorted(needed):
        parent = str(Path(path).parent)
        wanted = parent if parent in folders else path  # a folder of the standard library whole: one mount instead of hundreds
        if not any(Path(wanted).is_relative_to(each) for each in found):
            found.append(wanted)
    return found


def _line(started: int) -> tuple[int, int]:
    """(warden, code) beneath bubblewrap's own process; ValueError where there are not just those."""
    (warden,) = children_of(started)
    (code,) = children_of(warden)
    return warden, code


def _is_bare(side: Mapping[str, str], uid: int) -> bool:
    """Filtered, without new privileges, without a capability even to be had, and nobody but `uid`."""
    return (
        side["Seccomp"] == "2"
        and side["NoNewPrivs"] == "1"
        and all(int(side[name], 16) == 0 for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"))
        and side["Uid"].split() == [str(uid)] * 4
    )


class BwrapRunner(CagedRunner):
    """A runner of these cages; `program` as `Bwrap`'s, the others as `CagedRunner`'s."""

    def __init__(self, *, program: Path = PROGRAM, **options: Any) -> None:
        super().__init__(Bwrap(program), **options)
