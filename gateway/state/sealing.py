"""Secrets at rest: each sealed under a key of its own, which the gateway's key wraps.  A thief of the database learns lengths.

What is sealed for one purpose and one binding (a person, a workflow) opens for no other.
"""

from __future__ import annotations

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = b"\x01"
_NONCE, _KEY, _TAG = 12, 32, 16
_WRAPPED = _NONCE + _KEY + _TAG


class UnsealableError(Exception):
    """It was sealed for something else, under another key, or somebody changed it."""


class Sealer:
    """Envelope encryption (AES-256-GCM) for one purpose."""

    def __init__(self, key: bytes, purpose: str) -> None:
        """ValueError unless `key`, the same on every replica, is 32 bytes."""
        if len(key) != _KEY:
            msg = "the sealing key is 32 bytes"
            raise ValueError(msg)
        self._wrap = AESGCM(key)
        self._purpose = purpose.encode()

    def seal(self, binding: str, value: bytes) -> bytes:
        """Ciphertext that only the same purpose and binding open."""
        about = self._about(binding)
        key, outer, inner = os.urandom(_KEY), os.urandom(_NONCE), os.urandom(_NONCE)
        wrapped = outer + self._wrap.encrypt(outer, key, b"wrap" + about)
        return _VERSION + wrapped + inner + AESGCM(key).encrypt(inner, value, b"seal" + about)

    def open(self, binding: str, sealed: bytes) -> bytes:
        """What was sealed; `UnsealableError` otherwise."""
        about = self._about(binding)
        if sealed[:1] != _VERSION or len(sealed) < 1 + _WRAPPED + _NONCE + _TAG:
            raise UnsealableError
        wrapped, inner, rest = sealed[1 : 1 + _WRAPPED], sealed[1 + _WRAPPED :][:_NONCE], sealed[1 + _WRAPPED + _NONCE :]
        try:
            key = self._wrap.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], b"wrap" + about)
            return AESGCM(key).decrypt(inner, rest, b"seal" + about)
        except InvalidTag:
            raise UnsealableError from None

    def _about(self, binding: str) -> bytes:
        return hashlib.sha256(len(self._purpose).to_bytes(2, "big") + self._purpose + binding.encode()).digest()
