"""Who sits at the browser: OpenID Connect's code flow at the one issuer that `browser` names, with PKCE, nonce and state.

The ID token says who opened a link, and nothing else: it is no credential here, and is not kept.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from gateway.identity.discovery import Discovery, Metadata
from gateway.identity.keys import KeySet
from gateway.identity.token import Rule, read, refuse, text, verify
from gateway.identity.token_request import TokenRefusedError
from gateway.model import Refused
from gateway.reasons import Code

LEEWAY_SECONDS: Final = 30
LONGEST_SECONDS: Final = 24 * 3600
TYPES: Final = frozenset({"JWT", ""})
"""Some issuers give their ID tokens no `typ`."""

AskAt = Callable[[str, Mapping[str, str]], Awaitable[Mapping[str, Any]]]
"""A token request at this URL by the gateway's own client; raises as `gateway.identity.vault.Ask`."""


class Login:
    """One issuer, and the gateway's client there."""

    def __init__(  # noqa: PLR0917  the parts it is made of
        self, alias: str, issuer: str, client_id: str, algorithms: frozenset[str], discovery: Discovery, keys: KeySet, ask: AskAt
    ) -> None:
        """`alias`: of the issuer, as subjects begin; `keys`: the issuer's."""
        self.alias = alias
        self._issuer = issuer
        self._client_id = client_id
        self._rule = Rule(TYPES, algorithms, issuer, client_id, LEEWAY_SECONDS, LONGEST_SECONDS)
        self._discovery = discovery
        self._keys = keys
        self._ask = ask

    async def url(self, redirect_uri: str, state: str, nonce: str, challenge: str) -> str:
        """Where the browser is sent; Refused(CREDENTIAL_UNAVAILABLE) where the issuer's metadata cannot be had."""
        endpoint = (await self._metadata()).authorization_endpoint
        wanted = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": redirect_uri,
            "scope": "openid",
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(wanted)}"

    async def is_from(self, answer: Mapping[str, str]) -> bool:
        """Whether an authorization response is this issuer's (RFC 9207): it must say so where the issuer always does."""
        if "iss" in answer:
            return answer["iss"] == self._issuer
        return not (await self._metadata()).names_itself

    async def subject(self, code: str, verifier: str, nonce: str, redirect_uri: str, now: int) -> str:
        """Whose login the code is of, as `user:<alias>/<sub>`; `Refused` for every answer that does not prove it."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri, "code_verifier": verifier}
        try:
            answer = await self._ask((await self._metadata()).token_endpoint, form)
        except TokenRefusedError as error:
            refuse(f"the issuer refuses the code: {error.error}")
        token = answer.get("id_token")
        if not isinstance(token, str):
            refuse("the issuer gave no ID token")
        unverified = read(token)
        key = await self._keys.get(unverified.kid)
        if key is None:
            refuse("kid is not one of the issuer's keys")
        claims = verify(unverified, key, self._rule, now)
        if not hmac.compare_digest(text(claims, "nonce").encode(), nonce.encode()):
            refuse("the ID token is of another login")
        if (isinstance(claims.get("aud"), list) or "azp" in claims) and claims.get("azp") != self._client_id:
            refuse("the ID token was issued to another client")  # OpenID Connect Core 1.0 §3.1.3.7
        return f"user:{self.alias}/{text(claims, 'sub')}"

    async def close(self) -> None:
        """End what is under way."""
        await self._keys.close()
        await self._discovery.close()

    async def _metadata(self) -> Metadata:
        metadata = await self._discovery.get()
        if metadata is None or not metadata.authorization_endpoint or not metadata.token_endpoint:
            raise Refused(Code.CREDENTIAL_UNAVAILABLE, "the issuer's metadata names no endpoints for a browser")
        return metadata
