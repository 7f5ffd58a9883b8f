"""Checkpoints: c2sp.org/tlog-checkpoint in c2sp.org/signed-note, signed with Ed25519.  No I/O.

Parsing is strict: each checkpoint has exactly one spelling, so that no bit of it can change unnoticed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_NOTE: Final = 16_384
MAX_SIGNATURES: Final = 16

_ED25519: Final = b"\x01"  # signed-note's type of an Ed25519 key
_NAME = re.compile(r"[!-*,-~]{1,200}")  # printable ASCII without space and plus
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")
_SIGNATURE_LINE = re.compile("\u2014 ([!-*,-~]{1,200}) ([A-Za-z0-9+/]+={0,2})")


class CheckpointError(ValueError):
    """The text is not a checkpoint that this key signed; the message says in which way."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says of itself: its name, how many leaves it has, the root over them."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The three lines that are signed, each ended by a newline."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True)
class Vkey:
    """A verifier's key, `<name>+<key id, hex>+<base64 of 0x01 ‖ public key>` (c2sp.org/signed-note)."""

    name: str
    public: bytes

    @classmethod
    def of(cls, name: str, key: Ed25519PrivateKey) -> Vkey:
        """The key by which others check what `key` signs as `name`."""
        if not valid_name(name):
            msg = f"not a key name: {name!r}"
            raise ValueError(msg)
        return cls(name, key.public_key().public_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> Vkey:
        """From its one spelling; `CheckpointError` for anything else."""
        name, _, rest = text.partition("+")
        key_id, _, encoded = rest.partition("+")
        data = canonical_bytes(encoded, "the key")
        if not valid_name(name) or len(data) != 33 or data[:1] != _ED25519:
            msg = "not an Ed25519 verifier key"
            raise CheckpointError(msg)
        vkey = cls(name, data[1:])
        if vkey.key_id.hex() != key_id:
            msg = "the key id does not belong to the key"
            raise CheckpointError(msg)
        return vkey

    @property
    def key_id(self) -> bytes:
        """The first four bytes of SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"


def valid_name(name: str) -> bool:
    """Whether `name` can be an origin and a key name: printable ASCII, no space, no plus, at most 200 characters."""
    return _NAME.fullmatch(name) is not None


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """The signed note.  The origin is the key's name."""
    vkey = Vkey.of(checkpoint.origin, key)
    text = checkpoint.text()
    signature = base64.b64encode(vkey.key_id + key.sign(text.encode())).decode()
    return f"{text}\n\u2014 {vkey.name} {signature}\n"


def parse(note: str) -> tuple[Checkpoint, list[tuple[str, bytes]]]:
    """The checkpoint and its signature lines (name, key id ‖ signature), none of them checked against a key."""
    if len(note) > MAX_NOTE:
        msg = "the note is too long"
        raise CheckpointError(msg)
    text, blank, signed = note.partition("\n\n")
    lines = text.split("\n")
    signatures = signed.split("\n")
    if not blank or len(lines) != 3 or signatures.pop() != "" or not 1 <= len(signatures) <= MAX_SIGNATURES:
        msg = "not three lines, an empty line and signature lines"
        raise CheckpointError(msg)
    origin, size, root = lines
    if not valid_name(origin) or not _SIZE.fullmatch(size):
        msg = "origin or size is not in its canonical form"
        raise CheckpointError(msg)
    checkpoint = Checkpoint(origin, int(size), canonical_bytes(root, "the root"))
    if len(checkpoint.root) != 32:
        msg = "the root is not a SHA-256"
        raise CheckpointError(msg)
    return checkpoint, [signature_line(line) for line in signatures]


def signature_line(line: str) -> tuple[str, bytes]:
    """Name, and key id ‖ signature, of a signature line; `CheckpointError` unless it is in its one spelling."""
    match = _SIGNATURE_LINE.fullmatch(line)
    if match is None:
        msg = "a signature line is not in its canonical form"
        raise CheckpointError(msg)
    return match[1], canonical_bytes(match[2], "a signature")


def verify(note: str, vkey: Vkey) -> Checkpoint:
    """The checkpoint in a note that `vkey` signed exactly once, else `CheckpointError`.  Other keys' lines are not looked at."""
    checkpoint, signatures = parse(note)
    if checkpoint.origin != vkey.name:
        msg = f"the checkpoint is of {checkpoint.origin}, not of {vkey.name}"
        raise CheckpointError(msg)
    ours = [data[4:] for name, data in signatures if name == vkey.name and data[:4] == vkey.key_id]
    if len(ours) != 1:
        msg = f"{len(ours)} signatures by this key instead of one"
        raise CheckpointError(msg)
    try:
        Ed25519PublicKey.from_public_bytes(vkey.public).verify(ours[0], checkpoint.text().encode())
    except InvalidSignature:
        msg = "the signature does not fit"
        raise CheckpointError(msg) from None
    return checkpoint


def canonical_bytes(text: str, what: str) -> bytes:
    """Standard base64 in its only spelling: padding bits that are not zero are refused by encoding anew."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data or base64.b64encode(data).decode() != text:
        msg = f"{what} is not canonical base64"
        raise CheckpointError(msg)
    return data
