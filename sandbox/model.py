"""What runs, under which limits and guarantees, and how it ended.  All of it is frozen; nothing here does I/O.

A profile asks for guarantees, never for mechanisms; a runner proves what it gives, and what is not proven is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from hashlib import sha256
from types import MappingProxyType
from typing import Literal, TypedDict


class Strength(IntEnum):
    """How well a guarantee is kept: `ABSENT < SOFT < HARD`.

    HARD is kept by the kernel; SOFT is kept by a watchdog, or for each process but not for all of a run's processes together.
    """

    ABSENT = 0
    SOFT = 1
    HARD = 2

    @property
    def word(self) -> str:
        """As profiles, records and people spell it: `absent`, `soft`, `hard`."""
        return self.name.lower()


class Guarantee(StrEnum):
    """The closed list of what a sandbox may promise."""

    FS_READ = "fs_read"  # nothing is read but the interpreter, its libraries and the scratch folder
    FS_WRITE = "fs_write"  # nothing is changed outside the scratch folder, metadata included
    NET_NONE = "net_none"  # no socket of any family
    PROCESS_ISOLATION = "process_isolation"  # no process outside is signalled, traced, read or re-limited
    KILL_TREE = "kill_tree"  # everything that the run started is gone when it ends
    MEMORY = "memory"
    CPU = "cpu"
    PIDS = "pids"
    DISK = "disk"
    SYSCALL_SURFACE = "syscall_surface"  # the kernel calls that escapes are made of are refused
    IDENTITY = "identity"  # no capability and no way to one; hard: a uid that is nobody else's
    OWN_KERNEL = "own_kernel"  # a kernel bug is not the host's


class Reason(StrEnum):
    """How a run ended: the closed list."""

    OK = "ok"  # exit code 0
    ERROR = "error"  # another exit code
    TIMEOUT = "timeout"  # wall clock
    CPU = "cpu"
    OOM = "oom"
    PIDS = "pids"
    DISK = "disk"
    OUTPUT = "output"
    SIGNAL = "signal"  # a signal that the sandbox did not send
    CANCELLED = "cancelled"
    REFUSED = "refused"  # the isolation was not proven; the code never reached the cage
    SANDBOX_ERROR = "sandbox_error"  # the cage itself failed, or did not leave everything as it was


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one run, over all its processes together unless it says otherwise.

    file_bytes  of each file; scratch_bytes of all files together; output_bytes of stdout and of stderr, each;
    open_files  of each process; cpu_seconds and memory_bytes also bound each process by itself.
    """

    cpu_seconds: int
    wall_seconds: float
    memory_bytes: int
    processes: int
    file_bytes: int
    scratch_bytes: int
    output_bytes: int
    open_files: int

    def __post_init__(self) -> None:
        bounds = {
            "cpu_seconds": (1, 3600), "wall_seconds": (0.1, 3600), "memory_bytes": (32 << 20, 64 << 30),
            "processes": (1, 4096), "file_bytes": (4096, 64 << 30), "scratch_bytes": (4096, 64 << 30),
            "output_bytes": (1, 64 << 20), "open_files": (16, 4096),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                msg = f"{name} is {value}; it must lie between {low} and {high}"
                raise ValueError(msg)

    def to_dict(self) -> dict[str, int | float]:
        """Seconds and bytes, under the names of the fields."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Profile:
    """What code may use and which guarantees it runs under; a guarantee that is not named may be absent."""

    name: str
    limits: Limits
    network: Literal[False] = False
    requires: Mapping[Guarantee, Strength] = field(default_factory=lambda: MappingProxyType({}))

    def to_dict(self) -> dict[str, object]:
        """As a record keeps it."""
        return {
            "name": self.name,
            "limits": self.limits.to_dict(),
            "network": self.network,
            "requires": _words(self.requires),
        }


CODE_BYTES = 1 << 20
"""Most bytes of code (UTF-8) that one job may have."""


@dataclass(frozen=True, slots=True)
class Job:
    """Code to run once.  `id` names the run in records; ValueError for code that is too long or is not text."""

    id: str
    code: str
    profile: Profile
    language: Literal["python"] = "python"

    def __post_init__(self) -> None:
        if len(self.code.encode("utf-8")) > CODE_BYTES:  # a lone surrogate raises UnicodeEncodeError, a ValueError
            msg = f"the code is longer than {CODE_BYTES} bytes"
            raise ValueError(msg)
        if "\0" in self.code:
            msg = "the code holds a NUL"
            raise ValueError(msg)

    @property
    def code_sha256(self) -> str:
        """SHA-256 (hex) of the code as UTF-8."""
        return sha256(self.code.encode("utf-8")).hexdigest()

    def to_dict(self) -> dict[str, object]:
        """Without the code: its digest."""
        return {"id": self.id, "language": self.language, "profile": self.profile.to_dict(), "code_sha256": self.code_sha256}


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run used: milliseconds and bytes.  Peaks are those that the watchdog saw, so short ones may be missed."""

    wall_ms: int = 0
    cpu_ms: int = 0
    peak_memory_bytes: int = 0
    peak_processes: int = 0
    peak_scratch_bytes: int = 0

    def to_dict(self) -> dict[str, int]:
        """Under the names of the fields."""
        return {name: getattr(self, name) for name in self.__slots__}


class Missing(TypedDict):
    """One guarantee that is not proven: what was wanted, what there is."""

    wanted: str
    got: str


class IsolationUnprovenError(Exception):
    """The guarantees that a profile requires are not proven here, so nothing was run.

    missing  guarantee → (wanted, got); never empty.
    help     what an operator can do about it.
    """

    def __init__(self, missing: Mapping[Guarantee, tuple[Strength, Strength]], help: str) -> None:  # noqa: A002  the house's word
        listed = ", ".join(f"{name} (wanted {want.word}, got {got.word})" for name, (want, got) in missing.items())
        super().__init__(f"isolation is not proven: {listed}")
        self.missing = MappingProxyType(dict(missing))
        self.help = help

    def to_dict(self) -> dict[str, object]:
        """`missing`: guarantee → wanted and got, as words; `help`."""
        missing: dict[str, Missing] = {
            str(name): {"wanted": want.word, "got": got.word} for name, (want, got) in self.missing.items()
        }
        return {"missing": missing, "help": self.help}


class SandboxBusyError(Exception):
    """As many runs wait as the runner accepts; try again later."""


@dataclass(frozen=True, slots=True)
class Run:
    """How a job ended.  stdout and stderr are bytes of untrusted code: never parsed here, capped by the profile.

    exit_code   of the code's first process; None where a signal ended it or it never ran.
    guarantees  those that this run's own attestation proved.
    layers      the mechanisms they rest on, as facts: `landlock` → `abi 7`, `seccomp` → digest of the filter, …
    """

    id: str
    reason: Reason
    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    stdout_truncated: bool
    stderr_truncated: bool
    usage: Usage
    guarantees: Mapping[Guarantee, Strength]
    layers: Mapping[str, str]
    code_sha256: str
    detail: str = ""

    @classmethod
    def refused(cls, job: Job, error: IsolationUnprovenError) -> Run:
        """The record of a job that never reached a cage."""
        nothing = MappingProxyType[Guarantee, Strength]({})
        return cls(
            job.id, Reason.REFUSED, None, None, b"", b"", False, False, Usage(), nothing,
            MappingProxyType({}), job.code_sha256, str(error),
        )  # fmt: skip

    def to_dict(self) -> dict[str, object]:
        """As a tool's result or a record shows it; bytes that are not UTF-8 are spelled as `\\xNN`."""
        return {
            "id": self.id,
            "reason": str(self.reason),
            "exit_code": self.exit_code,
            "signal": self.signal,
            "stdout": self.stdout.decode("utf-8", "backslashreplace"),
            "stderr": self.stderr.decode("utf-8", "backslashreplace"),
            "stdout_truncated": self.stdout_truncated,
            "stderr_truncated": self.stderr_truncated,
            "usage": self.usage.to_dict(),
            "guarantees": _words(self.guarantees),
            "layers": dict(self.layers),
            "code_sha256": self.code_sha256,
            "detail": self.detail,
        }


def _words(strengths: Mapping[Guarantee, Strength]) -> dict[str, str]:
    return {str(name): strength.word for name, strength in strengths.items()}
