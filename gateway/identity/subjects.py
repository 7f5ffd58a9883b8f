"""People's own access tokens, kept sealed while their workflow may need one for an exchange at their identity provider.

A thief of the database and the sealing key could act there as these people, until their tokens end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from gateway.identity.oauthclient import unavailable
from gateway.identity.token import MAX_CHARS
from gateway.state.sealing import Sealer, UnsealableError

if TYPE_CHECKING:
    from gateway.identity.access import Access
    from gateway.model import Clock, Principal
    from gateway.state.subject_tokens import SubjectTokens

PURPOSE = "subject token"


class Subjects:
    """Keeps only tokens of issuers at which something is exchanged."""

    def __init__(self, tokens: SubjectTokens, seal: bytes, clock: Clock, wanted: frozenset[str]) -> None:
        """`seal`: 32 bytes for this purpose, the same on every replica; `wanted`: aliases of issuers."""
        self._tokens = tokens
        self._sealer = Sealer(seal, PURPOSE)
        self._clock = clock
        self._wanted = wanted

    async def keep(self, access: Access, token: str) -> None:
        """Told of every access token that was verified afresh; durable on return, where it is one that may be needed."""
        if access.issuer not in self._wanted or not access.subject.startswith("user:") or len(token) > MAX_CHARS:
            return
        value = orjson.dumps([access.tenant, access.subject, access.issuer, token])
        sealed = self._sealer.seal(access.workflow, value)
        await self._tokens.keep(access.workflow, sealed, access.ends, self._clock() // 1_000_000)

    async def get(self, principal: Principal, issuer: str) -> str:
        """The token by which this workflow of this person began, at this issuer; Refused(CREDENTIAL_UNAVAILABLE) without one."""
        if not principal.subject.startswith("user:"):
            raise unavailable("a service has no person's token to exchange")
        sealed = await self._tokens.get(principal.workflow, self._clock() // 1_000_000)
        if sealed is None:
            raise unavailable("no access token of this person is kept for this workflow")
        try:
            tenant, subject, alias, token = orjson.loads(self._sealer.open(principal.workflow, sealed))
        except (UnsealableError, ValueError):
            raise unavailable("the access token that is kept cannot be opened") from None
        if (tenant, subject) != (principal.tenant, principal.subject):
            raise unavailable("the access token that is kept is another person's")
        if alias != issuer:
            raise unavailable("the person comes from another issuer than the one of this exchange")
        return str(token)
