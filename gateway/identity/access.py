"""People's access tokens (RFC 9068): who the person is, and through whose hands the token came."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.identity.keys import Fetch, KeySet
from gateway.identity.token import Rule, Unverified, VerifiedCache, moment, refuse, text, texts, verify
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from gateway.settings import Agent, Issuer, Keys

LEEWAY_SECONDS = 30
LONGEST_SECONDS = 24 * 3600
MAX_GROUPS = 500
STRICT_TYPES = frozenset({"at+jwt", "application/at+jwt"})
_ID_TOKEN_CLAIMS = frozenset({"nonce", "at_hash", "c_hash"})
_OTHER_USES = frozenset({"cnf", "events", "act"})
"""Claims of a bound token (RFC 7800), a security event (RFC 8417), a token that was delegated elsewhere (RFC 8693): each limits
the token in a way that is not checked here, so it is refused."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a verified access token says.  actors are empty for the person's own hands."""

    subject: str
    actors: tuple[str, ...]
    groups: frozenset[str]
    workflow: str
    ends: int
    jti: str


def workflow_id(*origin: str) -> str:
    """`wf-` and 26 hex characters that follow from where the workflow began: one token, one workflow."""
    return "wf-" + hashlib.sha256("\0".join(origin).encode("utf-8")).hexdigest()[:26]


@dataclass(frozen=True, slots=True)
class _Issuer:
    alias: str
    rule: Rule
    keys: KeySet
    groups_claim: str
    direct: frozenset[str]


class AccessTokens:
    """Verifies the access tokens of the configured issuers."""

    def __init__(
        self,
        issuers: Iterable[Issuer],
        agents: Mapping[str, Agent],
        fetch: Fetch | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """ProblemError where two issuers share a name, or a client id could mean two things."""
        self._clients = _clients(agents)
        self._issuers: dict[str, _Issuer] = {}
        self._cache: VerifiedCache[tuple[Access, KeySet]] = VerifiedCache()
        aliases: set[str] = set()
        for issuer in issuers:
            if issuer.issuer in self._issuers or issuer.alias in aliases:
                raise ProblemError(
                    Problem("duplicate-issuer", "two issuers have the same name or alias", f"issuers.{issuer.alias}")
                )
            both = sorted(set(issuer.direct_clients) & self._clients.keys())
            if both:
                message = f"client {both[0]!r} is both a person's own hands and an agent"
                raise ProblemError(Problem("ambiguous-client", message, f"issuers.{issuer.alias}.direct_clients"))
            aliases.add(issuer.alias)
            self._issuers[issuer.issuer] = _Issuer(
                issuer.alias,
                _rule(issuer),
                KeySet(_jwks_of(issuer), fetch, monotonic),
                issuer.groups_claim,
                frozenset(issuer.direct_clients),
            )

    async def known(self, digest: str, now: int) -> Access | None:
        """What a token said that was verified within the last minute, while its key is still one of the issuer's."""
        cached = self._cache.get(digest, now)
        if cached is None:
            return None
        (access, keys), key = cached
        if await keys.get(key.kid) is not key:
            self._cache.forget(digest)
            return None
        return access

    async def verify(self, token: Unverified, now: int) -> Access:
        """What the token says, or `Refused(INVALID_CREDENTIAL)`; `now` in epoch seconds."""
        unverified_issuer = token.unverified_claims.get("iss")
        issuer = self._issuers.get(unverified_issuer) if isinstance(unverified_issuer, str) else None
        if issuer is None:
            refuse("iss is not a configured issuer")
        key = await issuer.keys.get(token.kid)
        if key is None:
            refuse("issuer's keys cannot be read" if issuer.keys.failure else "kid is not one of the issuer's keys")
        claims = verify(token, key, issuer.rule, now)
        access = self._read(token, claims, issuer)
        self._cache.put(token.digest, (access, issuer.keys), key, now, access.ends)
        return access

    async def close(self) -> None:
        """End what the key sets have under way."""
        for issuer in self._issuers.values():
            await issuer.keys.close()

    def _read(self, token: Unverified, claims: Mapping[str, object], issuer: _Issuer) -> Access:
        if _OTHER_USES & claims.keys():
            refuse("token is bound, delegated, or of another use")
        if token.typ not in STRICT_TYPES and _ID_TOKEN_CLAIMS & claims.keys():
            refuse("an ID token is no access token")
        client = _client(token.typ, claims)
        if client in issuer.direct:
            actors: tuple[str, ...] = ()
        elif client in self._clients:
            actors = (f"agent:{self._clients[client]}",)
        else:
            refuse("token was issued to a client that nobody registered")
        jti = text(claims, "jti") if "jti" in claims else ""
        return Access(
            subject=f"user:{issuer.alias}/{text(claims, 'sub')}",
            actors=actors,
            groups=_groups(claims, issuer.groups_claim),
            workflow=workflow_id(issuer.rule.issuer, jti or token.signed_digest),
            ends=moment(claims, "exp"),
            jti=jti,
        )


def _jwks_of(issuer: Issuer) -> Keys:
    if issuer.jwks is None:
        raise ProblemError(Problem("no-keys", "an issuer needs jwks", f"issuers.{issuer.alias}"))
    return issuer.jwks


def _rule(issuer: Issuer) -> Rule:
    types = frozenset(issuer.token_types)
    if "at+jwt" in types:
        types |= STRICT_TYPES  # RFC 9068 §4 allows both spellings
    return Rule(types, frozenset(issuer.algorithms), issuer.issuer, issuer.audience, LEEWAY_SECONDS, LONGEST_SECONDS)


def _clients(agents: Mapping[str, Agent]) -> dict[str, str]:
    clients: dict[str, str] = {}
    for agent_id, agent in agents.items():
        for client in agent.client_ids:
            if client in clients:
                message = f"client {client!r} belongs to two agents"
                raise ProblemError(Problem("ambiguous-client", message, f"agents.{agent_id}.client_ids"))
            clients[client] = agent_id
    return clients


def _client(typ: str, claims: Mapping[str, object]) -> str:
    """RFC 9068 §2.2 demands `client_id`; providers whose typ is another may say `azp`, but not two different things."""
    if typ in STRICT_TYPES or "azp" not in claims:
        return text(claims, "client_id")
    client = text(claims, "azp")
    if "client_id" in claims and text(claims, "client_id") != client:
        refuse("azp and client_id differ")
    return client


def _groups(claims: Mapping[str, object], name: str) -> frozenset[str]:
    elsewhere = claims.get("_claim_names", {})
    if not isinstance(elsewhere, dict) or name in elsewhere or "hasgroups" in claims:
        refuse("the person has more groups than the token holds")  # unknown groups could be ones that a deny rule names
    return frozenset(texts(claims, name, MAX_GROUPS))
