"""Cosignatures (c2sp.org/tlog-cosignature, Ed25519): a witness says that a log of this size has this root, and when.  No I/O.

A line is believed only for a key that was pinned; whatever others signed is not looked at.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit import checkpoint as notes
from audit.checkpoint import Checkpoint, CheckpointError, Vkey, canonical_bytes, valid_name

_COSIGNATURE: Final = b"\x04"  # signed-note's type of a key that makes Ed25519 cosignatures
_LENGTH: Final = 4 + 8 + 64  # key id, time, signature


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """A witness's verifier key, `<name>+<key id, hex>+<base64 of 0x04 ‖ public key>`."""

    name: str
    public: bytes

    @classmethod
    def of(cls, name: str, key: Ed25519PrivateKey) -> WitnessKey:
        """The key by which others check what `key` cosigns as `name`; `ValueError` for a name that cannot be one."""
        if not valid_name(name):
            msg = f"not a key name: {name!r}"
            raise ValueError(msg)
        return cls(name, key.public_key().public_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> WitnessKey:
        """From its one spelling; `CheckpointError` for anything else, a log's own key included."""
        name, _, rest = text.partition("+")
        key_id, _, encoded = rest.partition("+")
        data = canonical_bytes(encoded, "the key")
        if not valid_name(name) or len(data) != 33 or data[:1] != _COSIGNATURE:
            msg = "not a witness's Ed25519 verifier key"
            raise CheckpointError(msg)
        found = cls(name, data[1:])
        if found.key_id.hex() != key_id:
            msg = "the key id does not belong to the key"
            raise CheckpointError(msg)
        return found

    @property
    def key_id(self) -> bytes:
        """The first four bytes of SHA-256(name ‖ 0x0A ‖ 0x04 ‖ public key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + _COSIGNATURE + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_COSIGNATURE + self.public).decode()}"


@dataclass(frozen=True, slots=True)
class Cosignature:
    """What a witness said: its line (without the newline), and when by its own clock (POSIX seconds)."""

    witness: str
    at: int
    line: str


def cosign(checkpoint: Checkpoint, name: str, key: Ed25519PrivateKey, at: int) -> Cosignature:
    """The witness's word on the checkpoint, at the POSIX second `at`."""
    witness = WitnessKey.of(name, key)
    signature = key.sign(_message(checkpoint, at))
    encoded = base64.b64encode(witness.key_id + at.to_bytes(8, "big") + signature).decode()
    return Cosignature(name, at, f"\u2014 {name} {encoded}")


def verify(checkpoint: Checkpoint, signatures: Iterable[tuple[str, bytes]], key: WitnessKey) -> Cosignature:
    """The cosignature of the pinned key among a note's signatures (`checkpoint.parse`); `CheckpointError` unless there is one."""
    ours = [data for name, data in signatures if name == key.name and data[:4] == key.key_id]
    if len(ours) != 1 or len(ours[0]) != _LENGTH:
        msg = f"not exactly one cosignature by {key.name}"
        raise CheckpointError(msg)
    at = int.from_bytes(ours[0][4:12], "big")
    try:
        if at >= 1 << 63:
            raise InvalidSignature
        Ed25519PublicKey.from_public_bytes(key.public).verify(ours[0][12:], _message(checkpoint, at))
    except InvalidSignature:
        msg = f"the cosignature by {key.name} does not fit"
        raise CheckpointError(msg) from None
    return Cosignature(key.name, at, f"\u2014 {key.name} {base64.b64encode(ours[0]).decode()}")


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What witnesses have said of a log, as far as pinned keys verify it.

    size   as many witnesses as are wanted cosigned so many records, or more; 0: unwitnessed.
    at     when the last of those said so, by its own clock (POSIX seconds).
    last   by witness: the size and time of its newest cosignature.
    note   the newest checkpoint that has as many cosignatures as are wanted, with them.
    """

    asked: int
    quorum: int
    size: int = 0
    at: int = 0
    last: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    note: str | None = None

    def __str__(self) -> str:
        if not self.asked:
            return "unwitnessed: no witness is asked"
        count = len(self.last)
        if not self.size:
            return f"unwitnessed: {count} of {self.asked} witnesses have cosigned, {self.quorum} are wanted"
        there = sum(size >= self.size for size, _ in self.last.values())
        when = datetime.fromtimestamp(min(self.at, 2**37), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"witnessed by {there} of {self.asked} up to record {self.size}, last at {when}"


def witnessed(
    newest_first: Iterable[tuple[int, str, Sequence[str]]], log: Vkey, keys: Sequence[WitnessKey], quorum: int
) -> Witnessed:
    """What stored checkpoints (size, note, cosignature lines) come to.  What does not verify counts for nothing."""
    last: dict[str, tuple[int, int]] = {}
    best: str | None = None
    for size, note, lines in newest_first:
        found = _valid(size, note, lines, log, keys)
        for each in found:
            last.setdefault(each.witness, (size, each.at))
        if best is None and quorum and len(found) >= quorum:
            best = attach(note, found)
        if best is not None and len(last) == len(keys):
            break
    sizes = sorted(last.values(), reverse=True)
    size, at = sizes[quorum - 1] if 0 < quorum <= len(sizes) else (0, 0)
    return Witnessed(len(keys), quorum, size, at, last, best)


def _valid(size: int, note: str, lines: Sequence[str], log: Vkey, keys: Sequence[WitnessKey]) -> list[Cosignature]:
    found = []
    try:
        checkpoint = notes.verify(note, log)
    except CheckpointError:
        return []
    for key in keys if checkpoint.size == size else ():
        for line in lines:
            with contextlib.suppress(CheckpointError):
                found.append(verify(checkpoint, [notes.signature_line(line)], key))
    return found


def attach(note: str, cosignatures: Sequence[Cosignature]) -> str:
    """The note with these lines after its own."""
    return note + "".join(f"{each.line}\n" for each in cosignatures)


def _message(checkpoint: Checkpoint, at: int) -> bytes:
    return f"cosignature/v1\ntime {at}\n{checkpoint.text()}".encode()
