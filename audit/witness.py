"""The witness protocol (c2sp.org/tlog-witness): what is asked, and what a witness answers.  A witness only ever goes forward.

It remembers one head for each log that it knows, durably before it says so, and cosigns nothing that does not continue it.  A
thief of its key can cosign anything, of its memory make it forget; neither can sign for the log.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import checkpoint as notes
from audit.checkpoint import Checkpoint, CheckpointError, Vkey
from audit.cosignature import WitnessKey, attach, cosign
from audit.proof import verify_consistency
from audit.tree import EMPTY_ROOT

MAX_PROOF: Final = 63
MAX_REQUEST: Final = 32 + MAX_PROOF * 45 + 1 + notes.MAX_NOTE
SIZE_TYPE: Final = "text/x.tlog.size"

_OLD = re.compile(r"old (0|[1-9][0-9]{0,15})")


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """The request: the size that the witness is thought to know, the proof from there, and the signed checkpoint."""

    old: int
    proof: tuple[bytes, ...]
    note: str

    def encode(self) -> bytes:
        """As it is sent."""
        lines = [f"old {self.old}", *(base64.b64encode(each).decode() for each in self.proof), "", self.note]
        return "\n".join(lines).encode()

    @classmethod
    def parse(cls, body: bytes) -> AddCheckpoint:
        """From its one spelling; `ValueError` for anything else."""
        if len(body) > MAX_REQUEST:
            msg = "the request is too long"
            raise ValueError(msg)
        head, blank, note = body.decode("utf-8").partition("\n\n")
        first, *proof = head.split("\n")
        match = _OLD.fullmatch(first)
        if match is None or not blank or len(proof) > MAX_PROOF:
            msg = "not an old size, a proof, an empty line and a checkpoint"
            raise ValueError(msg)
        hashes = tuple(notes.canonical_bytes(line, "a hash of the proof") for line in proof)
        if any(len(each) != 32 for each in hashes):
            msg = "a hash of the proof is not a SHA-256"
            raise ValueError(msg)
        return cls(int(match[1]), hashes, note)


@dataclass(frozen=True, slots=True)
class Seen:
    """The largest head of a log that a witness cosigned, as the cosigned note."""

    size: int
    root: bytes
    note: str


class State(Protocol):
    """Where a witness remembers.  One at a time: between `holding` and its end nobody else reads or writes."""

    def holding(self) -> AbstractContextManager[None]:
        """Lock it; `OSError` where that cannot be."""

    def seen(self, origin: str) -> Seen | None:
        """What was kept of the log; None before the first."""

    def keep(self, origin: str, seen: Seen) -> None:
        """Durable on return; `OSError` where it is not."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"


class Witness:
    """Answers for the logs that it was told of."""

    def __init__(
        self, name: str, key: Ed25519PrivateKey, logs: Mapping[str, Vkey], state: State, clock: Callable[[], int]
    ) -> None:
        """clock  POSIX seconds."""
        self._name = name
        self._key = key
        self._logs = logs
        self._state = state
        self._clock = clock
        self.vkey = str(WitnessKey.of(name, key))

    def add_checkpoint(self, body: bytes) -> Answer:
        """Cosign the checkpoint if it continues what was cosigned before.  `OSError` where that cannot be remembered."""
        try:
            request = AddCheckpoint.parse(body)
            offered, _ = notes.parse(request.note)
        except ValueError:
            return Answer(400, "not an add-checkpoint request\n")
        log = self._logs.get(offered.origin)
        if log is None:
            return Answer(404, "this log is not witnessed here\n")
        try:
            notes.verify(request.note, log)
        except CheckpointError:
            return Answer(403, "the checkpoint is not signed by the log's key\n")
        if request.old > offered.size:
            return Answer(400, "the old size is larger than the checkpoint's\n")
        with self._state.holding():
            return self._decide(request, offered)

    def newest(self, origin: str) -> str | None:
        """The largest note of the log that was cosigned here."""
        with self._state.holding():
            seen = self._state.seen(origin)
        return None if seen is None else seen.note

    def _decide(self, request: AddCheckpoint, offered: Checkpoint) -> Answer:
        seen = self._state.seen(offered.origin)
        size = seen.size if seen is not None else 0
        if request.old != size or (seen is not None and offered.size == size and offered.root != seen.root):
            return Answer(409, f"{size}\n", SIZE_TYPE)
        old_root = seen.root if seen is not None else EMPTY_ROOT
        if not verify_consistency(size, offered.size, old_root, offered.root, request.proof):
            return Answer(422, "the proof does not lead from the old size to this checkpoint\n")
        said = cosign(offered, self._name, self._key, self._clock())
        if offered.size > size:
            own = _only(request.note, self._logs[offered.origin])
            self._state.keep(offered.origin, Seen(offered.size, offered.root, attach(own, [said])))
        return Answer(200, said.line + "\n")


def _only(note: str, log: Vkey) -> str:
    """The note with the log's own signature alone: what others signed is not kept."""
    lines = [
        f"\u2014 {name} {base64.b64encode(data).decode()}\n"
        for name, data in notes.parse(note)[1]
        if name == log.name and data[:4] == log.key_id
    ]
    return note.partition("\n\n")[0] + "\n\n" + "".join(lines)
