"""Which agent asks at the token endpoint: one proof, in a header or in the form, never two (RFC 6749 §2.3)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import unquote_plus

from gateway.identity.agents import FORM_TYPES
from gateway.identity.oauth_error import Error, OAuthError
from gateway.identity.token import Unverified, read, refuse
from gateway.model import Arrival, Assurance, Clock, Refused
from gateway.reasons import Code

if TYPE_CHECKING:
    from gateway.identity.agents import Proven

ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
METHODS: Final = ("client_secret_basic", "private_key_jwt")
MUTUAL_TLS: Final = "tls_client_auth"
_BASIC = re.compile(r"basic ([A-Za-z0-9+/]{1,1024}={0,2})", re.IGNORECASE)
_CREDENTIAL = frozenset({Code.NO_CREDENTIAL, Code.INVALID_CREDENTIAL, Code.REVOKED, Code.SCOPE_REQUIRED})


@dataclass(frozen=True, slots=True)
class Client:
    """An agent that has proven itself here.

    method, assurance   as in `Proven`.
    jkt                 thumbprint of the key whose proof (RFC 9449) stood beside, "" where none did.
    credential          SHA-256 (hex) of what was shown; never the credential.
    """

    agent: str
    method: str
    assurance: Assurance
    jkt: str
    credential: str


class Credentials(Protocol):
    """Who verifies what agents show."""

    async def proven(self, arrival: Arrival, now: int) -> Proven | None:
        """Whom the headers prove; None where they hold no proof."""

    def by_secret(self, presented: str) -> str:
        """Whose secret it is."""

    async def by_key(self, token: Unverified, now: int, types: frozenset[str] = ...) -> str:
        """Who signed it."""


class Proofs(Protocol):
    """Who verifies proofs of possession."""

    async def check(self, arrival: Arrival, credential: str, now: int) -> str:
        """The thumbprint of the proof's key."""


@contextmanager
def invalid(what: str, error: Error = "invalid_request") -> Iterator[None]:
    """Tell a bad credential by its name alone: why it is bad is for the ledger.  Everything else goes on as it is."""
    try:
        yield
    except Refused as refusal:
        if refusal.code not in _CREDENTIAL:
            raise
        raise OAuthError(error, f"{what} is not good here", refusal) from None


class Clients:
    """Authenticates the token endpoint's clients."""

    def __init__(self, credentials: Credentials, proofs: Proofs | None, clock: Clock) -> None:
        self._credentials = credentials
        self._proofs = proofs
        self._clock = clock

    async def proven(self, arrival: Arrival, form: Mapping[str, str], now: int) -> Client:
        """The agent; `OAuthError` (`invalid_client`, or `invalid_request` for two proofs) otherwise."""
        with invalid("the client's proof", "invalid_client"):
            agent, method, assurance, shown = await self._agent(arrival, form, now)
            if form.get("client_id", agent) != agent:
                refuse("client_id is another agent")
        jkt = ""
        if arrival.every("dpop"):
            if self._proofs is None:
                raise OAuthError("invalid_request", "proofs of possession are not taken here")
            with invalid("the DPoP proof", "invalid_dpop_proof"):
                jkt = await self._proofs.check(arrival, "", now)
        return Client(agent, method, assurance, jkt, shown)

    async def by_assertion(self, text: str) -> str:
        """The agent that signed an assertion for us just now."""
        return await self._credentials.by_key(read(text), self._clock() // 1_000_000)

    async def _agent(self, arrival: Arrival, form: Mapping[str, str], now: int) -> tuple[str, str, Assurance, str]:
        """Agent, method, assurance, and the SHA-256 of what was shown."""
        if "client_secret" in form:
            raise OAuthError("invalid_request", "a client_secret stands in the Authorization header, not in the form")
        assertion = form.get("client_assertion")
        by_form = assertion is not None or "client_assertion_type" in form
        values = arrival.every("authorization")
        if len(values) > 1 or (by_form and values):
            raise OAuthError("invalid_request", "more than one proof of the client")
        basic = _BASIC.fullmatch(values[0]) if values else None
        proven = await self._credentials.proven(arrival, now)
        if proven is not None:
            if by_form or basic is not None:
                raise OAuthError("invalid_request", "more than one proof of the client")
            return proven.agent, proven.method, proven.assurance, proven.credential
        if basic is not None:
            return self._basic(basic.group(1))
        if not by_form:
            raise Refused(Code.NO_CREDENTIAL if not values else Code.INVALID_CREDENTIAL, "no proof of an agent")
        if assertion is None or form.get("client_assertion_type") != ASSERTION:
            refuse("an assertion comes with its type")
        token = read(assertion)
        return await self._credentials.by_key(token, now, FORM_TYPES), "key", "pop", token.digest

    def _basic(self, encoded: str) -> tuple[str, str, Assurance, str]:
        """RFC 6749 §2.3.1: id and secret, each form-urlencoded, then joined and encoded."""
        try:
            name, colon, secret = base64.b64decode(encoded, validate=True).decode("ascii").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            refuse("not the form of client_secret_basic")
        secret = unquote_plus(secret)
        agent = self._credentials.by_secret(secret)
        if not colon or unquote_plus(name) != agent:
            refuse("client_secret_basic names another agent")
        return agent, "secret", "bearer", hashlib.sha256(secret.encode("utf-8")).hexdigest()
