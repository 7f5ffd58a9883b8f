"""The keys by which the gateway signs its own tokens: one signs, several verify, all are published.

A thief of one could speak as the gateway until it is rotated out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import orjson
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from gateway.identity.keys import Key, b64url, es256_jwk


class Signer(Protocol):
    """A private key, wherever it is: here, in a token (PKCS#11), in a key management service."""

    @property
    def jwk(self) -> Mapping[str, str]:
        """Its public key; `kid` is the RFC 7638 thumbprint, `alg` what it signs with."""

    def sign(self, data: bytes) -> bytes:
        """The JWS signature (RFC 7518 §3) over `data`; ES256: r and s, 32 bytes each."""


class LocalSigner:
    """An ES256 key in this process."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.jwk: Mapping[str, str] = es256_jwk(key.public_key())
        self.public = key.public_key()

    def sign(self, data: bytes) -> bytes:
        """See `Signer`."""
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class KeyRing:
    """The signing key of now, and every key whose signatures still count."""

    def __init__(self, current: LocalSigner, others: Iterable[Key] = ()) -> None:
        self._current = current
        self._published: dict[str, Mapping[str, str]] = {current.jwk["kid"]: current.jwk}
        self._keys = {key.kid: key for key in others}
        self._keys[current.jwk["kid"]] = Key(current.jwk["kid"], frozenset({"ES256"}), current.public)

    @classmethod
    def of(cls, key: ec.EllipticCurvePrivateKey) -> KeyRing:
        """One key alone."""
        return cls(LocalSigner(key))

    @property
    def kid(self) -> str:
        """Of the key that signs now."""
        return self._current.jwk["kid"]

    def sign(self, typ: str, claims: Mapping[str, Any]) -> str:
        """A compact JWS (RFC 7515 §7.1) of these claims."""
        header = b64url(orjson.dumps({"alg": self._current.jwk["alg"], "typ": typ, "kid": self.kid}))
        signed = f"{header}.{b64url(orjson.dumps(claims))}"
        return f"{signed}.{b64url(self._current.sign(signed.encode('ascii')))}"

    def public(self, kid: str) -> Key | None:
        """The key of that kid, while its signatures count."""
        return self._keys.get(kid)

    def jwks(self) -> Mapping[str, Any]:
        """The JWK Set (RFC 7517 §5) of every key whose signatures count or soon will."""
        return {"keys": list(self._published.values())}
