"""The keys by which the gateway signs its own tokens: one signs, several verify, all are published.

A thief of one could speak as the gateway until it is rotated out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from gateway.identity.keys import Key, KeySetError, b64url, es256_jwk, parse_jwks
from gateway.model import Refused
from gateway.reasons import Code

_PUBLIC = ("kty", "crv", "x", "y", "kid", "alg", "use")


class Signer(Protocol):
    """A private key, wherever it is: here, or in a token beside this process (PKCS#11).

    Signing happens on the event loop, as a local signature costs less than handing it to a thread.  So a signer answers within a
    millisecond or so; a key service across a network does not sign tokens, it guards the key: see docs/how-to/rotate-keys.md.
    """

    @property
    def jwk(self) -> Mapping[str, str]:
        """Its public key, P-256; `kid` is the RFC 7638 thumbprint, `alg` is ES256."""

    def sign(self, data: bytes) -> bytes:
        """The ES256 signature (RFC 7518 §3.4) over `data`: r and s, 32 bytes each."""


class LocalSigner:
    """An ES256 key in this process."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.jwk: Mapping[str, str] = es256_jwk(key.public_key())

    def sign(self, data: bytes) -> bytes:
        """See `Signer`."""
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@dataclass(frozen=True, slots=True)
class _Held:
    """What the ring is at one moment; never changed, only replaced."""

    signer: Signer | None
    kid: str
    keys: Mapping[str, Key]
    jwks: Mapping[str, Any]
    document: bytes
    etag: str


class KeyRing:
    """The signing key of now, and every key whose signatures count or soon will.  Replaced whole, by one assignment."""

    def __init__(self, signer: Signer, others: Iterable[Mapping[str, str]] = ()) -> None:
        """`others` are public JWKs.  ValueError for a key that is no public P-256 key of its own kid."""
        self._held = _held(signer, others, {})

    @classmethod
    def of(cls, key: ec.EllipticCurvePrivateKey) -> KeyRing:
        """One key alone."""
        return cls(LocalSigner(key))

    def swap(self, signer: Signer | None, others: Iterable[Mapping[str, str]]) -> None:
        """Hold these from now on; without a signer nothing is signed.

        A key that stays is the same object: what was verified with it stays verified.
        """
        self._held = _held(signer, others, self._held.keys)

    @property
    def kid(self) -> str:
        """Of the key that signs now; "" where none can."""
        return self._held.kid

    @property
    def kids(self) -> frozenset[str]:
        """Of every key that verifies."""
        return frozenset(self._held.keys)

    def sign(self, typ: str, claims: Mapping[str, Any]) -> str:
        """A compact JWS (RFC 7515 §7.1) of these claims; `Refused(INTERNAL_ERROR)` where no key can sign."""
        return ".".join(self._signed({"typ": typ}, orjson.dumps(claims)))

    def sign_document(self, payload: bytes, jku: str) -> tuple[str, str]:
        """Protected header and signature over a document that stands elsewhere (RFC 7515 appendix F); refused as above.

        It can pass for no token: its `typ` is none of theirs, and a header with a `jku` is refused in every token.
        """
        protected, _, signature = self._signed({"typ": "JOSE", "jku": jku}, payload)
        return protected, signature

    def _signed(self, header: Mapping[str, str], payload: bytes) -> tuple[str, str, str]:
        held = self._held
        if held.signer is None:
            raise Refused(Code.INTERNAL_ERROR, "no key of the gateway can sign")
        protected, body = b64url(orjson.dumps({"alg": "ES256", **header, "kid": held.kid})), b64url(payload)
        return protected, body, b64url(held.signer.sign(f"{protected}.{body}".encode("ascii")))

    def public(self, kid: str) -> Key | None:
        """The key of that kid, while its signatures count."""
        return self._held.keys.get(kid)

    def jwks(self) -> Mapping[str, Any]:
        """The JWK Set (RFC 7517 §5) of every key whose signatures count or soon will."""
        return self._held.jwks

    def document(self) -> tuple[bytes, str]:
        """The same as bytes, and their entity tag (RFC 9110 §8.8.3)."""
        held = self._held
        return held.document, held.etag


def _held(signer: Signer | None, others: Iterable[Mapping[str, str]], before: Mapping[str, Key]) -> _Held:
    published: dict[str, Mapping[str, str]] = {}
    for jwk in (
        *([] if signer is None else [signer.jwk]),
        *others,
    ):  # of a stranger's signer no member is shown that is not known to be public
        shown = {name: jwk[name] for name in _PUBLIC if name in jwk}
        published.setdefault(shown.get("kid", ""), shown)
    jwks = {"keys": list(published.values())}
    document = orjson.dumps(jwks)
    try:
        parsed = parse_jwks(document)
    except KeySetError as error:
        raise ValueError(str(error)) from None
    keys: dict[str, Key] = {}
    for kid in published:
        key = parsed.get(kid)
        if key is None or not isinstance(key.public, ec.EllipticCurvePublicKey) or key.algorithms != {"ES256"}:
            msg = "a key of the ring is no public P-256 key"
            raise ValueError(msg)
        if es256_jwk(key.public)["kid"] != kid:
            msg = "a key of the ring has another kid than its thumbprint"
            raise ValueError(msg)
        old = before.get(kid)
        keys[kid] = old if old is not None and old == key else key
    return _Held(
        signer,
        "" if signer is None else signer.jwk["kid"],
        keys,
        jwks,
        document,
        f'"{hashlib.sha256(document).hexdigest()[:32]}"',
    )
