"""What /proc says of another process's namespaces and mounts; and why user namespaces are not to be had here.

Everything here is read from outside, with the gateway's own eyes; a cage's word is only ever compared with it.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from sandbox.attestation import status_of

NAMES = ("user", "pid", "net", "ipc", "uts", "mnt")
"""The namespaces that a cage must have to itself."""
_libc = ctypes.CDLL(None, use_errno=True)
_SETRESUID, _SETRESGID = (147, 149) if os.uname().machine == "aarch64" else (117, 119)
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo: where, what kind, the mount's own options and the file system's."""

    point: str
    kind: str
    options: frozenset[str]
    of_kind: frozenset[str]

    @property
    def size(self) -> int | None:
        """Most bytes that a tmpfs holds; None where it has no bound of its own."""
        for option in self.of_kind:
            if option.startswith("size=") and option.endswith("k") and option[5:-1].isdigit():
                return int(option[5:-1]) << 10
        return None


def namespaces_of(pid: int | str) -> Mapping[str, str]:
    """Name → `pid:[4026531836]` for each of `NAMES` that can be read."""
    found = {}
    for name in NAMES:
        with suppress(OSError):
            found[name] = os.readlink(f"/proc/{pid}/ns/{name}")  # noqa: PTH115  a text, not a path
    return found


@contextmanager
def looking_as(uid: int) -> Iterator[None]:
    """Look at /proc as this user in the present thread: a container's root may not look into another user's processes.

    Nothing but reading is to be done meanwhile.  The system calls themselves, unlike the C library's functions of their names,
    leave the other threads who they are; real and saved ids stay root's, so that nobody else may signal or trace this one.
    """
    if os.geteuid() != 0 or uid == 0:
        yield
        return
    group = os.getegid()
    _become(_SETRESGID, uid)
    try:
        _become(_SETRESUID, uid)
        try:
            yield
        finally:
            _become(_SETRESUID, 0)
    finally:
        _become(_SETRESGID, group)


def _become(call: int, effective: int) -> None:
    keep = ctypes.c_long(-1)
    if _libc.syscall(ctypes.c_long(call), keep, ctypes.c_long(effective), keep) < 0:
        raise OSError(ctypes.get_errno(), "this thread cannot be somebody else")


def uid_map_of(pid: int) -> list[list[int]]:
    """Lines of (inside, outside, count), as seen from here."""
    text = Path(f"/proc/{pid}/uid_map").read_text(encoding="ascii")
    return [[int(field) for field in line.split()] for line in text.splitlines()]


def mounts_of(pid: int) -> tuple[Mount, ...]:
    """All that the process sees mounted, in its own names."""
    found = []
    for line in Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        own, _, of_kind = line.partition(" - ")
        fields, kind = own.split(" "), of_kind.split(" ")
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[4])
        found.append(Mount(point, kind[0], frozenset(fields[5].split(",")), frozenset(kind[2].split(","))))
    return tuple(found)


def digest_of(mounts: tuple[Mount, ...]) -> str:
    """SHA-256 (hex) over points, kinds and options: the same for two cages of one making."""
    lines = sorted(f"{mount.point} {mount.kind} {','.join(sorted(mount.options))}" for mount in mounts)
    return sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def interfaces_of(pid: int) -> frozenset[str]:
    """Names of the network interfaces that the process has."""
    text = Path(f"/proc/{pid}/net/dev").read_text(encoding="ascii")
    return frozenset(line.partition(":")[0].strip() for line in text.splitlines()[2:])


def routes_of(pid: int) -> int:
    """How many IPv4 routes the process has; loopback needs none."""
    return len(Path(f"/proc/{pid}/net/route").read_text(encoding="ascii").splitlines()) - 1


def children_of(pid: int) -> list[int]:
    """Processes that `pid` has started."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        numbers = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]
        return [each for each in numbers if status_of(each).get("PPid") == str(pid)]


def pids_of(pid: int) -> list[int]:
    """The process's ids, from here inwards."""
    return [int(each) for each in status_of(pid).get("NSpid", "").split()]


def why_not(said: str) -> str:
    """What an operator can do where bubblewrap did not start; `said` is what it wrote."""
    return " ".join([said.strip().rsplit("\n", 1)[-1][:300] or "it said nothing.", *_causes(said)])


def _causes(said: str) -> list[str]:
    found = []
    if "disable-userns" in said:
        found.append("bubblewrap 0.8.0 or later is needed.")
    if _reads("/proc/sys/user/max_user_namespaces") == "0":
        found.append("User namespaces are switched off: sysctl -w user.max_user_namespaces=15000.")
    if _reads("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        found.append("User namespaces are switched off for plain users: sysctl -w kernel.unprivileged_userns_clone=1.")
    if _reads("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        found.append(
            "AppArmor restricts user namespaces to programs with a profile, and /usr/bin/bwrap alone has one: "
            "install the packages bubblewrap and apparmor-profiles, and load /etc/apparmor.d/bwrap-userns-restrict."
        )
    if "proc" in said and "mount" in said.lower():
        found.append(
            "/proc is masked here, as containers have it: Docker's --security-opt systempaths=unconfined, "
            "or Kubernetes' procMount: Unmasked with hostUsers: false."
        )
    elif status_of(os.getpid()).get("Seccomp") == "2":
        found.append(
            "A system-call filter is in force here, as containers have it: give the container the profile "
            "deploy/seccomp/namespaces.json, or rest on the cage without namespaces."
        )
    return found or ["The kernel or its policy refuses user namespaces to this user."]


def _reads(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""
