"""The built-in issuer for trying things out: it lets anybody be anybody, so it is for loopback addresses only.

A thief of its key, or anybody who may run it, can be every person of a gateway that trusts it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from gateway.identity.keyfiles import load_or_create
from gateway.identity.keys import es256_jwk
from gateway.model import Clock, new_id, wall_clock
from gateway.problem import Problem, ProblemError
from gateway.settings import Issuer, Keys

ALIAS = "dev"
CLIENT = "bailiwick-cli"
KEY_FILE, JWKS_FILE = "dev-issuer-key.pem", "dev-jwks.json"
MAX_LIFETIME = 24 * 3600

PEOPLE: Mapping[str, tuple[str, ...]] = {
    "mia": ("marketing-managers",),
    "paul": ("procurement-managers",),
    "fiona": ("finance-controllers",),
}
"""The people of the procurement story and their groups."""


class DevIssuer:
    """Issues RFC 9068 access tokens for whomever it is asked."""

    def __init__(self, data: Path, issuer_url: str, audience: str, clock: Clock = wall_clock) -> None:
        """Makes its key in the data folder at first need, and (again) `dev-jwks.json` beside it."""
        self._issuer = issuer_url
        self._audience = audience
        self._clock = clock
        pem = load_or_create(data / KEY_FILE, _new_key)
        key = load_pem_private_key(pem, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ProblemError(Problem("wrong-key", "the development issuer's key must be a P-256 key", str(data / KEY_FILE)))
        self._key = key
        self._jwk = es256_jwk(key.public_key())
        self.jwks = data / JWKS_FILE
        """The file with its public key."""
        aside = data / f".{JWKS_FILE}.{os.getpid()}"
        aside.write_text(json.dumps({"keys": [self._jwk]}) + "\n", encoding="ascii")
        aside.replace(self.jwks)

    def settings(self) -> Issuer:
        """This issuer as `issuers` in the settings names it."""
        return Issuer(
            alias=ALIAS,
            issuer=self._issuer,
            audience=self._audience,
            jwks=Keys(file=self.jwks),
            algorithms=("ES256",),
            direct_clients=(CLIENT,),
            development=True,
        )

    def issue(self, sub: str, groups: Iterable[str], client_id: str = CLIENT, lifetime: int = 3600) -> str:
        """An access token (`at+jwt`, ES256) for a person in some groups; `lifetime` in seconds, at most a day."""
        at = self._clock()
        now = at // 1_000_000
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": sub,
            "groups": sorted(groups),
            "client_id": client_id,
            "jti": new_id(at),
            "iat": now,
            "exp": now + min(lifetime, MAX_LIFETIME),
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"typ": "at+jwt", "kid": self._jwk["kid"]})


def _new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
