"""Opaque access tokens: the issuer is asked what they say (RFC 7662), and what it says is held to the same rules as a JWT.

An issuer that does not answer, or not exactly as it should, has not said yes.  Tokens are remembered by their SHA-256 alone.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar
from urllib.parse import urlencode

from gateway.identity.asking import Ask, Headers
from gateway.identity.claims import Claims, bound_to
from gateway.identity.renewal import SourceError
from gateway.identity.strictjson import loads
from gateway.identity.token import Rule, check_claims, refuse
from gateway.model import Refused, UpstreamError
from gateway.reasons import Code

MAX_CHARS = 4096
LEAST_CHARS = 16
MAX_DEPTH = 12
MAX_ASKED = 64
"""Questions under way at a time; one more is refused, as anybody can invent a token."""
MAX_STRANGERS = 48
"""Of these, about tokens that were not good here within the hour: whoever invents tokens leaves room for those who have one."""
KNOWN_SECONDS = 3600
NEGATIVE_SECONDS = 5
_TYPES = frozenset({"bearer", "dpop"})

T = TypeVar("T")

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
    """Asks one issuer, once for all who wait for the same answer.  A no counts for five seconds; a yes, for its caller to keep.

    seconds  for how long a yes may be kept.
    """

    def __init__(self, rule: Rule, endpoint: Endpoint, client: Proves, seconds: int) -> None:
        self.seconds = seconds
        self._rule = rule
        self._endpoint = endpoint
        self._client = client
        self._bad: Remembered[str] = Remembered(1024)
        self._good: Remembered[bool] = Remembered()
        self._strangers: set[str] = set()
        self._flights: dict[str, asyncio.Task[_Verdict]] = {}

    async def claims(self, token: str, now: int) -> Claims:
        """What the issuer says of its token; `Refused` for what is no token of it that is good here and now."""
        if not LEAST_CHARS <= len(token) <= MAX_CHARS:
            refuse("not the length of an opaque token")
        digest = hashlib.sha256(token.encode("ascii")).hexdigest()
        if (no := self._bad.get(digest, now)) is not None:
            refuse(no)
        flight = self._flights.get(digest)
        if flight is None:
            stranger = self._good.get(digest, now) is None
            if len(self._flights) >= MAX_ASKED or (stranger and len(self._strangers) >= MAX_STRANGERS):
                raise Refused(Code.OVERLOADED, "too many tokens are being asked about")
            if stranger:
                self._strangers.add(digest)
            flight = self._flights[digest] = asyncio.create_task(self._asked(token, digest, now), name="introspection")
        verdict = await asyncio.shield(flight)
        if verdict.refusal:
            refuse(verdict.refusal)
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
            if not verdict.refusal:
                self._good.put(digest, True, now + KNOWN_SECONDS)  # of room alone: what it says is asked for again
            elif verdict.certain:
                self._bad.put(digest, verdict.refusal, now + NEGATIVE_SECONDS)
            return verdict
        finally:
            del self._flights[digest]
            self._strangers.discard(digest)

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


class Remembered(Generic[T]):
    """What was told of tokens a moment ago, by their SHA-256: bounded, least recently used goes first."""

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._entries: OrderedDict[str, tuple[T, int]] = OrderedDict()

    def get(self, digest: str, now: int) -> T | None:
        """What was told, until it dies."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        told, dies = entry
        if now >= dies:
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return told

    def put(self, digest: str, told: T, dies: int) -> None:
        """Keep it until that second."""
        self._entries[digest] = (told, dies)
        self._entries.move_to_end(digest)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)
