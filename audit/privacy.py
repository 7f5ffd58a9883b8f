"""Privacy by commitment: leaves hold pseudonyms and salted commitments, the values stand beside, sealed for their subject.

Each subject has a random pseudonym and a random key (DEK), stored wrapped by the seal key.  Destroying the wrapped key erases
everything sealed under it, name included, and no leaf changes.  A thief of the store without the seal key learns lengths only.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit.leaf import Commitment

SALT_SIZE: Final = 16
LOG: Final = "log"
"""Stands where a pseudonym would: the key of records that are about nobody."""

_COMMITTED: Final = b"bailiwick/commitment/v1\x00"
_NONCE: Final = 12
SEAL_RANDOM: Final = SALT_SIZE + _NONCE


class SealBrokenError(Exception):
    """A sealed thing is not what was sealed here: another key, or somebody changed it."""


@dataclass(frozen=True, slots=True)
class SubjectRow:
    """A subject as it is stored.  Without the seal key it says nothing: all three are ciphertext or keyed hashes.

    lookup  keyed hash of the subject, to find the row again.
    dek     the subject's key, wrapped.
    name    the subject in clear, sealed under that key.
    """

    pseudonym: str
    lookup: bytes
    dek: bytes
    name: bytes

    def digest(self) -> str:
        """`sha256:<hex>` of the row, for the `key.create` record: a row that is exchanged or lost shows."""
        framed = b"".join(len(p).to_bytes(4, "big") + p for p in (self.pseudonym.encode(), self.lookup, self.dek, self.name))
        return "sha256:" + hashlib.sha256(b"bailiwick/subject/v1\x00" + framed).hexdigest()


class SubjectKey:
    """Seals and opens the values of one subject's records."""

    __slots__ = ("_aes", "_log", "pseudonym")

    def __init__(self, log: str, pseudonym: str, dek: bytes) -> None:
        self.pseudonym = pseudonym
        self._log = log
        self._aes = AESGCM(dek)

    def seal(self, record: str, name: str, value: bytes, random: bytes = b"") -> tuple[Commitment, bytes]:
        """The commitment for the leaf, and the sealed opening to be stored beside it.

        `random` is `SEAL_RANDOM` fresh bytes of the kernel's generator, which whoever seals much draws for many values at once.
        """
        random = random or os.urandom(SEAL_RANDOM)
        if len(random) != SEAL_RANDOM:
            msg = "a value is sealed with fresh random bytes"
            raise ValueError(msg)
        salt, nonce = random[:SALT_SIZE], random[SALT_SIZE:]
        sealed = nonce + self._aes.encrypt(nonce, salt + value, _aad("opening", self._log, record, name))
        return Commitment(commitment(salt, name, value), len(value), opening_id(sealed)), sealed

    def open(self, record: str, name: str, sealed: bytes, expected: Commitment) -> bytes:
        """The value; `SealBrokenError` unless the opening is the one that the leaf commits to."""
        return self.open_salted(record, name, sealed, expected)[1]

    def open_salted(self, record: str, name: str, sealed: bytes, expected: Commitment) -> tuple[bytes, bytes]:
        """The salt and the value: with both, anybody can hold a value against its commitment.  As `open`."""
        if not hmac.compare_digest(opening_id(sealed), expected.op):
            msg = "the stored opening is not the one that the leaf names"
            raise SealBrokenError(msg)
        opened = _decrypt(self._aes, sealed, _aad("opening", self._log, record, name))
        salt, value = opened[:SALT_SIZE], opened[SALT_SIZE:]
        if not hmac.compare_digest(commitment(salt, name, value), expected.c) or len(value) != expected.n:
            msg = "the opened value is not the one that the leaf commits to"
            raise SealBrokenError(msg)
        return salt, value

    def seal_name(self, subject: str) -> bytes:
        """The subject in clear, sealed under its own key."""
        nonce = os.urandom(_NONCE)
        return nonce + self._aes.encrypt(nonce, subject.encode("utf-8", "surrogatepass"), _aad("name", self._log, self.pseudonym))

    def open_name(self, sealed: bytes) -> str:
        """What `seal_name` sealed."""
        return _decrypt(self._aes, sealed, _aad("name", self._log, self.pseudonym)).decode("utf-8", "surrogatepass")


class SealKey:
    """The 32 bytes that wrap every subject's key.  They live outside the store."""

    __slots__ = ("_log", "_lookup", "_wrap", "spool_key")

    def __init__(self, log: str, key: bytes) -> None:
        if len(key) != 32:
            msg = "the seal key has 32 bytes"
            raise ValueError(msg)
        self._log = log
        self._lookup = hmac.digest(key, b"bailiwick/lookup/v1", "sha256")
        self.spool_key: Final = hmac.digest(key, b"bailiwick/spool/v1", "sha256")
        self._wrap = AESGCM(hmac.digest(key, b"bailiwick/wrap/v1", "sha256"))

    def lookup(self, subject: str | None) -> bytes:
        """The keyed hash by which a subject's row is found; it cannot be tried out without the seal key.

        The log's own is the same under every seal key, so that a wrong seal key is noticed at once.
        """
        return LOG.encode() if subject is None else hmac.digest(self._lookup, subject.encode("utf-8", "surrogatepass"), "sha256")

    def create(self, subject: str | None) -> tuple[SubjectRow, SubjectKey]:
        """A new subject: random pseudonym, random key.  None: the log itself, for records that are about nobody."""
        pseudonym = LOG if subject is None else "s_" + os.urandom(16).hex()
        dek, nonce = os.urandom(32), os.urandom(_NONCE)
        wrapped = nonce + self._wrap.encrypt(nonce, dek, _aad("dek", self._log, pseudonym))
        key = SubjectKey(self._log, pseudonym, dek)
        return SubjectRow(pseudonym, self.lookup(subject), wrapped, key.seal_name(subject or "")), key

    def unwrap(self, row: SubjectRow) -> SubjectKey:
        """The subject's key; `SealBrokenError` under another seal key, or where the row was changed."""
        dek = _decrypt(self._wrap, row.dek, _aad("dek", self._log, row.pseudonym))
        return SubjectKey(self._log, row.pseudonym, dek)


def commitment(salt: bytes, name: str, value: bytes) -> str:
    """SHA-256 (hex) over salt (16 bytes), name (its length in one byte before it) and value: no two of them share bytes."""
    return hashlib.sha256(b"".join((_COMMITTED, salt, _framed(name), value))).hexdigest()


@lru_cache(maxsize=64)  # few are ever used
def _framed(name: str) -> bytes:
    return b"%c%b" % (len(name), name.encode("ascii"))


def opening_id(sealed: bytes) -> str:
    """`o_` and 128 bits of SHA-256 of the sealed opening, so that whoever has no key can still tell that it is the one."""
    return "o_" + hashlib.sha256(sealed).hexdigest()[:32]


def _aad(purpose: str, log: str, place: str, name: str = "") -> bytes:
    """Binds a ciphertext to its place.  No part holds a NUL: origins, ids and names are printable ASCII."""
    return f"bailiwick/{purpose}/v1\0{log}\0{place}\0{name}".encode("ascii")


def _decrypt(aes: AESGCM, sealed: bytes, aad: bytes) -> bytes:
    try:
        return aes.decrypt(sealed[:_NONCE], sealed[_NONCE:], aad)
    except (InvalidTag, ValueError, TypeError):  # SQLite's columns take values of any type
        msg = "the seal does not open with this key at this place"
        raise SealBrokenError(msg) from None
