"""A caller's receipt: the log's key says, once a record is durable, where it stands.  It is the caller's to keep: a log that has
another record there, or none, is shown wrong by it, whoever rewrote and signed the log anew.

One signature does for all records of a commit: it is over the root of their little tree, and each receipt brings its path there.
No clock, no I/O.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.checkpoint import CheckpointError, Vkey, canonical_bytes
from audit.model import Receipt, Together
from audit.proof import included_root, inclusion_in, levels

MEMBERS: Final = frozenset({"log", "record", "index", "leaf", "at", "of", "path", "signature"})
SPOOLED_MEMBERS: Final = frozenset({"log", "record", "leaf", "spooled", "signature"})
_MOST: Final = 4096  # records of one commit


class ReceiptError(ValueError):
    """Not a receipt, or not one that this log's key signed."""


class Voucher:
    """Makes receipts for one log."""

    def __init__(self, origin: str, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._vkey = Vkey.of(origin, key)

    def vouch(self, receipt: Receipt) -> Mapping[str, Any]:
        """The receipt as JSON.  The first of a commit costs a signature, the others a few hashes."""
        if receipt.index < 0:
            return self._spooled(receipt)
        together, index = receipt.together, receipt.index
        if together is None or not together.first <= index < together.first + len(together.hashes):
            together = Together(index, [receipt.leaf_hash])  # of a record that was found in the log: alone
        tree, signature = together.signed or self._sign(together)
        at = index - together.first
        return {
            "log": receipt.log,
            "record": receipt.id,
            "index": index,
            "leaf": _b64(receipt.leaf_hash),
            "at": at,
            "of": len(together.hashes),
            "path": inclusion_in(at, tree),
            "signature": signature,
        }

    def _spooled(self, receipt: Receipt) -> Mapping[str, Any]:
        """Of a record that is in the spool: it has no place yet."""
        text = _spooled_text(receipt.log, receipt.id, receipt.leaf_hash)
        signature = _b64(self._vkey.key_id + self._key.sign(text))
        leaf = _b64(receipt.leaf_hash)
        return {"log": receipt.log, "record": receipt.id, "leaf": leaf, "spooled": True, "signature": signature}

    def _sign(self, together: Together) -> tuple[list[list[str]], str]:
        """The whole tree of a commit, each node as receipts write it, and the signature over its root."""
        tree = levels(together.hashes)
        text = _text(self._vkey.name, together.first, len(together.hashes), tree[-1][0])
        written = [[_b64(node) for node in level] for level in tree]
        together.signed = signed = written, _b64(self._vkey.key_id + self._key.sign(text))
        return signed


def _b64(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode()


def _text(origin: str, first: int, size: int, root: bytes) -> bytes:
    """What is signed.  No checkpoint is spelled so: its first line is an origin, which has no space."""
    return f"bailiwick receipt v1\n{origin}\n{first} {size}\n{_b64(root)}\n".encode()


def _spooled_text(origin: str, record: str, leaf: bytes) -> bytes:
    return f"bailiwick spooled receipt v1\n{origin}\n{record}\n{_b64(leaf)}\n".encode()


def _verify_spooled(said: Mapping[str, Any], vkey: Vkey) -> tuple[str, int, bytes]:
    record = said["record"]
    try:
        leaf, signature = canonical_bytes(str(said["leaf"]), "the leaf"), canonical_bytes(str(said["signature"]), "the signature")
        if said["log"] != vkey.name or said["spooled"] is not True or not isinstance(record, str) or "\n" in record:
            msg = "not a receipt of this log"
            raise ReceiptError(msg)
        if len(leaf) != 32 or signature[:4] != vkey.key_id:
            msg = "it is of another key"
            raise ReceiptError(msg)
        Ed25519PublicKey.from_public_bytes(vkey.public).verify(signature[4:], _spooled_text(vkey.name, record, leaf))
    except (CheckpointError, InvalidSignature, UnicodeEncodeError) as error:
        raise ReceiptError(str(error) or "the signature does not fit") from None
    return record, -1, leaf


def verify(said: object, vkey: Vkey) -> tuple[str, int, bytes]:
    """Record, index (-1: it was in the spool) and leaf hash of a receipt that the log's key signed; else `ReceiptError`."""
    if isinstance(said, Mapping) and said.keys() == SPOOLED_MEMBERS:
        return _verify_spooled(said, vkey)
    if not isinstance(said, Mapping) or said.keys() != MEMBERS or said["log"] != vkey.name:
        msg = "not a receipt of this log"
        raise ReceiptError(msg)
    index, at, size, path = said["index"], said["at"], said["of"], said["path"]
    if any(type(number) is not int for number in (index, at, size)) or not 0 <= at < size <= _MOST or index < at:
        msg = "not the numbers of a receipt"
        raise ReceiptError(msg)
    if not isinstance(path, list) or len(path) > 16 or not isinstance(said["record"], str):
        msg = "not the members of a receipt"
        raise ReceiptError(msg)
    try:
        leaf, signature = canonical_bytes(str(said["leaf"]), "the leaf"), canonical_bytes(str(said["signature"]), "the signature")
        steps = [canonical_bytes(str(each), "the path") for each in path]
        root = included_root(at, size, leaf, steps)
        if len(leaf) != 32 or signature[:4] != vkey.key_id or root is None:
            msg = "it is of another key, or its path does not fit"
            raise ReceiptError(msg)
        text = _text(vkey.name, index - at, size, root)
        Ed25519PublicKey.from_public_bytes(vkey.public).verify(signature[4:], text)
    except (CheckpointError, InvalidSignature) as error:
        raise ReceiptError(str(error) or "the signature does not fit") from None
    return said["record"], index, leaf
