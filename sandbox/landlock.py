"""The cage without namespaces: Landlock, a system-call filter, rlimits, a watchdog, and where we are root a uid for each run.

It needs nothing of the machine but its kernel, so that it works as root, as a plain user and in a container as it comes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sandbox.attestation import status_of
from sandbox.backend import NotHereError
from sandbox.engine import CagedRunner
from sandbox.interpreter import Interpreter
from sandbox.layers import BY_TRYING
from sandbox.model import Guarantee, Strength
from sandbox.plan import Place, Plan
from sandbox.scratch import Folder
from sandbox.toolsets import Kit

_LANDLOCK = (
    "Landlock is needed: Linux 5.13 or later, `landlock` among the kernel's security modules, "
    "and a container runtime that allows its system calls."
)
_SECCOMP = "Seccomp filters are needed (CONFIG_SECCOMP_FILTER)."
_UID = "Run the gateway as root, with the capabilities that Docker gives by default: each run then has a uid of its own."
_GROUP = (
    "A hard bound for all processes together needs a part of a cgroup v2 hierarchy with the controller {}: "
    "Delegate=memory pids cpu in the gateway's systemd unit, or a folder of the hierarchy that belongs to its user and holds it."
)
HELP: Mapping[Guarantee, str] = MappingProxyType({
    Guarantee.FS_READ: _LANDLOCK,
    Guarantee.FS_WRITE: _LANDLOCK,
    Guarantee.NET_NONE: _SECCOMP,
    Guarantee.NET_ALLOWLIST: "Destinations need a network of the cage's own, as bwrap has; Landlock knows ports alone.",
    Guarantee.PROCESS_ISOLATION: _LANDLOCK,
    Guarantee.SYSCALL_SURFACE: _SECCOMP,
    Guarantee.IDENTITY: _UID,
    Guarantee.KILL_TREE: "Linux 6.12 or later ends a run in one stroke; so does a uid of the run's own. " + _UID,
    Guarantee.MEMORY: _GROUP.format("memory"),
    Guarantee.CPU: _GROUP.format("cpu"),
    Guarantee.PIDS: _UID + " " + _GROUP.format("pids"),
    Guarantee.DISK: "A hard bound needs file systems of the run's own, as the backend bwrap has them.",
    Guarantee.FOLDER: _LANDLOCK,
    Guarantee.OWN_KERNEL: "This runner shares the host's kernel, and there is no runner here that does not.",
})  # fmt: skip


class Landlock:
    """Implements `sandbox.backend.Backend`.

    most_abi  use no more of Landlock than this, as an older kernel would.
    """

    name = "landlock"
    help = HELP

    def __init__(self, most_abi: int | None = None) -> None:
        self._most_abi = most_abi

    def plan(self, interpreter: Interpreter, sentinel: Path, folder: Folder) -> Plan:  # noqa: ARG002  nothing to try
        """See `Backend.plan`."""
        abi = interpreter.abi if self._most_abi is None else min(interpreter.abi, self._most_abi)
        if abi < 1:
            raise NotHereError("Landlock is not there. " + HELP[Guarantee.FS_READ])
        return Plan(interpreter, os.uname().machine, abi, sentinel)

    def place(self, plan: Plan, folder: Folder, kit: Kit) -> Place:
        """See `Backend.place`."""
        return Place(str(folder.path), str(plan.sentinel), kept=kit.kept)

    def candidates(self, plan: Plan, *, own_uid: bool) -> Mapping[Guarantee, Strength]:
        """See `Backend.candidates`."""
        hard_if = {True: Strength.HARD, False: Strength.SOFT}
        return {
            **dict.fromkeys(BY_TRYING, Strength.HARD),
            Guarantee.IDENTITY: hard_if[own_uid],
            Guarantee.KILL_TREE: hard_if[own_uid or plan.abi >= 6],
            Guarantee.PIDS: hard_if[own_uid],
            Guarantee.MEMORY: Strength.SOFT,
            Guarantee.CPU: Strength.SOFT,
            Guarantee.DISK: Strength.SOFT,
            Guarantee.FOLDER: Strength.HARD,
            Guarantee.OWN_KERNEL: Strength.ABSENT,
        }

    def command(self, plan: Plan, folder: Folder, kit: Kit) -> Sequence[str]:  # noqa: ARG002  it closes itself
        """See `Backend.command`."""
        return ()

    def confirmed(self, facts: Mapping[str, Any], started: int, uid: int | None, kit: Kit) -> bool:  # noqa: ARG002
        """See `Backend.confirmed`."""
        warden, code = facts["warden"]["pid"], facts["code"]["pid"]
        outer, inner = status_of(warden), status_of(code)
        kept = uid is None  # by a process between: what was started is the warden's keeper
        if (outer.get("PPid") != str(started) if kept else warden != started) or inner.get("PPid") != str(warden):
            return False
        wanted = str(os.getuid() if uid is None else uid)
        return all(
            side.get("Seccomp") == "2"
            and side.get("NoNewPrivs") == "1"
            and int(side["CapEff"], 16) == int(side["CapPrm"], 16) == int(side["CapAmb"], 16) == 0
            and side["Uid"].split() == [wanted] * 4
            for side in (outer, inner)
        )

    def code_of(self, facts: Mapping[str, Any], started: int) -> int:  # noqa: ARG002
        """See `Backend.code_of`."""
        return int(facts["code"]["pid"])

    def in_memory(self, kit: Kit) -> int:  # noqa: ARG002
        """See `Backend.in_memory`: its files are on the machine's disk."""
        return 0

    def end_of(self, started: int) -> int | None:  # noqa: ARG002
        """See `Backend.end_of`: what is left is found by the run's uid, where it has one."""
        return None

    def mark(self) -> str:
        """See `Backend.mark`."""
        return os.uname().release

    def layers(self) -> Mapping[str, str]:
        """See `Backend.layers`."""
        return {}


class LandlockRunner(CagedRunner):
    """A runner of these cages; `landlock_abi` as `Landlock.most_abi`, the others as `CagedRunner`'s."""

    def __init__(self, *, landlock_abi: int | None = None, **options: Any) -> None:
        super().__init__(Landlock(landlock_abi), **options)
