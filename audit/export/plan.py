"""What an export is to be, settled before its first byte, and how far it has come: kept beside it, so that a kill costs nothing.

Crash story: data is written and synced, then `progress.json` is exchanged for one that says so; what lies behind it is cut off by
the next run.  An export that was begun is ended as it was begun, or thrown away by its operator.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import orjson

from audit.export.query import Query

PLAN: Final = "plan.json"
PROGRESS: Final = "progress.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole wish.

    note      the checkpoint under which everything is proven; size: its.
    first, stop  the records looked at: [first, stop).
    disclose  names of values that are opened.
    """

    query: Query
    formats: tuple[str, ...]
    note: str
    size: int
    first: int
    stop: int
    operator: str
    reason: str
    at: int
    disclose: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether it holds every record of its range."""
        return self.query.whole

    def save(self, folder: Path) -> None:
        """Durable on return."""
        replace_file(folder / PLAN, orjson.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """`OSError` where there is none, `ValueError` for what is none."""
        return msgspec.json.decode((folder / PLAN).read_bytes(), type=cls)


@dataclass(slots=True)
class Progress:
    """How far it has come.

    next     the record to look at next.
    lengths  of each file that is being written, in bytes.
    """

    next: int
    records: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    policies: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    disclosed: dict[str, int] = field(default_factory=dict)
    proofs: int = 0

    def save(self, folder: Path) -> None:
        """Durable on return."""
        replace_file(folder / PROGRESS, orjson.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path, first: int) -> Progress:
        """What was saved last; the beginning where nothing was."""
        try:
            return msgspec.json.decode((folder / PROGRESS).read_bytes(), type=cls)
        except FileNotFoundError:
            return cls(first)


def replace_file(path: Path, data: bytes) -> None:
    """Exchange the file for a whole one, on disk when this returns."""
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    fresh.replace(path)
