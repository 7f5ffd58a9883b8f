"""What a run's own attestation proves: facts from inside the cage, checked against the kernel's word from outside.

Every fact must be there and must be right; one that is missing or odd takes away the guarantees that rest on it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sandbox.model import Guarantee, Limits, Strength

_DENIED = (errno.EACCES, errno.EPERM)
_HIDDEN = (errno.EACCES, errno.ENOENT)  # ENOENT where /proc hides other users' processes
_SPARE_TASKS = 16  # the warden, and what lies between its watchdog and the kernel's bound
_SPARE_MEMORY = 128 << 20
_SPARE_FILE_BYTES = 65536  # likewise of the largest file
_REFUSED = 11  # families and kinds of sockets that are tried beside TCP
_CODE_FDS = 6  # stdin, stdout, stderr, the way back, and two pipes to the warden that close on exec


def status_of(pid: int) -> Mapping[str, str]:
    """/proc/<pid>/status by field; empty where it cannot be read."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def attested(
    facts: Any,
    limits: Limits,
    uid: int | None,
    proven: Mapping[Guarantee, Strength],
    confirmed: Callable[[Mapping[str, Any]], bool],
    *,
    network: bool = False,
    kept: bool = False,
) -> Mapping[Guarantee, Strength]:
    """Guarantee → strength for this run: what the probe proved, where this cage confirms it, and ABSENT elsewhere.

    `facts` is what the warden sent; `uid` the run's own, None where it has the gateway's; `confirmed` asks the kernel from
    outside (`Backend.confirmed`).  With `network` the code is to have its way to the gateway's proxy, with `kept` a folder that
    lasts, whose bytes are then kept by a watchdog alone.  Blocks for /proc.
    """
    try:
        checks = _checks(facts["warden"], facts["code"], limits, uid, proven)
        sockets = _of_network(facts["warden"], facts["code"], network=network)
        checks |= {name: held and checks[Guarantee.SYSCALL_SURFACE] for name, held in sockets.items()}
        found = kept and all(facts[side]["kept"] == 0 for side in ("warden", "code"))
        checks[Guarantee.FOLDER] = found and checks[Guarantee.FS_READ] and checks[Guarantee.FS_WRITE]
        outside = confirmed(facts)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # not of the shape that a warden sends
        checks, outside = {}, False
    if kept:
        proven = {**proven, Guarantee.DISK: min(proven.get(Guarantee.DISK, Strength.ABSENT), Strength.SOFT)}
    return MappingProxyType({
        name: strength if outside and checks.get(name, False) else Strength.ABSENT for name, strength in proven.items()
    })  # fmt: skip


def _checks(
    warden: Mapping[str, Any], code: Mapping[str, Any], limits: Limits, uid: int | None, proven: Mapping[Guarantee, Strength]
) -> dict[Guarantee, bool]:
    both = (warden, code)
    sealed = len(code["fds"]) == _CODE_FDS and all(side["seccomp"] == 2 and side["no_new_privs"] == 1 for side in both)
    soft = {name: int(pair[0]) for name, pair in code["rlimits"].items()}
    hard = {name: int(pair[1]) for name, pair in code["rlimits"].items()}
    reads = all(side["read_outside"] in _DENIED and side["list_outside"] in _DENIED for side in both)
    writes = all(side["write_outside"] in _DENIED for side in both)
    signals = code["signal"] == errno.EPERM and code["proc"] in _HIDDEN
    counted_apart = proven.get(Guarantee.PIDS) is Strength.HARD  # by the kernel, for the run's own uid or in its own namespace
    within = 0 < hard["RLIMIT_NPROC"] <= limits.processes + _SPARE_TASKS or not counted_apart
    return {
        Guarantee.FS_READ: sealed and reads and code["proc"] in _HIDDEN,
        Guarantee.FS_WRITE: sealed and writes,
        Guarantee.PROCESS_ISOLATION: sealed and signals,
        Guarantee.KILL_TREE: sealed and signals,
        Guarantee.SYSCALL_SURFACE: sealed,
        Guarantee.IDENTITY: sealed and all(_is_nobody_else(side, uid) for side in both),
        Guarantee.MEMORY: sealed and 0 < hard["RLIMIT_DATA"] <= limits.memory_bytes + _SPARE_MEMORY,
        Guarantee.CPU: sealed and 0 < soft["RLIMIT_CPU"] <= limits.cpu_seconds and hard["RLIMIT_CPU"] == soft["RLIMIT_CPU"] + 1,
        Guarantee.PIDS: sealed and hard["RLIMIT_NPROC"] > 0 and within,
        Guarantee.DISK: sealed and 0 < hard["RLIMIT_FSIZE"] <= limits.file_bytes + _SPARE_FILE_BYTES and hard["RLIMIT_CORE"] == 1,
    }


def _of_network(warden: Mapping[str, Any], code: Mapping[str, Any], *, network: bool) -> dict[Guarantee, bool]:
    """Every family refused, or all but TCP; that TCP then leads nowhere is for `Backend.confirmed` to say."""
    none = some = True
    for side in (warden, code):
        unix, tcp, rest = side["sockets"][:1], side["sockets"][1:3], side["sockets"][3:]
        refused = [*unix, *rest, *side["others"]]
        sealed = len(refused) >= _REFUSED and set(refused) == {errno.EPERM}
        none = none and sealed and tcp == [errno.EPERM] * 2
        some = some and sealed and tcp in ([0, 0], [0, errno.EAFNOSUPPORT])  # a kernel may have no IPv6
    return {Guarantee.NET_NONE: none and not network, Guarantee.NET_ALLOWLIST: some and network}


def _is_nobody_else(side: Mapping[str, Any], uid: int | None) -> bool:
    """No capability; and the run's uid and group alone, or the gateway's and not root."""
    if set(side["capabilities"]) != {"0"}:
        return False
    ids = {*side["uids"], *side["gids"]}
    if uid is not None:
        return ids == {uid} and side["groups"] in ([], [uid])
    return set(side["uids"]) == {os.getuid()} and 0 not in side["uids"]
