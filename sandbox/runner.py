"""What every runner promises, and the choice among them: the first whose proven guarantees cover the profile.

There is no runner without isolation, and no run is ever repeated with less.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from types import MappingProxyType
from typing import Literal, Protocol

from sandbox.model import Guarantee, IsolationUnprovenError, Job, Language, Profile, Strength
from sandbox.names import canonical_digest
from sandbox.result import Run


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe found for one guarantee.

    evidence  what was tried and how it went, a line each.
    help      how to gain more, "" where there is nothing to gain.
    """

    strength: Strength
    evidence: tuple[str, ...] = ()
    help: str = ""

    def to_dict(self) -> dict[str, object]:
        """The strength as a word."""
        return {"strength": self.strength.word, "evidence": list(self.evidence), "help": self.help}


@dataclass(frozen=True, slots=True)
class Offer:
    """What a language's code is run by: path, version and SHA-256 (hex) of the program's file."""

    path: str
    version: str
    sha256: str

    def to_dict(self) -> dict[str, str]:
        """Under the names of the fields."""
        return {"path": self.path, "version": self.version, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Report:
    """What a runner proved on this machine by trying.

    backend   `landlock`, `bwrap` …
    findings  guarantee → finding; a guarantee that is not there is absent.
    layers    facts about the mechanisms, as `landlock` → `abi 7`.
    at        epoch seconds of the probe.
    problem   why nothing could be proven at all, "" where it could.
    languages what can be run here, and by what.
    """

    backend: str
    findings: Mapping[Guarantee, Finding]
    layers: Mapping[str, str]
    at: float
    problem: str = ""
    languages: Mapping[Language, Offer] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def id(self) -> str:
        """SHA-256 (hex) over all of it: what a run's record points at."""
        return canonical_digest(self.to_dict())

    @property
    def guarantees(self) -> Mapping[Guarantee, Strength]:
        """Guarantee → proven strength, for every guarantee there is."""
        absent = Finding(Strength.ABSENT)
        return MappingProxyType({name: self.findings.get(name, absent).strength for name in Guarantee})

    def missing(self, profile: Profile) -> Mapping[Guarantee, tuple[Strength, Strength]]:
        """Guarantee → (wanted, got) for each that the profile requires and this report does not prove."""
        return shortfall(profile, self.guarantees)

    def require(self, profile: Profile) -> None:
        """Raise IsolationUnprovenError unless every guarantee that the profile requires is proven."""
        missing = self.missing(profile)
        if missing:
            helps = [self.problem, *(self.findings[name].help for name in missing if name in self.findings)]
            raise IsolationUnprovenError(missing, " ".join(dict.fromkeys(line for line in helps if line)))

    def to_dict(self) -> dict[str, object]:
        """As `doctor` and the console show it."""
        return {
            "backend": self.backend,
            "findings": {str(name): finding.to_dict() for name, finding in self.findings.items()},
            "layers": dict(self.layers),
            "at": self.at,
            "problem": self.problem,
            "languages": {str(language): offer.to_dict() for language, offer in self.languages.items()},
        }


def shortfall(profile: Profile, proven: Mapping[Guarantee, Strength]) -> Mapping[Guarantee, tuple[Strength, Strength]]:
    """Guarantee → (wanted, got) for each that `profile` requires and `proven` does not cover."""
    pairs = {name: (wanted, proven.get(name, Strength.ABSENT)) for name, wanted in profile.wanted.items()}
    return MappingProxyType({name: (wanted, got) for name, (wanted, got) in pairs.items() if got < wanted})


Stream = Literal["stdout", "stderr"]


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the gateway gives a run.  All of it is optional, and what a runner cannot do with it is an error, never passed over.

    output   called on the event loop with each piece of output as it comes, never with more than output_bytes of a stream.
             It returns at once; it cannot hold the run back.
    tools    one end of a pair of stream sockets whose other end the gateway keeps: descriptor 3 of the code, named by
             BAILIWICK_TOOLS=3.  Only under a profile with `tools`.  The runner closes it.
    network  awaited with the socket that listens on 127.0.0.1:3128 inside the cage, which it closes; cancelled when the run ends.
             Needed by a profile with `network`, and only there.
    """

    output: Callable[[Stream, bytes], None] | None = None
    tools: socket | None = None
    network: Callable[[socket], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Lasting:
    """A folder that a program may read and write and that lasts: its place, which no cage reads, and most bytes that it may hold.

    One program has it at a time.  How much it holds is kept by a watchdog: `disk` is then no more than soft.
    """

    path: Path
    bytes: int


@dataclass(frozen=True, slots=True)
class Program:
    """A long-lived program that speaks on stdin and stdout, as an MCP server does.

    command      absolute path of the program and its arguments; no shell.
    environment  all that it finds in its environment beside what every cage has.  May hold secrets.
    folder       a folder that it may read and write and that lasts: its HOME, and `{folder}` in its arguments and environment;
                 None for a fresh one that goes with it.
    cwd          where it begins, which it may read; None for its folder.
    read         files and folders that it may read and execute, beside the system's tools.
    idle_seconds ended when nothing has passed in or out for so long; None for never.
    """

    id: str
    command: tuple[str, ...]
    profile: Profile
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    folder: Lasting | None = None
    read: tuple[Path, ...] = ()
    cwd: Path | None = None
    idle_seconds: float | None = None


class Served(Protocol):
    """A program that goes on in its cage.  All that it started is gone when `wait` or `end` returns, or when the gateway dies."""

    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: AsyncIterator[bytes]  # lines; who does not read them misses the oldest
    pid: int  # of the process that was started: the cage and the program lie beneath it
    guarantees: Mapping[Guarantee, Strength]
    layers: Mapping[str, str]

    async def wait(self) -> Run:
        """Until it has ended: how.  Its output went to the streams and is not in the Run."""
        ...

    async def end(self) -> Run:
        """Close its stdin, give it a little while, end it and all that it started: how it ended."""
        ...


class Runner(Protocol):
    """Runs untrusted code in a cage of its own, each job in a new one.

    The code reaches the cage only after the cage has attested, from inside, that it holds.  What a run started is gone when
    `run` returns or is cancelled, and also when the gateway dies.  Nothing blocks the event loop; as many runs as the runner
    accepts go on at once, a bounded number waits.
    """

    @property
    def name(self) -> str:
        """The backend, as `landlock`."""
        ...

    async def probe(self) -> Report:
        """What is proven here, by attempts with positive controls; kept for a while.  Never raises for want of isolation."""
        ...

    async def run(self, job: Job, hooks: Hooks = Hooks()) -> Run:
        """Run the job to its end, whatever end that is.

        Raises IsolationUnprovenError before the code is handed over where a required guarantee is not proven by the probe or by
        this run's own attestation, SandboxBusyError where too many runs wait, and NotOfferedError for what is not to be had here.
        """
        ...

    async def serve(self, program: Program, hooks: Hooks = Hooks()) -> Served:
        """Start a program in a cage of its own; raises as `run` does, and SandboxFailedError where the cage fails.

        No wall clock bounds it, nor how much it writes on the whole; all other limits hold, processor time over its whole life.
        """
        ...

    def forget(self) -> None:
        """Believe no earlier probe: the next use of the runner probes again."""
        ...

    async def aclose(self) -> None:
        """End every run and give everything back."""
        ...


async def best(profile: Profile, runners: Sequence[Runner] | None = None) -> Runner:
    """The first of `runners` (default: those that this package has, strongest first) whose proven guarantees cover the profile.

    Raises IsolationUnprovenError with the shortfall of the runner that came closest where none does.
    """
    closest: IsolationUnprovenError | None = None
    for runner in runners if runners is not None else shipped():
        report = await runner.probe()
        try:
            report.require(profile)
        except IsolationUnprovenError as error:
            if closest is None or len(error.missing) < len(closest.missing):
                closest = error
        else:
            return runner
        if runners is None:
            await runner.aclose()
    if closest is None:
        wanted = profile.wanted or {Guarantee.FS_WRITE: Strength.HARD}
        raise IsolationUnprovenError({name: (want, Strength.ABSENT) for name, want in wanted.items()}, "there is no runner here")
    raise closest


def shipped(concurrency: int = 4, warm: int = 0, packages: Path | None = None, programs: int = 64) -> Sequence[Runner]:
    """A new runner of each backend that this package has, strongest first; whoever asks closes them.

    `concurrency` runs go on at once in each, `warm` cages wait for the next; `packages` is the folder of built sets.
    `programs` go on at once beside them.
    """
    from sandbox.bwrap import BwrapRunner  # noqa: PLC0415  the backends are written against this module
    from sandbox.landlock import LandlockRunner  # noqa: PLC0415

    return tuple(
        kind(concurrency=concurrency, warm=warm, packages=packages, programs=programs) for kind in (BwrapRunner, LandlockRunner)
    )
