"""Verify Bailiwick's transaction tokens in a tool server of your own: one file to copy.  Needs PyJWT with cryptography.

A token says for whom, and through which agents, this one call is made, and is bound to its very arguments.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import jwt

TYPE = "txntoken+jwt"


class Verifier:
    """`issuer` is the gateway's public URL, `audience` what its settings call this server: its URL, if nothing else is said."""

    def __init__(self, issuer: str, audience: str) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = jwt.PyJWKClient(f"{issuer}/.well-known/jwks.json", lifespan=300)
        self._used: dict[str, float] = {}

    def verify(self, token: str, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The token's claims, if it is for this very request; `jwt.InvalidTokenError` otherwise.

        `sub` is the person, `chain` the agents, first to last, `tctx` what was asked for.
        """
        if jwt.get_unverified_header(token).get("typ") != TYPE:
            raise jwt.InvalidTokenError("not a transaction token")
        claims: dict[str, Any] = jwt.decode(
            token,
            self._keys.get_signing_key_from_jwt(token),
            algorithms=["ES256"],
            issuer=self._issuer,
            audience=self._audience,
            leeway=5,
            options={"require": ["iss", "aud", "sub", "iat", "exp", "jti", "txn"]},
        )
        told = claims.get("tctx", {})
        bound = params.get("arguments", {}) if method == "tools/call" else {}
        if (told.get("method"), told.get("tool")) != (method, params.get("name")):
            raise jwt.InvalidTokenError("the token is for another call")
        if told.get("args_sha256") != hashlib.sha256(canonical(bound)).hexdigest():
            raise jwt.InvalidTokenError("the token is for other arguments")
        self._once(claims["jti"], claims["exp"])
        return claims

    def _once(self, jti: str, ends: float) -> None:
        """A token is good once: for one process this is enough, several share a table."""
        now = time.time()
        self._used = {name: end for name, end in self._used.items() if end + 5 > now}
        if jti in self._used:
            raise jwt.InvalidTokenError("the token was used before")
        self._used[jti] = ends


def canonical(value: Any) -> bytes:
    """The one spelling of a JSON value that RFC 8785 allows."""
    return _text(value).encode("utf-8")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        members = sorted(value.items(), key=lambda member: member[0].encode("utf-16-be"))
        return "{" + ",".join(f"{_text(name)}:{_text(inner)}" for name, inner in members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, float) or (isinstance(value, int) and abs(value) > 2**53):
        return _number(float(value))
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    """As JavaScript writes it: the digits are Python's, the form is not."""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    written = whole + fraction.removesuffix("0")
    digits = written.strip("0")
    point = len(whole) + int(exponent or 0) - (len(written) - len(written.lstrip("0")))
    sign = "-" if value < 0 else ""
    if not digits:
        return "0"
    if 0 < point <= 21:
        fraction = digits[point:]
        return sign + digits[:point].ljust(point, "0") + (f".{fraction}" if fraction else "")
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    return f"{sign}{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{point - 1:+d}"
