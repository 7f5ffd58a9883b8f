"""Transaction tokens (draft-ietf-oauth-transaction-tokens): one call, one upstream, thirty seconds, these very arguments.

They say for whom and through whom a call is made; whoever steals one can repeat that call there, while it counts, and no other.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import TYPE_CHECKING

from gateway.model import Call, Clock, Permit, Refused, new_id
from gateway.reasons import Code
from gateway.upstream.credentials import Lines, token_line

if TYPE_CHECKING:
    from gateway.identity.signing import KeyRing

TYPE = "txntoken+jwt"
MAX_CHARS = 8 * 1024
SMALL_BYTES = 16 * 1024
_EXACT, _LARGEST = 2**53, 2**1023

Sent = Callable[[Call], object]
"""What a token is bound to: the arguments of a tool, the params of an operation, as they will be sent."""


class TransactionTokens:
    """The strategy `txn_token` for one upstream."""

    personal = True

    def __init__(  # noqa: PLR0917  what a token is made of, in its order
        self, ring: KeyRing, issuer: str, audience: str, header: str, lifetime: int, sent: Sent, clock: Clock
    ) -> None:
        self._ring = ring
        self._issuer = issuer
        self._audience = audience
        self._header = header
        self._lifetime = lifetime
        self._sent = sent
        self._clock = clock

    async def for_call(self, permit: Permit) -> tuple[Lines, str]:
        """A token for this call alone.  Refused(CREDENTIAL_UNAVAILABLE) where its arguments have no canonical form."""
        principal, call, request = permit.principal, permit.call, permit.request
        at = self._clock()
        now = at // 1_000_000
        expires = min(now + self._lifetime, principal.ends)
        if expires <= now:
            raise Refused(Code.CREDENTIAL_UNAVAILABLE, "the person's time is over")
        small = len(call.arrival.body) <= SMALL_BYTES
        sent = self._sent(call)
        hashed = (
            digest(sent) if small else await asyncio.to_thread(digest, sent)
        )  # a walk that would hold up everybody else's calls
        details = {"call": call.arrival.id, "method": call.method, "args_sha256": hashed}
        if call.name is not None and request.action == "call":
            details["tool"] = call.name
        environment = {"assurance": principal.assurance, "tenant": principal.tenant}
        if principal.acr:
            environment["acr"] = principal.acr
        claims: dict[str, object] = {
            "iss": self._issuer,
            "aud": self._audience,
            "iat": now,
            "exp": expires,
            "jti": new_id(at),
            "txn": principal.workflow,
            "sub": principal.subject,
            "scope": f"{request.action}:{request.resource}",
            "req_wl": principal.acting,
            "tctx": details,
            "rctx": environment,
            "chain": list(principal.actors),
        }
        if principal.actors:
            claims["act"] = _nested(principal.actors)
        token = self._ring.sign(TYPE, claims)
        if len(token) > MAX_CHARS:
            raise Refused(Code.CREDENTIAL_UNAVAILABLE, "the transaction token would not fit a header")
        return (token_line(self._header, token),), "transaction"

    async def rejected(self, permit: Permit) -> bool:  # noqa: ARG002  a strategy's shape
        """The next call gets a token of its own anyway."""
        return False


def _nested(chain: tuple[str, ...]) -> dict[str, object]:
    """The chain as RFC 8693 §4.1 nests it, most recent actor outermost: for readers; `chain` is what counts."""
    act: dict[str, object] = {}
    for actor in chain:
        act = {"sub": actor, "act": act} if act else {"sub": actor}
    return act


def digest(value: object) -> str:
    """SHA-256 (hex) of a JSON value's canonical bytes (RFC 8785).

    Refused(CREDENTIAL_UNAVAILABLE) for an integer that as JSON's double would be another one: two calls would share a token.
    """
    return hashlib.sha256(canonical(value)).hexdigest()


def canonical(value: object) -> bytes:
    """A JSON value in the one spelling of RFC 8785; see `digest`."""
    pieces: list[str] = []
    _write(value, pieces)
    return "".join(pieces).encode("utf-8")


def _write(value: object, pieces: list[str]) -> None:
    if isinstance(value, str):
        pieces.append(encode_basestring(value))
    elif value is None or isinstance(value, bool):
        pieces.append("null" if value is None else "true" if value else "false")
    elif isinstance(value, int | float):
        pieces.append(_number(value))
    elif isinstance(value, dict):
        opening = "{"
        for key in sorted(value, key=_units):
            pieces += (opening, encode_basestring(key), ":")
            _write(value[key], pieces)
            opening = ","
        pieces.append("}" if value else "{}")
    elif isinstance(value, list | tuple):
        opening = "["
        for item in value:
            pieces.append(opening)
            _write(item, pieces)
            opening = ","
        pieces.append("]" if value else "[]")
    else:
        raise TypeError(type(value).__name__)


def _units(key: str) -> bytes:
    """Members sort by UTF-16 code units (RFC 8785 §3.2.3)."""
    return key.encode("utf-16-be")


def _number(value: float) -> str:
    """As ECMAScript writes it (RFC 8785 §3.2.2.3)."""
    if isinstance(value, int):
        if abs(value) <= _EXACT:
            return str(value)
        if abs(value) >= _LARGEST or int(float(value)) != value:
            raise Refused(Code.CREDENTIAL_UNAVAILABLE, "an integer beyond 2^53 that is no double has no canonical form")
        value = float(value)
    if value == 0:
        return "0"
    mantissa, _, exponent = repr(abs(value)).partition("e")  # the shortest digits that read back as the same double
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    padded = whole + fraction
    point = len(whole) + int(exponent or 0) - (len(padded) - len(padded.lstrip("0")))
    digits = padded.strip("0")
    if 0 < point <= 21:
        text = digits[:point].ljust(point, "0") + (f".{digits[point:]}" if len(digits) > point else "")
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        sign = "+" if point > 0 else "-"
        text = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "") + f"e{sign}{abs(point - 1)}"
    return f"-{text}" if value < 0 else text
