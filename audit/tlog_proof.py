"""One record's proof as a file of its own (c2sp.org/tlog-proof): record, place, hashes and checkpoint.  No I/O."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from audit import checkpoint as notes
from audit import cosignature
from audit.checkpoint import Checkpoint, CheckpointError, Vkey, canonical_bytes
from audit.cosignature import WitnessKey
from audit.proof import verify_inclusion
from audit.tree import leaf_hash

_HEAD: Final = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,15})")
_MOST_HASHES: Final = 64
MAX_PROOF: Final = 128 * 1024


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A record (as the format's extra data), its index, the inclusion proof, and the signed checkpoint that it leads to."""

    record: bytes
    index: int
    hashes: tuple[bytes, ...]
    note: str

    def __str__(self) -> str:
        hashes = "".join(f"{base64.b64encode(each).decode()}\n" for each in self.hashes)
        return f"{_HEAD}\nextra {base64.b64encode(self.record).decode()}\nindex {self.index}\n{hashes}\n{self.note}"

    @classmethod
    def parse(cls, text: str) -> TlogProof:
        """From its one spelling; `ValueError` for anything else."""
        head, blank, note = text.partition("\n\n")
        lines = head.split("\n")
        match = _INDEX.fullmatch(lines[2]) if len(lines) > 2 else None
        if match is None or len(text) > MAX_PROOF or not blank or lines[0] != _HEAD or not lines[1].startswith("extra "):
            msg = "not a proof of a record"
            raise ValueError(msg)
        hashes = tuple(canonical_bytes(line, "a hash") for line in lines[3:])
        if len(hashes) > _MOST_HASHES or any(len(each) != 32 for each in hashes):
            msg = "not the hashes of a proof"
            raise ValueError(msg)
        return cls(canonical_bytes(lines[1][6:], "the record"), int(match[1]), hashes, note)

    def verify(self, log: Vkey, witnesses: Sequence[WitnessKey] = (), quorum: int = 0) -> Checkpoint:
        """The checkpoint under which the record is proven to be; `CheckpointError` where that is not so.

        quorum  how many of the witnesses must have cosigned it.
        """
        head = notes.verify(self.note, log)
        signatures = notes.parse(self.note)[1]
        agreed = 0
        for witness in witnesses:
            try:
                cosignature.verify(head, signatures, witness)
            except CheckpointError:
                continue
            agreed += 1
        if agreed < quorum:
            msg = f"{agreed} of the witnesses cosigned, {quorum} are wanted"
            raise CheckpointError(msg)
        if not verify_inclusion(self.index, head.size, leaf_hash(self.record), self.hashes, head.root):
            msg = "the record is not where the proof says"
            raise CheckpointError(msg)
        return head
