"""Opaque access tokens: the issuer is asked what they say (RFC 7662), and what it says is held to the same rules as a JWT.

An issuer that does not answer, or not exactly as it should, has not said yes.  Tokens are remembered by their SHA-256 alone.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode

from gateway.identity.asking import Ask, Headers
from gateway.identity.claims import Claims, bound_to
from gateway.identity.renewal import SourceError
from gateway.identity.strictjson import loads
from gateway.identity.token import Rule, check_claims, moment, refuse
from gateway.model import Refused, UpstreamError
from gateway.reasons import Code

MAX_CHARS = 4096
LEAST_CHARS = 16
MAX_DEPTH = 12
MAX_ASKED = 64
"""Questions under way at a time; one more is refused, as anybody can invent a token."""
NEGATIVE_SECONDS = 5
_TYPES = frozenset({"bearer", "dpop"})

Endpoint = Callable[[], Awaitable[tuple[str, Ask]]]
"""Where the issuer is asked now, and by which way; raises OSError, UpstreamError or SourceError where nobody knows."""


class Proves(Protocol):
    """The gateway's client at the issuer."""

    def proof(self, audience: str, now: int) -> tuple[Headers, dict[str, str]]:
        """Header lines and form members by which it proves itself."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What came of one question.  `refusal` is "" where the token is good."""

    claims: Claims
    refusal: str = ""
    certain: bool = True


class Introspection:
    """Asks one issuer.  An answer counts for `seconds`, a no for five, nothing else at all."""

    def __init__(self, rule: Rule, endpoint: Endpoint, client: Proves, seconds: int) -> None:
        self._rule = rule
        self._endpoint = endpoint
        self._client = client
        self._seconds = seconds
        self._good = _Remembered(4096)
        self._bad = _Remembered(1024)
        self._flights: dict[str, asyncio.Task[_Verdict]] = {}

    async def claims(self, token: str, now: int) -> Claims:
        """What the issuer says of its token; `Refused` for what is no token of it that is good here and now."""
        if not LEAST_CHARS <= len(token) <= MAX_CHARS:
            refuse("not the length of an opaque token")
        digest = hashlib.sha256(token.encode("ascii")).hexdigest()
        verdict = self._good.get(digest, now) or self._bad.get(digest, now)
        if verdict is None:
            flight = self._flights.get(digest)
            if flight is None:
                if len(self._flights) >= MAX_ASKED:
                    raise Refused(Code.OVERLOADED, "too many tokens are being asked about")
                flight = self._flights[digest] = asyncio.create_task(self._asked(token, digest, now), name="introspection")
            verdict = await asyncio.shield(flight)
        if verdict.refusal:
            refuse(verdict.refusal)
        check_claims(verdict.claims, self._rule, now)
        return verdict.claims

    async def close(self) -> None:
        """End what is being asked."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _asked(self, token: str, digest: str, now: int) -> _Verdict:
        try:
            verdict = await self._ask(token, now)
            if verdict.refusal and verdict.certain:
                self._bad.put(digest, verdict, now + NEGATIVE_SECONDS)
            elif not verdict.refusal:
                self._good.put(digest, verdict, min(moment(verdict.claims, "exp"), now + self._seconds))
            return verdict
        finally:
            del self._flights[digest]

    async def _ask(self, token: str, now: int) -> _Verdict:
        try:
            status, body = await self._answer(token, now)
        except (UpstreamError, SourceError) as error:
            return _Verdict({}, f"the issuer cannot be asked: {error}", certain=False)
        except OSError as error:
            return _Verdict({}, f"the issuer cannot be asked: {type(error).__name__}", certain=False)
        if status != 200:
            return _Verdict({}, f"the issuer answers {status}", certain=False)
        try:
            return _Verdict(read(body, self._rule, now))
        except Refused as refusal:
            return _Verdict({}, refusal.detail)

    async def _answer(self, token: str, now: int) -> tuple[int, bytes]:
        """A connection that died in the pool is no answer: once more, with another proof."""
        url, ask = await self._endpoint()
        for last in (False, True):
            headers, members = self._client.proof(self._rule.issuer, now)
            form = urlencode({"token": token, "token_type_hint": "access_token", **members}).encode("ascii")
            try:
                return await ask(url, headers, form)
            except UpstreamError as error:
                if last or error.kind != "closed":
                    raise
        raise AssertionError  # the second round returns or raises


def read(body: bytes, rule: Rule, now: int) -> Claims:
    """The claims of a positive answer (RFC 7662 §2.2), or `Refused(INVALID_CREDENTIAL)`.

    What the RFC leaves to the issuer is demanded here, as of a JWT: iss, aud, sub, client_id, iat and exp.
    """
    try:
        answer = loads(body, MAX_DEPTH)
    except ValueError as error:
        refuse(f"the issuer's answer is {error}")
    if not isinstance(answer, dict) or not isinstance(answer.get("active"), bool):
        refuse("the issuer's answer is not one of introspection")
    if answer["active"] is not True:
        refuse("the issuer says that the token is not active")
    check_claims(answer, rule, now)
    kind = answer.get("token_type", "DPoP" if "cnf" in answer else "Bearer")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        refuse("not a token to be shown here")
    if (kind.lower() == "dpop") != bool(bound_to(answer)):  # RFC 9449 §6.2
        refuse("token_type and cnf contradict one another")
    return answer


class _Remembered:
    """Verdicts by digest: bounded, least recently used goes first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[str, tuple[_Verdict, int]] = OrderedDict()

    def get(self, digest: str, now: int) -> _Verdict | None:
        entry = self._entries.get(digest)
        if entry is None:
            return None
        verdict, dies = entry
        if now >= dies:
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return verdict

    def put(self, digest: str, verdict: _Verdict, dies: int) -> None:
        self._entries[digest] = (verdict, dies)
        self._entries.move_to_end(digest)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)
