"""The gateway at one token endpoint of somebody's: few requests at a time, a token that is what was asked for or none.

Nothing of a secret, a token or an answer's prose is ever repeated: an error names the endpoint's place in the settings and the
server's own error code.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.identity.client import OAuthClient
from gateway.identity.token_request import TokenRefusedError, TokenRequests
from gateway.model import Clock, Refused
from gateway.problem import ProblemError
from gateway.reasons import Code

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from gateway.settings import TokenEndpoint
    from gateway.upstream.client import Upstreams

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
JWT = "urn:ietf:params:oauth:token-type:jwt"
ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"

MAX_TOKEN_CHARS = 16 * 1024
AT_ONCE, MAX_WAITING = 16, 256
SECRET_AGAIN_SECONDS = 30.0
UNSAID_SECONDS = 60
"""How long a token is used whose end the server did not tell."""
LONGEST_SECONDS = 24 * 3600

_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Token:
    """What a token endpoint gave; `until` in epoch seconds, `issued_type` as RFC 8693 §2.2.1 names it ("" where it does not)."""

    text: str = field(repr=False)
    kind: str
    until: int
    issued_type: str


def unavailable(detail: str) -> Refused:
    """The refusal of a call whose credential cannot be had."""
    return Refused(Code.CREDENTIAL_UNAVAILABLE, detail)


class TokenServer:
    """One token endpoint, and the gateway's client there."""

    def __init__(  # noqa: PLR0917  what it is made of, in its order
        self,
        endpoint: TokenEndpoint,
        upstreams: Upstreams,
        environ: Mapping[str, str],
        clock: Clock,
        place: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """ProblemError where the client's secret or key cannot be had.  `place` of the settings, for errors."""
        self.place = place
        self.url = str(endpoint.url)
        self.client_id = endpoint.client.id
        self._settings = endpoint.client
        self._environ = environ
        self._clock = clock
        self._monotonic = monotonic
        self._upstreams = upstreams
        self._requests = TokenRequests(OAuthClient(endpoint.client, environ, f"{place}.client"), upstreams, clock)
        self._read_at = monotonic()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def ask(self, form: Mapping[str, str]) -> Mapping[str, Any]:
        """As `TokenRequests.ask`; Refused(OVERLOADED) where too many do.

        A secret that the server does not know any more is read again, once: it may have been changed here and there.
        """
        async with self._slot():
            try:
                return await self._requests.ask(self.url, form)
            except TokenRefusedError as error:
                if error.error != "invalid_client" or not await self._renewed():
                    raise
            return await self._requests.ask(self.url, form)

    async def token(self, form: Mapping[str, str], kind: str = "bearer") -> Token:
        """The token that the form asks for; a refusal of the server is Refused(CREDENTIAL_UNAVAILABLE) too."""
        try:
            answer = await self.ask(form)
        except TokenRefusedError as error:
            raise unavailable(f"{self.place}: the authorization server refuses: {error.error}") from None
        text, said, seconds = answer.get("access_token"), answer.get("token_type"), answer.get("expires_in", UNSAID_SECONDS)
        issued = answer.get("issued_token_type", "")
        if not isinstance(text, str) or len(text) > MAX_TOKEN_CHARS or _TOKEN.fullmatch(text) is None:
            raise unavailable(f"{self.place}: the authorization server's answer holds no token")
        if not isinstance(said, str) or said.lower() != kind:
            raise unavailable(f"{self.place}: the authorization server's token is not one of type {kind}")
        if type(seconds) is not int or seconds <= 0 or not isinstance(issued, str):
            raise unavailable(f"{self.place}: the authorization server's answer has no readable end or type")
        return Token(text, kind, self._clock() // 1_000_000 + min(seconds, LONGEST_SECONDS), issued)

    @asynccontextmanager
    async def _slot(self) -> AsyncGenerator[None]:
        if self._waiting >= MAX_WAITING:
            raise Refused(Code.OVERLOADED, f"{self.place}: too many calls wait for a token")
        self._waiting += 1
        try:
            async with self._slots:
                yield
        finally:
            self._waiting -= 1

    async def _renewed(self) -> bool:
        """Whether the client's secret was read again."""
        if self._monotonic() - self._read_at < SECRET_AGAIN_SECONDS:
            return False
        self._read_at = self._monotonic()
        try:
            client = await asyncio.to_thread(OAuthClient, self._settings, self._environ, f"{self.place}.client")
        except ProblemError:
            return False
        self._requests = TokenRequests(client, self._upstreams, self._clock)
        return True
