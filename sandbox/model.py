"""What runs, under which limits and guarantees.  All of it is frozen; nothing here does I/O.

A profile asks for guarantees, never for mechanisms; a runner proves what it gives, and what is not proven is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from hashlib import sha256
from types import MappingProxyType
from typing import TypedDict

from sandbox.names import Destination, canonical_digest, file_names


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
    NET_ALLOWLIST = "net_allowlist"  # the profile's hosts and ports alone, through the gateway's proxy
    PROCESS_ISOLATION = "process_isolation"  # no process outside is signalled, traced, read or re-limited
    KILL_TREE = "kill_tree"  # everything that the run started is gone when it ends
    MEMORY = "memory"
    CPU = "cpu"
    PIDS = "pids"
    DISK = "disk"
    SYSCALL_SURFACE = "syscall_surface"  # the kernel calls that escapes are made of are refused
    IDENTITY = "identity"  # no capability and no way to one; hard: a uid that is nobody else's
    FOLDER = "folder"  # a folder that lasts is its owner's alone; of programs that have one
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
    FILE_SIZE = "file_size"  # one file
    OPEN_FILES = "open_files"  # of one process
    OUTPUT = "output"
    SIGNAL = "signal"  # a signal that the sandbox did not send
    CANCELLED = "cancelled"
    REFUSED = "refused"  # the isolation was not proven; the code never reached the cage
    SANDBOX_ERROR = "sandbox_error"  # the cage itself failed, or did not leave everything as it was


class Language(StrEnum):
    """What a job may be written in."""

    PYTHON = "python"
    SHELL = "shell"  # POSIX, /bin/sh, with the system's tools
    JAVASCRIPT = "javascript"  # node, an ES module


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one run, over all its processes together unless it says otherwise.

    file_bytes  of each file; scratch_bytes of all files together; output_bytes of stdout and of stderr, each;
    open_files  of each process; cpu_seconds and memory_bytes also bound each process by itself.
    artifacts   files that are taken out when the run has ended; artifact_bytes of them together.
    """

    cpu_seconds: int
    wall_seconds: float
    memory_bytes: int
    processes: int
    file_bytes: int
    scratch_bytes: int
    output_bytes: int
    open_files: int
    artifacts: int = 0
    artifact_bytes: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "cpu_seconds": (1, 3600), "wall_seconds": (0.1, 3600), "memory_bytes": (32 << 20, 64 << 30),
            "processes": (1, 4096), "file_bytes": (4096, 64 << 30), "scratch_bytes": (4096, 64 << 30),
            "output_bytes": (1, 64 << 20), "open_files": (16, 4096), "artifacts": (0, 1024), "artifact_bytes": (0, 64 << 20),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                msg = f"{name} is {value}; it must lie between {low} and {high}"
                raise ValueError(msg)

    def to_dict(self) -> dict[str, int | float]:
        """Seconds and bytes, under the names of the fields."""
        return {name: getattr(self, name) for name in self.__slots__}


_PYTHON = frozenset({Language.PYTHON})


@dataclass(frozen=True, slots=True)
class Profile:
    """What code may use and which guarantees it runs under; a guarantee that is not named may be absent.

    network   the only hosts and ports that it reaches; none where it is empty.
    languages that code may be written in; none for a profile of programs that go on.
    packages  name of a built set of Python packages that it finds installed.
    tools     whether it may call tools back through the gateway.
    session   whether files of the scratch folder last for the workflow.
    """

    name: str
    limits: Limits
    network: tuple[Destination, ...] = ()
    requires: Mapping[Guarantee, Strength] = field(default_factory=lambda: MappingProxyType({}))
    languages: frozenset[Language] = _PYTHON
    packages: str | None = None
    tools: bool = False
    session: bool = False

    def __post_init__(self) -> None:
        if self.network and self.requires.get(Guarantee.NET_NONE, Strength.ABSENT) > Strength.ABSENT:
            raise ValueError("net_none and a list of destinations contradict each other")

    @property
    def wanted(self) -> Mapping[Guarantee, Strength]:
        """What must be proven: `requires`, and that a list of destinations is kept where there is one."""
        listed = {Guarantee.NET_ALLOWLIST: Strength.HARD} if self.network else {}
        return MappingProxyType({**self.requires, **listed})

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over all of it."""
        return canonical_digest(self.to_dict())

    def to_dict(self) -> dict[str, object]:
        """As a record keeps it."""
        return {
            "name": self.name,
            "limits": self.limits.to_dict(),
            "network": [str(destination) for destination in self.network],
            "requires": words(self.requires),
            "languages": sorted(self.languages),
            "packages": self.packages,
            "tools": self.tools,
            "session": self.session,
        }


CODE_BYTES = 1 << 20
"""Most bytes of code (UTF-8) that one job may have."""
FILES, FILES_BYTES = 256, 16 << 20
"""Most files that one job may bring, and most bytes of them and its standard input together."""
_ARGUMENTS, _ARGUMENT_BYTES = 256, 64 << 10
MAIN: Mapping[Language, str] = MappingProxyType(
    {Language.PYTHON: "main.py", Language.SHELL: "main.sh", Language.JAVASCRIPT: "main.mjs"}
)
"""The file that holds the code, in its working folder."""


@dataclass(frozen=True, slots=True)
class Job:
    """Code to run once, with the files, arguments and standard input that it is given.

    `id` names the run in records.  ValueError for what is too long, is not text, is not strictly named, does not fit into the
    profile's limits, or for a language that the profile does not allow.
    """

    id: str
    code: str
    profile: Profile
    language: Language = Language.PYTHON
    files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    arguments: tuple[str, ...] = ()
    stdin: bytes = b""

    def __post_init__(self) -> None:
        if self.language not in self.profile.languages:
            raise ValueError(f"the profile {self.profile.name} does not allow {self.language}")
        _bounded("the code", [self.code], 1, CODE_BYTES)
        _bounded("the arguments", list(self.arguments), _ARGUMENTS, _ARGUMENT_BYTES)
        file_names(list(self.files))
        if any(name.split("/", 1)[0] == MAIN[self.language] for name in self.files):
            raise ValueError(f"{MAIN[self.language]} is the code's own name")
        sizes, limits = [len(data) for data in self.files.values()], self.profile.limits
        if len(sizes) > FILES or sum(sizes) + len(self.stdin) > min(FILES_BYTES, limits.scratch_bytes):
            raise ValueError("the files are too many or too large")
        if max(sizes, default=0) > limits.file_bytes:
            raise ValueError("a file is larger than the profile allows")

    @property
    def code_sha256(self) -> str:
        """SHA-256 (hex) of the code as UTF-8."""
        return sha256(self.code.encode("utf-8")).hexdigest()

    def inputs_digest(self, packages: str = "") -> str:
        """SHA-256 (hex) over all that the run is given; `packages` is the digest of the set of packages, "" for none."""
        return canonical_digest({
            "code": self.code_sha256,
            "language": self.language,
            "files": {name: sha256(data).hexdigest() for name, data in self.files.items()},
            "arguments": self.arguments,
            "stdin": sha256(self.stdin).hexdigest(),
            "packages": packages,
            "limits": self.profile.limits.to_dict(),
            "network": [str(destination) for destination in self.profile.network],
        })  # fmt: skip

    def to_dict(self) -> dict[str, object]:
        """Without what it holds: names and digests."""
        return {
            "id": self.id,
            "language": self.language,
            "profile": self.profile.to_dict(),
            "code_sha256": self.code_sha256,
            "inputs_digest": self.inputs_digest(),
            "files": {name: sha256(data).hexdigest() for name, data in self.files.items()},
            "arguments": len(self.arguments),
            "stdin_bytes": len(self.stdin),
        }


def _bounded(what: str, texts: list[str], count: int, size: int) -> None:
    if len(texts) > count or sum(len(text.encode("utf-8")) for text in texts) > size:
        raise ValueError(f"{what}: longer than {size} bytes")  # a lone surrogate raises UnicodeEncodeError, a ValueError
    if any("\0" in text for text in texts):
        raise ValueError(f"{what}: holds a NUL")


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


class SandboxFailedError(Exception):
    """A cage for a program that goes on could not be had: nothing runs."""


class NotOfferedError(Exception):
    """What the job asks for is not to be had of this runner: a language, packages, a way back.  The message says which."""


def words(strengths: Mapping[Guarantee, Strength]) -> dict[str, str]:
    """Strengths as people spell them."""
    return {str(name): strength.word for name, strength in strengths.items()}
