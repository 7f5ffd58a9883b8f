"""How a job ended: what a runner says of it, what it left.  Frozen; nothing here does I/O, or parses what code has written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType

from sandbox.model import Guarantee, IsolationUnprovenError, Job, Reason, Strength, words
from sandbox.names import canonical_digest


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


@dataclass(frozen=True, slots=True)
class Artifact:
    """A regular file that code left in its working folder: new, or changed.  Bytes of untrusted code, never unpacked here."""

    name: str
    data: bytes
    sha256: str

    @classmethod
    def of(cls, name: str, data: bytes) -> Artifact:
        """With its digest."""
        return cls(name, data, sha256(data).hexdigest())

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.data)

    def to_dict(self) -> dict[str, object]:
        """Without its bytes."""
        return {"name": self.name, "size": self.size, "sha256": self.sha256}


_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Run:
    """How a job ended.  stdout and stderr are bytes of untrusted code: never parsed here, capped by the profile.

    exit_code   of the code's first process; None where a signal ended it or it never ran.
    guarantees  those that this run's own attestation proved.
    layers      the mechanisms they rest on, as facts: `landlock` → `abi 7`, `seccomp` → digest of the filter, …
    backend, probe_id    who ran it, and the digest of the probe's report that it rests on; "" where nothing ran.
    packages    digest of the set of packages that it found installed, "" for none.
    files       what it left, by name; files_skipped: what was not taken, and why.
    files_gone  those that it was given and that are no more.
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
    backend: str = ""
    probe_id: str = ""
    profile_digest: str = ""
    inputs_digest: str = ""
    packages: str = ""
    files: tuple[Artifact, ...] = ()
    files_skipped: tuple[tuple[str, str], ...] = ()
    files_gone: tuple[str, ...] = ()

    @classmethod
    def without_output(cls, job: Job, reason: Reason, detail: str) -> Run:
        """Of a job that came to nothing: refused, or the cage failed."""
        return cls(
            id=job.id, reason=reason, exit_code=None, signal=None, stdout=b"", stderr=b"", stdout_truncated=False,
            stderr_truncated=False, usage=Usage(), guarantees=MappingProxyType({}), layers=_NOTHING,
            code_sha256=job.code_sha256, detail=detail, profile_digest=job.profile.digest, inputs_digest=job.inputs_digest(),
        )  # fmt: skip

    @classmethod
    def refused(cls, job: Job, error: IsolationUnprovenError) -> Run:
        """The record of a job that never reached a cage."""
        return cls.without_output(job, Reason.REFUSED, str(error))

    @property
    def outputs_digest(self) -> str:
        """SHA-256 (hex) over how it ended and all that it left.  Deterministic code has the same one for the same inputs."""
        return canonical_digest({
            "reason": self.reason,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "stdout": sha256(self.stdout).hexdigest(),
            "stderr": sha256(self.stderr).hexdigest(),
            "truncated": [self.stdout_truncated, self.stderr_truncated],
            "files": {file.name: file.sha256 for file in self.files},
            "files_skipped": [list(skipped) for skipped in self.files_skipped],
            "files_gone": list(self.files_gone),
        })  # fmt: skip

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
            "guarantees": words(self.guarantees),
            "layers": dict(self.layers),
            "code_sha256": self.code_sha256,
            "detail": self.detail,
            "backend": self.backend,
            "probe_id": self.probe_id,
            "profile_digest": self.profile_digest,
            "inputs_digest": self.inputs_digest,
            "outputs_digest": self.outputs_digest,
            "packages": self.packages,
            "files": [file.to_dict() for file in self.files],
            "files_skipped": [{"name": name, "why": why} for name, why in self.files_skipped],
            "files_gone": list(self.files_gone),
        }
