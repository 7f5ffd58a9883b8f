"""Proofs of possession (RFC 9449): whoever shows a token shows that it holds a key, for this very request, once.

The key stands in the proof itself, so a proof alone proves nothing: it counts where a token, or an agent's settings, name it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import unquote, urlsplit

import orjson
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from gateway.identity.keys import Key, KeySetError, PublicKey, b64url, parse_jwks
from gateway.identity.token import check_signature, is_text, moment, parts, text
from gateway.model import Arrival, Refused
from gateway.reasons import Code

DPOP = "dpop"
PROOF_TYPE = "dpop+jwt"
WINDOW_SECONDS = 60
MAX_CHARS = 8192
ALGORITHMS = ("ES256", "ES384", "EdDSA", "PS256", "RS256")

Once = Callable[[str, str, int, int], Awaitable[bool]]
"""Scope, jti, until, now (epoch seconds) → whether this was the first use, on any replica."""

_HEADER = frozenset({"typ", "alg", "jwk"})
_PUBLIC = frozenset({"kty", "crv", "x", "y", "n", "e", "kid", "alg", "use", "key_ops", "ext"})
_CURVES = {"secp256r1": ("P-256", 32), "secp384r1": ("P-384", 48)}
_PORTS = {"http": 80, "https": 443}
_ATH = re.compile(r"[A-Za-z0-9_-]{43}")


class BadProofError(Refused):
    """The proof is missing, not one, or not for this request and token; the caller is told that it is about the proof."""

    challenge = (("WWW-Authenticate", f'DPoP error="invalid_dpop_proof", algs="{" ".join(ALGORITHMS)}"'),)

    def __init__(self, detail: str) -> None:
        super().__init__(Code.INVALID_CREDENTIAL, detail)


def refuse_proof(detail: str) -> NoReturn:
    """Refuse a proof."""
    raise BadProofError(detail)


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof that holds for this request, and may have been used before.

    key  its kid is the RFC 7638 thumbprint, its algorithm the one that signed.
    """

    key: Key
    jti: str
    until: int

    @property
    def thumbprint(self) -> str:
        """Of its key (RFC 7638)."""
        return self.key.kid


class Proofs:
    """Verifies the proofs of requests to one public URL."""

    def __init__(self, public_url: str, once: Once) -> None:
        """`public_url` without a trailing slash: no request says under which name it came."""
        self._origin, self._base = _split(public_url)
        self._once = once

    async def check(self, arrival: Arrival, credential: str, now: int) -> str:
        """The thumbprint of the key whose holder made this request, now and for the first time; `BadProofError` otherwise.

        `credential` is the token that stands beside the proof, "" where none does (a token endpoint).  What a stranger proves is
        remembered as well: let the caller prove first who it is.
        """
        proof = self.read(arrival, credential, now)
        await self.spend(proof, now)
        return proof.thumbprint

    def read(self, arrival: Arrival, credential: str, now: int) -> Proof:
        """All of `check` but whether it was used before: compare the key, then `spend` it."""
        values = arrival.every(DPOP)
        if len(values) != 1:
            refuse_proof("not exactly one proof of possession")
        try:
            return self._read(values[0], arrival, credential, now)
        except BadProofError:
            raise
        except Refused as refusal:
            refuse_proof(f"proof: {refusal.detail}")

    async def spend(self, proof: Proof, now: int) -> None:
        """Use it up."""
        if not await self._once(f"dpop:{proof.thumbprint}", proof.jti, proof.until, now):
            refuse_proof("proof was used before")

    def _read(self, proof: str, arrival: Arrival, credential: str, now: int) -> Proof:
        if len(proof) > MAX_CHARS:
            refuse_proof("proof is too long")
        header, claims, payload = parts(proof)
        if header.keys() != _HEADER or header["typ"] != PROOF_TYPE:
            refuse_proof("proof's header is not typ dpop+jwt, alg and jwk alone")
        key = _key(header["jwk"], header["alg"])
        check_signature(proof, payload, key.public, str(header["alg"]))
        jti, issued = text(claims, "jti", 128), moment(claims, "iat")
        if claims.get("htm") != arrival.http_method:
            refuse_proof("htm is another method")
        if not self._is_here(claims.get("htu"), arrival):
            refuse_proof("htu is another address")
        if not -WINDOW_SECONDS <= issued - now <= WINDOW_SECONDS:
            refuse_proof("iat is not of the last minute")
        if credential and not _is_hash_of(claims.get("ath"), credential):
            refuse_proof("ath is not the hash of the token")
        return Proof(key, jti, issued + WINDOW_SECONDS + 1)

    def _is_here(self, htu: object, arrival: Arrival) -> bool:
        """Whether a URL is this request's own: normalised (RFC 3986 §6.2.2 and §6.2.3), without query and fragment."""
        if not is_text(htu, 2048) or not str(htu).isascii():
            return False
        try:
            origin, path = _split(str(htu))
        except ValueError:
            return False
        here, base = _split(arrival.origin) if arrival.origin else (self._origin, self._base)
        return origin == here and bool(arrival.url_path) and (path or "/") == base + arrival.url_path


def thumbprint(public: PublicKey) -> str:
    """The RFC 7638 thumbprint (SHA-256), of the key's numbers: the same however a JWK spells them."""
    if isinstance(public, ec.EllipticCurvePublicKey):
        (curve, size), numbers = _CURVES[public.curve.name], public.public_numbers()
        x, y = b64url(numbers.x.to_bytes(size, "big")), b64url(numbers.y.to_bytes(size, "big"))
        members = {"crv": curve, "kty": "EC", "x": x, "y": y}
    elif isinstance(public, ed25519.Ed25519PublicKey):
        members = {"crv": "Ed25519", "kty": "OKP", "x": b64url(public.public_bytes_raw())}
    else:
        rsa = public.public_numbers()
        members = {"e": _number(rsa.e), "kty": "RSA", "n": _number(rsa.n)}
    return b64url(hashlib.sha256(orjson.dumps(members, option=orjson.OPT_SORT_KEYS)).digest())


def _number(value: int) -> str:
    return b64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _key(jwk: object, alg: object) -> Key:
    """The public key that stands in a proof, as strictly read as one of a key set; its kid is its thumbprint."""
    if not isinstance(jwk, Mapping) or not jwk.keys() <= _PUBLIC:
        refuse_proof("jwk is not a public key")
    try:
        key = parse_jwks(orjson.dumps({"keys": [{**jwk, "kid": "proof"}]})).get("proof")
    except (KeySetError, orjson.JSONEncodeError):
        key = None
    if key is None:
        refuse_proof("jwk is no key that is accepted here")
    if alg not in ALGORITHMS or alg not in key.algorithms:
        refuse_proof("algorithm is not one of the key's")
    return Key(thumbprint(key.public), frozenset({str(alg)}), key.public)


def _is_hash_of(ath: object, credential: str) -> bool:
    wanted = b64url(hashlib.sha256(credential.encode("utf-8", "backslashreplace")).digest())
    return isinstance(ath, str) and _ATH.fullmatch(ath) is not None and hmac.compare_digest(ath, wanted)


def _split(url: str) -> tuple[tuple[str, str, int], str]:
    """Scheme, host and port; and the path, decoded.  ValueError for what is no plain http(s) URL."""
    split = urlsplit(url)
    scheme = split.scheme.lower()
    if scheme not in _PORTS or not split.hostname or "@" in split.netloc or split.port == 0:
        msg = "not a plain http(s) URL"
        raise ValueError(msg)
    return (scheme, split.hostname.lower(), split.port or _PORTS[scheme]), unquote(split.path)
