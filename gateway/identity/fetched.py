"""Credentials that an authorization server gives: of the gateway's own, or for the person of a workflow (RFC 8693, RFC 7523).

What was got is shown for the same person, workflow and upstream only, until shortly before its end.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from gateway.identity.oauthclient import ACCESS_TOKEN, EXCHANGE, ID_JAG, JWT, JWT_BEARER, Token, TokenServer, unavailable
from gateway.identity.token import moment, read
from gateway.model import Refused
from gateway.reasons import Code
from gateway.upstream.credentials import Lines, token_line

if TYPE_CHECKING:
    from gateway.identity.subjects import Subjects
    from gateway.model import Clock, Permit, Principal
    from gateway.settings import Credentials

EARLY_SECONDS = 30
MOST = 4096
MAX_FLIGHTS = 256
"""Of one upstream: a server that does not answer holds up nobody who needs another one."""
ID_JAG_TYPE = "oauth-id-jag+jwt"

Key = tuple[str, ...]
"""The upstream's place in the settings first."""


class Fetched:
    """Tokens by whom they are for: bounded, and each got once, however many calls wait for it."""

    def __init__(self, clock: Clock, most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._tokens: OrderedDict[Key, tuple[str, int]] = OrderedDict()
        self._flights: dict[Key, asyncio.Task[str]] = {}

    async def get(self, key: Key, fetch: Callable[[], Awaitable[Token]], ends: int) -> str:
        """The token of that key, fetched where there is none; it is used until `ends` (epoch seconds) at most."""
        found = self._tokens.get(key)
        if found is not None and self._clock() // 1_000_000 < found[1]:
            self._tokens.move_to_end(key)
            return found[0]
        flight = self._flights.get(key)
        if flight is None:
            if sum(1 for each in self._flights if each[0] == key[0]) >= MAX_FLIGHTS:
                raise Refused(Code.OVERLOADED, "too many credentials are being fetched")
            flight = self._flights[key] = asyncio.create_task(self._fetched(key, fetch, ends), name="credential")
            flight.add_done_callback(_seen)
        try:
            return await asyncio.shield(flight)  # a caller who hangs up does not take it from the others
        except Refused as refusal:
            raise Refused(refusal.code, refusal.detail) from None  # each caller's own: it will say whose call it befell

    def drop(self, key: Key, token: str) -> bool:
        """Forget this very token; True, as another one can be asked for."""
        found = self._tokens.get(key)
        if found is not None and found[0] == token:
            del self._tokens[key]
        return True

    async def aclose(self) -> None:
        """End what is being fetched, forget the rest."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        self._tokens.clear()

    async def _fetched(self, key: Key, fetch: Callable[[], Awaitable[Token]], ends: int) -> str:
        try:
            token = await fetch()
        finally:
            del self._flights[key]
        now = self._clock() // 1_000_000
        dies = min(token.until - min(EARLY_SECONDS, (token.until - now) // 4), ends)
        if dies > now:
            self._tokens[key] = token.text, dies
            self._tokens.move_to_end(key)
            if len(self._tokens) > self._most:
                self._tokens.popitem(last=False)
        return token.text


def _seen(flight: asyncio.Task[str]) -> None:
    """Its failure belongs to those who waited; where they have all gone, to nobody."""
    if not flight.cancelled():
        flight.exception()


class _Asked:
    """What the strategies here have in common."""

    personal = True

    def __init__(self, place: str, credentials: Credentials, server: TokenServer, tokens: Fetched) -> None:
        self._place = place
        self._header = credentials.header_name
        self._server = server
        self._tokens = tokens
        wanted = {"audience": credentials.audience, "resource": credentials.resource, "scope": " ".join(credentials.scope)}
        self._wanted = {name: value for name, value in wanted.items() if value}

    def _key(self, principal: Principal) -> Key:
        """A workflow's own: what one token of a person may, another one of theirs may not."""
        return self._place, principal.tenant, principal.subject, principal.workflow

    async def _fetch(self, principal: Principal) -> Token:
        raise NotImplementedError

    async def for_call(self, permit: Permit) -> tuple[Lines, str]:
        """The token for this person's workflow; Refused(CREDENTIAL_UNAVAILABLE) where the authorization server gives none."""
        principal = permit.principal
        token = await self._tokens.get(self._key(principal), lambda: self._fetch(principal), principal.ends)
        return (token_line(self._header, token),), "person" if self.personal else "client"

    async def rejected(self, permit: Permit) -> bool:
        """Another one may be had at once."""
        shown = permit.credentials[0][1].decode("ascii").removeprefix("Bearer ")
        return self._tokens.drop(self._key(permit.principal), shown)


class ClientCredentials(_Asked):
    """The strategy `client_credentials` (RFC 6749 §4.4): the gateway's own token, the same for everybody."""

    personal = False

    def _key(self, principal: Principal) -> Key:  # noqa: ARG002  the base's shape
        return (self._place,)

    async def for_call(self, permit: Permit) -> tuple[Lines, str]:
        """See `Strategy`; the token is nobody's, so no workflow ends it."""
        token = await self._tokens.get(self._key(permit.principal), lambda: self._fetch(permit.principal), 1 << 40)
        return (token_line(self._header, token),), "client"

    async def _fetch(self, principal: Principal) -> Token:  # noqa: ARG002  as above
        return await self._server.token({"grant_type": "client_credentials", **self._wanted})


class _ForThePerson(_Asked):
    """By an exchange (RFC 8693) of the access token with which the person's workflow began."""

    def __init__(  # noqa: PLR0917  the base's, and what an exchange needs
        self, place: str, credentials: Credentials, server: TokenServer, tokens: Fetched, subjects: Subjects, issuer: str
    ) -> None:
        super().__init__(place, credentials, server, tokens)
        self._subjects = subjects
        self._issuer = issuer

    async def _exchanged(self, principal: Principal, wanted: str, kind: str) -> Token:
        subject = await self._subjects.get(principal, self._issuer)
        token = await self._server.token(
            {
                "grant_type": EXCHANGE,
                "subject_token": subject,
                "subject_token_type": ACCESS_TOKEN,
                "requested_token_type": wanted,
                **self._wanted,
            },
            kind,
        )
        if token.text == subject:
            raise unavailable(f"{self._server.place}: the authorization server gave the person's own token back")
        return token


class TokenExchange(_ForThePerson):
    """The strategy `token_exchange`: a token of the person's provider, for the upstream."""

    async def _fetch(self, principal: Principal) -> Token:
        token = await self._exchanged(principal, ACCESS_TOKEN, "bearer")
        if token.issued_type not in {ACCESS_TOKEN, JWT}:
            raise unavailable(f"{self._server.place}: the authorization server gave another type of token")
        return token


class IdJag(_ForThePerson):
    """The strategy `id_jag`: an assertion of the person's provider, redeemed at the upstream's authorization server."""

    def __init__(  # noqa: PLR0917  as above
        self,
        place: str,
        credentials: Credentials,
        server: TokenServer,
        tokens: Fetched,
        subjects: Subjects,
        issuer: str,
        redeem: TokenServer,
        clock: Clock,
    ) -> None:
        super().__init__(place, credentials, server, tokens, subjects, issuer)
        self._audience = str(credentials.audience)
        self._scope = {"scope": " ".join(credentials.scope)} if credentials.scope else {}
        self._redeem = redeem
        self._clock = clock

    async def _fetch(self, principal: Principal) -> Token:
        assertion = await self._exchanged(principal, ID_JAG, "n_a")
        if assertion.issued_type != ID_JAG:
            raise unavailable(f"{self._server.place}: the authorization server gave another type of token")
        self._check(assertion.text)
        return await self._redeem.token({"grant_type": JWT_BEARER, "assertion": assertion.text, **self._scope})

    def _check(self, assertion: str) -> None:
        """That it is meant for where it is about to go; whether it is true, its audience will say."""
        place = self._server.place
        try:
            token = read(assertion)
            ends = moment(token.unverified_claims, "exp")
        except Refused as refusal:
            raise unavailable(f"{place}: the assertion is refused: {refusal.detail}") from None
        unverified = token.unverified_claims
        if token.typ != ID_JAG_TYPE:
            raise unavailable(f"{place}: the assertion is not an {ID_JAG_TYPE}")
        if unverified.get("aud") not in (self._audience, [self._audience]):
            raise unavailable(f"{place}: the assertion is for somebody else")
        if unverified.get("client_id", self._redeem.client_id) != self._redeem.client_id:
            raise unavailable(f"{place}: the assertion is for another client")
        if ends <= self._clock() // 1_000_000:
            raise unavailable(f"{place}: the assertion has ended")
