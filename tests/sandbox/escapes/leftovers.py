"""What runs could leave behind: processes, mounts, control groups, folders, descriptors, IPC objects, keys, sockets, files.

Only what belongs to this process or to the uids of runs counts, so that others may work on the machine meanwhile.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from sandbox import scratch

_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")
_GROUPS = Path("/sys/fs/cgroup")


class Snapshot:
    """What there is now; `since` says what has been added."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._uids = {*scratch.UIDS} if os.geteuid() == 0 else {os.geteuid()}
        self._before = self._now()

    def since(self) -> list[str]:
        """What is there that was not, a line each.

        Other gateways of this machine try for a moment, as they start, whether they may have control groups: what goes is no
        remainder.
        """
        until = time.monotonic() + 5
        while self._groups() - self._before["control group"] and time.monotonic() < until:
            time.sleep(0.1)
        return [f"{kind}: {thing}" for kind, things in self._now().items() for thing in sorted(things - self._before[kind])]

    @staticmethod
    def _groups() -> set[str]:
        return {str(path) for path in _GROUPS.glob("*/bailiwick*")}

    def _now(self) -> dict[str, set[str]]:
        return {
            "process": self._processes(),
            "mount": _lines("/proc/self/mountinfo"),
            "control group": self._groups(),
            "folder": {path.name for path in self._base.glob("*")},
            "descriptor": {_target(name) for name in os.listdir("/proc/self/fd")} - {""},
            "IPC": self._ipc(),
            "key": self._keys(),
            "socket": {line.split()[-1] for line in _lines("/proc/net/unix") if str(self._base) in line},
            "temporary file": self._temporary(),
        }

    def _processes(self) -> set[str]:
        """Those of the runs' uids, and whoever is below this process."""
        found = set()
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and int(entry.name) != os.getpid():
                    name = (entry / "comm").read_text(encoding="utf-8", errors="replace").strip()
                    state, parent, *_ = (entry / "stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
                    ours = int(parent) == os.getpid()
                    if ours or (state != "Z" and entry.stat().st_uid in self._uids):  # the dead that init has not collected yet
                        found.add(f"{entry.name} {name}")
        return found

    def _ipc(self) -> set[str]:
        found = set()
        for kind, column in (("shm", 7), ("msg", 7), ("sem", 4)):
            for line in _lines(f"/proc/sysvipc/{kind}"):
                fields = line.split()
                if fields[column].isdigit() and int(fields[column]) in self._uids:
                    found.add(f"{kind} {fields[1]}")
        return found

    def _keys(self) -> set[str]:
        """Keys but for the keyrings that the kernel itself makes for every user."""
        rows = [line.split() for line in _lines("/proc/keys")]
        return {
            " ".join(row) for row in rows if len(row) > 5 and row[5] in {str(uid) for uid in self._uids} and row[7] != "keyring"
        }

    def _temporary(self) -> set[str]:
        found = set()
        for place in {*_TEMPORARY, tempfile.gettempdir()}:
            for path in Path(place).glob("*"):
                with suppress(OSError):
                    if path.lstat().st_uid in self._uids:
                        found.add(str(path))
        return found


def descendants(root: int) -> list[int]:
    """Pids below a process."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                parents.setdefault(int(text.rsplit(")", 1)[1].split()[1]), []).append(int(entry.name))
    found, queue = [], [root]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def _lines(path: str) -> set[str]:
    try:
        return set(Path(path).read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return set()


def _target(name: str) -> str:
    """A descriptor by number and what it is; not the one by which descriptors are listed."""
    with suppress(OSError):
        target = os.readlink(f"/proc/self/fd/{name}")
        return "" if target.startswith(f"/proc/{os.getpid()}/fd") else f"{name} {target}"
    return ""
