"""What must survive a restart: which bundle was in force, the highest serial ever seen, and whether somebody rolled back.

It lies beside the archive.  Whoever may write it can bring back a bundle that once was in force, and no other.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from gateway.problem import Problem, ProblemError

NAME: Final = "in-force.json"
_MAX_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Memory:
    """digest      of what was in force last.
    serial       the highest of any signed bundle that was, and serial_digest that bundle's digest.
    instead_of   the mark of what the folder said when somebody rolled back to `digest`: that stands until the folder says
                 something else.  "" where nobody did.
    """

    digest: str = ""
    serial: int = 0
    serial_digest: str = ""
    instead_of: str = ""

    def least_serial(self, digest: str) -> int:
        """What a newly signed bundle must have at least: more than any before it, unless it is the same one again."""
        return self.serial if digest == self.serial_digest else self.serial + 1

    def beside(self) -> Memory:
        """What a bundle is held to that decides beside the active one: it may not be older than the newest that ever was."""
        return replace(self, serial=max(self.serial - 1, 0), serial_digest="")


def read_memory(folder: Path) -> Memory:
    """What is remembered; nothing at the very first start.  ProblemError where the file is not what was written."""
    path = folder / NAME
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_BYTES))
        memory = Memory(**found)
        kinds = {name: type(value) for name, value in asdict(memory).items()}
        if kinds != {"digest": str, "serial": int, "serial_digest": str, "instead_of": str}:
            raise ValueError
    except FileNotFoundError:
        return Memory()
    except (OSError, ValueError, TypeError, RecursionError) as error:
        help_ = "restore it from a copy; without it an old signed bundle could not be told from the newest"
        raise ProblemError(Problem("unreadable-file", f"cannot be read: {type(error).__name__}", str(path), help_)) from None
    return memory


def write_memory(folder: Path, memory: Memory) -> None:
    """Durable on return; OSError where that fails, and then what was remembered before still is."""
    path = folder / NAME
    beside = path.with_name(f".{NAME}.{os.getpid()}")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="ascii") as file:  # noqa: PTH123
        json.dump(asdict(memory), file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
