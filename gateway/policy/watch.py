"""A folder of policy, read whole and only when it stands still.

Editors write beside and rename over, Kubernetes swaps a link, a copy takes its time: what two readings a short while apart agree
about is what the folder says.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from policies.finding import Finding, Report
from policies.reading import MAX_FILES, read_folder

_FOLDERS: Final = ("", "grants", "shadow", "tests", "workflows")
_MAX_ENTRIES: Final = 2 * MAX_FILES
_TRIES: Final = 40


@dataclass(frozen=True, slots=True)
class Reading:
    """What a folder said at one time.

    texts     by name; what could not be read is missing here, and a finding.
    mark      of all of it, tests and findings included: two readings of one mark say the same.
    """

    texts: Mapping[str, str]
    findings: tuple[Finding, ...]
    mark: str


def read_whole(folder: Path) -> Reading:
    """Every file, once.  Never raises for what a folder may hold."""
    report = Report()
    try:
        texts = read_folder(folder, report)
    except (OSError, RuntimeError) as error:  # a folder that may not be listed; a link that became a circle
        texts = {}
        reason = error.strerror if isinstance(error, OSError) else str(error)
        report.add("unreadable", (str(folder), 0, 0), f"the folder cannot be read: {reason}", "")
    findings = report.error().findings if report else ()
    state = hashlib.sha256(b"bailiwick-reading-v1\n")
    for name in sorted(texts):
        data = texts[name].encode()
        state.update(f"{name}\n{len(data)}\n".encode())
        state.update(data)
    for finding in findings:
        state.update(f"!{finding}\n".encode("utf-8", "surrogatepass"))
    return Reading(texts, findings, state.hexdigest())


def glance(folder: Path, *others: Path) -> str:
    """Changes whenever the folder (or one of the other files) may have; cheap, and opens nothing."""
    state = hashlib.sha256()
    for line in (*_entries(folder), *(f"{path}:{_facts(path)}" for path in others)):
        state.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return state.hexdigest()


def young(folder: Path, seconds: float) -> bool:
    """Whether something in the folder was written within so many seconds, by the clock of the machine that it lies on."""
    newest = 0.0
    for name in _FOLDERS:
        for path in (folder / name, *_inside(folder / name)):
            with contextlib.suppress(OSError, RuntimeError):
                newest = max(newest, path.stat().st_ctime)
    return time.time() - newest < seconds


async def settled(folder: Path, pause: float, read: Callable[[Path], Reading] = read_whole) -> Reading:
    """What the folder says once it stands still; a folder that never does is a finding."""
    before = await asyncio.to_thread(read, folder)
    for _ in range(_TRIES):
        await asyncio.sleep(pause)
        again = await asyncio.to_thread(read, folder)
        if again.mark == before.mark:
            return again
        before = again
    text = f"the folder did not stand still for {_TRIES} readings"
    finding = Finding("unsettled", str(folder), 0, 0, text, "write beside it, and rename; or swap a link")
    return Reading({}, (finding,), "unsettled")


def _entries(folder: Path) -> Iterator[str]:
    for name in _FOLDERS:
        yield f"{name}/:{_facts(folder / name)}"
        yield from (f"{path.name}:{_facts(path)}" for path in _inside(folder / name))


def _inside(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as found:
            return [folder / name for name in sorted(entry.name for entry in islice(found, _MAX_ENTRIES))]
    except OSError:
        return []


def _facts(path: Path) -> str:
    try:
        facts = path.stat()
    except (OSError, RuntimeError) as error:
        return type(error).__name__
    return f"{facts.st_dev}.{facts.st_ino}.{facts.st_mode}.{facts.st_size}.{facts.st_mtime_ns}.{facts.st_ctime_ns}"
