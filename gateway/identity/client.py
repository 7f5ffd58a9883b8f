"""The gateway as somebody's OAuth client: how it proves itself (RFC 6749 §2.3.1, RFC 7523 §2.2).

A thief of the secret or key could ask that server as the gateway, until it is changed there.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.identity.asking import Headers
from gateway.identity.keyfiles import resolve
from gateway.identity.keys import b64url, es256_jwk
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from gateway.settings import Client

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_SECONDS = 60

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class OAuthClient:
    """One client at one authorization server."""

    def __init__(self, settings: Client, environ: Mapping[str, str] = os.environ, place: str = "client") -> None:
        """Resolves its secret or key now; ProblemError where that cannot be.  `place` of the settings, for errors."""
        self.id = settings.id
        self._secret = resolve(settings.secret, environ, f"{place}.secret") if settings.secret is not None else ""
        self._key: PrivateKey | None = None
        if settings.key is not None:
            self._key = _private(resolve(settings.key, environ, f"{place}.key"), f"{place}.key")
            self._header = _header(self._key)

    def proof(self, audience: str, now: int) -> tuple[Headers, dict[str, str]]:
        """What a request of this client carries: header lines, and members of its form.

        `audience` is the authorization server: its issuer where that is known, else its token endpoint.
        """
        if self._key is not None:
            return (), {
                "client_id": self.id,
                "client_assertion_type": ASSERTION,
                "client_assertion": self._assertion(self._key, audience, now),
            }
        if self._secret:  # RFC 6749 §2.3.1: both are form-encoded before they are joined
            pair = f"{quote_plus(self.id)}:{quote_plus(self._secret)}".encode("ascii")
            return ((b"authorization", b"Basic " + base64.b64encode(pair)),), {}
        return (), {"client_id": self.id}

    def _assertion(self, key: PrivateKey, audience: str, now: int) -> str:
        claims = {
            "iss": self.id,
            "sub": self.id,
            "aud": audience,
            "jti": secrets.token_urlsafe(24),
            "iat": now,
            "exp": now + ASSERTION_SECONDS,
        }
        signed = f"{b64url(orjson.dumps(self._header))}.{b64url(orjson.dumps(claims))}"
        return f"{signed}.{b64url(_signature(key, signed.encode('ascii')))}"


def _private(pem: str, place: str) -> PrivateKey:
    try:
        key = load_pem_private_key(pem.encode("utf-8"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    message = "a client's key is a P-256 key, or an RSA key of 2048 bits or more, in PKCS#8 PEM without a password"
    raise ProblemError(Problem("wrong-key", message, place, "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"))


def _header(key: PrivateKey) -> dict[str, str]:
    """The JWS header; `kid` is the RFC 7638 thumbprint."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {"alg": "ES256", "typ": "JWT", "kid": es256_jwk(key.public_key())["kid"]}
    numbers = key.public_key().public_numbers()
    e, n = (b64url(number.to_bytes((number.bit_length() + 7) // 8, "big")) for number in (numbers.e, numbers.n))
    canonical = f'{{"e":"{e}","kty":"RSA","n":"{n}"}}'
    return {"alg": "RS256", "typ": "JWT", "kid": b64url(hashlib.sha256(canonical.encode("ascii")).digest())}


def _signature(key: PrivateKey, data: bytes) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
