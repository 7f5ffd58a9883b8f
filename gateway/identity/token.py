"""The only place that decodes a JWT.  Its form is checked to the last bit before PyJWT sees it, its meaning after.

Nothing of a token is believed before `verify` returns: what is read earlier is called unverified.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, NoReturn, TypeVar

import jwt

from gateway.identity.keys import Key, PublicKey
from gateway.identity.strictjson import loads
from gateway.model import Refused
from gateway.reasons import Code

MAX_CHARS = 16 * 1024
MAX_DEPTH = 12
MAX_TEXT = 255
MAX_AUDIENCES = 32

_FORM = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_HEADER = frozenset({"alg", "typ", "kid", "x5t", "x5t#S256"})  # the thumbprints are ignored: some providers always send them
_EARLIEST, _LATEST = 1_000_000_000, 1 << 33
_JWS = jwt.PyJWS()


def refuse(detail: str) -> NoReturn:
    """Raise the refusal of a credential; `detail` must never repeat what was presented."""
    raise Refused(Code.INVALID_CREDENTIAL, detail)


@dataclass(frozen=True, slots=True)
class Unverified:
    """A well-formed token of which nothing is proven yet.

    digest         SHA-256 (hex) of the text.
    signed_digest  SHA-256 (hex) of the signed part: the same for every signature over it (ES256 has two).
    """

    typ: str
    alg: str
    kid: str
    unverified_claims: Mapping[str, object]
    digest: str
    signed_digest: str
    text: str = field(repr=False)
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a token must say to be one of its kind.

    leeway   seconds by which the issuer's clock may differ from ours.
    longest  seconds from now after which no token of this kind may end.
    beneath  beginnings of addresses that count as audiences too, where whoever accepts the token sees that it came to them.
    any_issuer  `iss` is not compared: another claim says whose the token is (a SPIFFE trust domain).
    """

    types: frozenset[str]
    algorithms: frozenset[str]
    issuer: str
    audience: str
    leeway: int
    longest: int
    one_audience: bool = False
    any_issuer: bool = False
    beneath: tuple[str, ...] = ()

    def addressed(self, audience: object) -> frozenset[str]:
        """The addresses that a token is for, and for nothing else here; none where it is for all of it."""
        named = [audience] if isinstance(audience, str) else audience
        if not isinstance(named, list) or self.audience in named:
            return frozenset()
        texts = [each for each in named if isinstance(each, str)]
        return frozenset(each for each in texts if each.startswith(self.beneath) or f"{each}/" in self.beneath)


def read(text: str) -> Unverified:
    """The parts of a compact JWS (RFC 7515 §7.1), or `Refused(INVALID_CREDENTIAL)`.

    Three canonical base64url parts, at most 16 KB; header members from a closed list (no key, key URL, certificate, `crit`,
    `b64` or `zip`); kid 1 to 128 printable characters; both JSON texts strict (see strictjson), at most 12 deep.
    """
    header, claims, payload = parts(text)
    if not header.keys() <= _HEADER:
        refuse("header member is not allowed")
    alg, typ, kid = header.get("alg"), header.get("typ", ""), header.get("kid")  # typ is left out by some; a rule must allow it
    if not isinstance(alg, str) or not isinstance(typ, str) or not isinstance(kid, str):
        refuse("header needs alg, typ and kid as text")
    if not 1 <= len(kid) <= 128 or not kid.isprintable():
        refuse("kid is not 1 to 128 printable characters")
    encoded = text.encode("ascii")
    signed = encoded[: encoded.rindex(b".")]
    digest, signed_digest = hashlib.sha256(encoded).hexdigest(), hashlib.sha256(signed).hexdigest()
    return Unverified(typ, alg, kid, claims, digest, signed_digest, text, payload)


def parts(text: str) -> tuple[dict[str, object], dict[str, object], bytes]:
    """Header, claims and payload of a compact JWS, strictly read; nothing of them is proven, nothing of the header judged."""
    if len(text) > MAX_CHARS:
        refuse("token is too long")
    form = _FORM.fullmatch(text)
    if form is None:
        refuse("not three base64url parts")
    header, payload, _ = (_decode(part) for part in form.groups())
    return _object(header, "header"), _object(payload, "payload"), payload


def is_compact(text: str) -> bool:
    """Whether it has the outer form of a compact JWS; anything else that is a credential is opaque."""
    return text.count(".") == 2


def check_signature(text: str, payload: bytes, public: PublicKey, algorithm: str) -> None:
    """Refuse unless `public` signed the text with that algorithm, and what was verified is what was read: `payload`."""
    try:
        verified = _JWS.decode(text, public, algorithms=[algorithm])
    except jwt.PyJWTError:
        refuse("signature does not verify")
    if verified != payload:
        refuse("payload was read in two ways")


def read_header(part: str) -> Mapping[str, object]:
    """The protected header of a JWS, strictly read; nothing of it is proven or judged.  `Refused(INVALID_CREDENTIAL)`."""
    if len(part) > MAX_CHARS or _BASE64URL.fullmatch(part) is None:
        refuse("header is not base64url")
    return _object(_decode(part), "header")


def _decode(part: str) -> bytes:
    if len(part) % 4 == 1:
        refuse("not base64url")
    data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part.encode("ascii"):  # bits that decode to nothing make twins
        refuse("not canonical base64url")
    return data


def _object(data: bytes, what: str) -> dict[str, object]:
    try:
        value = loads(data, MAX_DEPTH)
    except ValueError as error:
        refuse(f"{what} is refused: {error}")
    if not isinstance(value, dict):
        refuse(f"{what} is not an object")
    return value


def verify(token: Unverified, key: Key, rule: Rule, now: int) -> Mapping[str, object]:
    """The claims, proven: signature, typ, algorithm, issuer, audience, times and the form of `sub` and `jti`.

    `now` is in epoch seconds.  Raises `Refused(INVALID_CREDENTIAL)`.
    """
    if token.typ not in rule.types:
        refuse("typ is not the one of this use")
    if token.alg not in rule.algorithms or token.alg not in key.algorithms:
        refuse("algorithm is not the one of this issuer and key")
    if token.kid != key.kid:
        refuse("kid is not the key's")
    check_signature(token.text, token.payload, key.public, token.alg)
    claims = token.unverified_claims  # from here on they are verified
    check_claims(claims, rule, now)
    return claims


def check_claims(claims: Mapping[str, object], rule: Rule, now: int) -> None:
    """What proven claims must say in any case: issuer, audience, times and the form of `sub` and `jti`."""
    if not rule.any_issuer and claims.get("iss") != rule.issuer:
        refuse("iss is another issuer")
    _check_audience(claims.get("aud"), rule)
    _check_times(claims, rule, now)
    text(claims, "sub")
    if "jti" in claims:
        text(claims, "jti")


def _check_audience(audience: object, rule: Rule) -> None:
    if isinstance(audience, str):
        audience = [audience]
    elif rule.one_audience:
        refuse("aud must be one text")
    if not isinstance(audience, list) or len(audience) > MAX_AUDIENCES or not all(isinstance(a, str) for a in audience):
        refuse("aud is neither a text nor a short list of texts")
    if rule.audience not in audience and not rule.addressed(audience):
        refuse("aud names somebody else")


def _check_times(claims: Mapping[str, object], rule: Rule, now: int) -> None:
    ends, issued = moment(claims, "exp"), moment(claims, "iat")
    if now >= ends + rule.leeway:
        refuse("token has ended")
    if ends > now + rule.longest + rule.leeway or ends <= issued:
        refuse("exp is too far ahead, or before iat")
    if issued > now + rule.leeway:
        refuse("iat lies ahead")
    if "nbf" in claims and moment(claims, "nbf") > now + rule.leeway:
        refuse("token is not valid yet")


def moment(claims: Mapping[str, object], name: str) -> int:
    """A NumericDate (RFC 7519 §2) as a plain integer between 2001 and 2242; anything else is refused."""
    value = claims.get(name)
    if type(value) is not int or not _EARLIEST <= value <= _LATEST:
        refuse(f"{name} is missing or no sane integer")
    return value


def text(claims: Mapping[str, object], name: str, longest: int = MAX_TEXT) -> str:
    """A required text of 1 to `longest` printable characters without spaces at its ends; anything else is refused."""
    value = claims.get(name)
    if not is_text(value, longest):
        refuse(f"{name} is missing or not 1 to {longest} printable characters")
    return str(value)


def texts(claims: Mapping[str, object], name: str, most: int, longest: int = MAX_TEXT) -> tuple[str, ...]:
    """A list of at most `most` texts as `text` wants them; a missing member is an empty list, anything else is refused."""
    value = claims.get(name, [])
    if not isinstance(value, list) or len(value) > most or not all(is_text(item, longest) for item in value):
        refuse(f"{name} is not a list of at most {most} texts")
    return tuple(value)


def is_text(value: object, longest: int = MAX_TEXT) -> bool:
    """Whether it is a text of 1 to `longest` printable characters without spaces at its ends."""
    return isinstance(value, str) and 1 <= len(value) <= longest and value.isprintable() and value == value.strip()


T = TypeVar("T")


class VerifiedCache(Generic[T]):
    """What was verified a moment ago: bounded, least recently used goes first.

    An entry is dead once its token has ended, 60 seconds after it was verified, or when its key is no longer the same.
    """

    SECONDS = 60

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._entries: OrderedDict[str, tuple[T, Key, int]] = OrderedDict()

    def get(self, digest: str, now: int) -> tuple[T, Key] | None:
        """Value and key for a token's SHA-256 (hex).  The caller compares the key with the one of today."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        value, key, dies = entry
        if now >= dies:
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return value, key

    def put(self, digest: str, value: T, key: Key, now: int, ends: int) -> None:
        """Keep a verified value; `ends` is the token's exp in epoch seconds."""
        dies = min(ends, now + self.SECONDS)
        if dies <= now:
            return
        self._entries[digest] = (value, key, dies)
        self._entries.move_to_end(digest)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def forget(self, digest: str) -> None:
        """Drop an entry, where there is one."""
        self._entries.pop(digest, None)
