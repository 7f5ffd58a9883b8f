"""What processes use, with all that they started: read from /proc, once for all of them.  Blocks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process and what is below it: how many, resident bytes (shared pages count for each), seconds of processors."""

    processes: int = 0
    resident: int = 0
    cpu: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.processes + other.processes, self.resident + other.resident, self.cpu + other.cpu)


def usage_of(pids: Iterable[int]) -> Mapping[int, Usage]:
    """By the id of each process that is still there."""
    below: dict[int, list[int]] = {}
    own: dict[int, Usage] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                fields = Path(entry.path, "stat").read_bytes().rsplit(b")", 1)[1].split()
                pid = int(entry.name)
                below.setdefault(int(fields[1]), []).append(pid)
                own[pid] = Usage(1, int(fields[21]) * _PAGE, sum(map(int, fields[11:15])) / _TICKS)
    return {pid: _with_all_below(pid, below, own) for pid in pids if pid in own}


def _with_all_below(pid: int, below: Mapping[int, list[int]], own: Mapping[int, Usage]) -> Usage:
    found, queue, seen = Usage(), [pid], {pid}
    while queue:
        each = queue.pop()
        found += own.get(each, Usage())
        children = [child for child in below.get(each, ()) if child not in seen]
        seen.update(children)
        queue += children
    return found
