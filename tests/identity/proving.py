"""What callers prove themselves with: DPoP proofs, certificates, SVIDs; good ones, from which each test bends one thing."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gateway.identity.keys import b64url, es256_jwk
from gateway.model import new_id

Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def thumbprint_of(key: Key) -> str:
    return es256_jwk(key.public_key())["kid"]


def public_jwk(key: Key) -> dict[str, str]:
    return {name: value for name, value in es256_jwk(key.public_key()).items() if name in {"kty", "crv", "x", "y"}}


def ath_of(token: str) -> str:
    return b64url(hashlib.sha256(token.encode()).digest())


def dpop(
    key: Key,
    token: str,
    now: int,
    *,
    url: str = "http://127.0.0.1:8080/mcp/erp",
    method: str = "POST",
    header: Mapping[str, object] | None = None,
    signer: Any = None,
    algorithm: str = "ES256",
    **claims: object,
) -> str:
    """A proof; a claim or a header member that is None is left out."""
    said = {"jti": new_id(now * 1_000_000), "htm": method, "htu": url, "iat": now, "ath": ath_of(token)} | claims
    head = {"typ": "dpop+jwt", "jwk": public_jwk(key)} | dict(header or {})
    return jwt.encode(
        {name: value for name, value in said.items() if value is not None},
        signer or key,
        algorithm=algorithm,
        headers={name: value for name, value in head.items() if value is not None or name == "typ"},
    )


def certificate(
    *,
    dns: tuple[str, ...] = (),
    uris: tuple[str, ...] = (),
    common_name: str = "",
    now: int,
    seconds: int = 3600,
    begins: int = -60,
) -> bytes:
    """DER of a self-signed certificate: whether its chain is good is the terminator's business."""
    key = new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
    at = dt.datetime.fromtimestamp(now, dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at + dt.timedelta(seconds=begins))
        .not_valid_after(at + dt.timedelta(seconds=seconds))
    )
    names = [x509.DNSName(host) for host in dns] + [x509.UniformResourceIdentifier(uri) for uri in uris]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def client_cert(der: bytes) -> str:
    """The header's value (RFC 9440 §2.1)."""
    return f":{base64.b64encode(der).decode()}:"


def svid(key: Key, now: int, *, typ: str | None = "JWT", kid: str = "spire-1", **claims: object) -> str:
    """A JWT-SVID as SPIRE writes one."""
    said = {"sub": "spiffe://acme.example/agents/clerk", "aud": ["http://127.0.0.1:8080"], "iat": now, "exp": now + 300} | claims
    return jwt.encode(
        {name: value for name, value in said.items() if value is not None},
        key,
        algorithm="ES256",
        headers={"typ": typ, "kid": kid},
    )


def spiffe_bundle(key: Key, kid: str = "spire-1", use: str = "jwt-svid") -> str:
    """A SPIFFE bundle: beside the keys of SVIDs it holds those of X.509, which are none of these."""
    jwk = public_jwk(key) | {"kid": kid, "use": use}
    other = public_jwk(new_key()) | {"use": "x509-svid", "x5c": ["MIIB"]}
    return json.dumps({"keys": [jwk, other], "spiffe_sequence": 1, "spiffe_refresh_hint": 300})
