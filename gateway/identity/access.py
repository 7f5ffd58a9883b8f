"""People's access tokens (RFC 9068): who the person is, and through whose hands the token came."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.identity import claims as said
from gateway.identity.keys import Fetch, KeySet
from gateway.identity.token import Rule, Unverified, VerifiedCache, moment, refuse, text, verify
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from gateway.settings import Agent, Issuer, Keys

LEEWAY_SECONDS = 30
LONGEST_SECONDS = 24 * 3600
STRICT_TYPES = frozenset({"at+jwt", "application/at+jwt"})
_ID_TOKEN_CLAIMS = frozenset({"nonce", "at_hash", "c_hash"})
_OTHER_USES = frozenset({"events", "act"})
"""Claims of a security event (RFC 8417) and of tokens that were delegated elsewhere (RFC 8693): each says that the token is for
something else, or limits it in a way that is not checked here, so it is refused."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a verified access token says.

    actors  are empty for the person's own hands.
    tenant  follows from the issuer's settings and verified claims, never from the request.
    issued  `iat`: since when the person's authority stands.
    issuer  the issuer's alias.
    acr     authentication context as the issuer says it, "" where it says none.
    jkt     thumbprint of the key that the token is bound to, "" where it is bound to none.  Whoever accepts a bound token must
            have seen that key's proof.
    scope   OAuth scopes; they are for the issuer's `required_scope` and widen nothing.
    """

    subject: str
    actors: tuple[str, ...]
    groups: frozenset[str]
    workflow: str
    ends: int
    jti: str
    tenant: str
    issued: int
    issuer: str
    acr: str = ""
    jkt: str = ""
    scope: tuple[str, ...] = ()


def workflow_id(*origin: str) -> str:
    """`wf-` and 26 hex characters that follow from where the workflow began: one token, one workflow."""
    return "wf-" + hashlib.sha256("\0".join(origin).encode("utf-8")).hexdigest()[:26]


@dataclass(frozen=True, slots=True)
class _Issuer:
    settings: Issuer
    rule: Rule
    keys: KeySet
    tenant: str
    agents: Mapping[str, str]


class AccessTokens:
    """Verifies the access tokens of the configured issuers."""

    def __init__(
        self,
        issuers: Iterable[Issuer],
        agents: Mapping[str, Agent],
        fetch: Fetch | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        tenant: str = "default",
    ) -> None:
        """ProblemError where two issuers share a name, or a client id could mean two things.  `tenant` is the gateway's own."""
        self._issuers: dict[str, _Issuer] = {}
        self._cache: VerifiedCache[tuple[Access, KeySet]] = VerifiedCache()
        configured = tuple(issuers)
        clients = _clients(configured, agents)
        aliases: set[str] = set()
        for issuer in configured:
            if issuer.issuer in self._issuers or issuer.alias in aliases:
                raise ProblemError(
                    Problem("duplicate-issuer", "two issuers have the same name or alias", f"issuers.{issuer.alias}")
                )
            aliases.add(issuer.alias)
            self._issuers[issuer.issuer] = _Issuer(
                issuer,
                _rule(issuer),
                KeySet(_jwks_of(issuer), fetch, monotonic),
                issuer.tenant or tenant,
                clients[issuer.alias],
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
        strict = token.typ in STRICT_TYPES
        if not strict and _ID_TOKEN_CLAIMS & claims.keys():
            refuse("an ID token is no access token")
        access = _read(claims, issuer, token.signed_digest, strict=strict)
        self._cache.put(token.digest, (access, issuer.keys), key, now, access.ends)
        return access

    async def close(self) -> None:
        """End what the key sets have under way."""
        for issuer in self._issuers.values():
            await issuer.keys.close()


def _read(claims: said.Claims, issuer: _Issuer, digest: str, *, strict: bool) -> Access:
    """What verified claims say; `digest` stands for a token that has no `jti`."""
    settings = issuer.settings
    if _OTHER_USES & claims.keys():
        refuse("token is delegated, or of another use")
    client = said.client(claims, strict=strict)
    if client in settings.direct_clients:
        actors: tuple[str, ...] = ()
    elif client in issuer.agents:
        actors = (f"agent:{issuer.agents[client]}",)
    else:
        refuse("token was issued to a client that nobody registered")
    scope = said.scopes(claims)
    if not set(settings.required_scope) <= set(scope):
        refuse("token lacks a scope that this gateway wants")
    jkt = said.bound_to(claims)
    if settings.dpop == "require" and not jkt:
        refuse("token is bound to no key")
    groups = said.groups(claims, settings.groups_claim)
    if groups is None:
        refuse("the person has more groups than the token holds")  # unknown groups could be ones that a deny rule names
    jti = text(claims, "jti") if "jti" in claims else ""
    return Access(
        subject=f"user:{settings.alias}/{text(claims, 'sub')}",
        actors=actors,
        groups=groups,
        workflow=workflow_id(issuer.rule.issuer, jti or digest),
        ends=moment(claims, "exp"),
        jti=jti,
        tenant=said.tenant(claims, settings.tenant_claim, settings.tenants) if settings.tenant_claim else issuer.tenant,
        issued=moment(claims, "iat"),
        issuer=settings.alias,
        acr=said.authentication_context(claims),
        jkt=jkt,
        scope=scope,
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


def _clients(issuers: tuple[Issuer, ...], agents: Mapping[str, Agent]) -> dict[str, dict[str, str]]:
    """By issuer's alias, which client id means which agent.  The same id at another issuer may be somebody else's."""
    meaning: dict[str, dict[str, str]] = {issuer.alias: {} for issuer in issuers}
    own = {issuer.alias: frozenset(issuer.direct_clients) for issuer in issuers}
    for agent_id, agent in agents.items():
        place = f"agents.{agent_id}.client_ids"
        for alias, clients in per_issuer(agent, tuple(meaning), place).items():
            if alias not in meaning:
                raise ProblemError(Problem("unknown-issuer", f"no issuer has the alias {alias!r}", place))
            for client in clients:
                if client in own[alias]:
                    message = f"client {client!r} is both a person's own hands and an agent"
                    raise ProblemError(Problem("ambiguous-client", message, f"issuers.{alias}.direct_clients"))
                if meaning[alias].setdefault(client, agent_id) != agent_id:
                    message = f"client {client!r} belongs to two agents"
                    raise ProblemError(Problem("ambiguous-client", message, place))
    return meaning


def per_issuer(agent: Agent, aliases: tuple[str, ...], place: str) -> Mapping[str, tuple[str, ...]]:
    """An agent's OAuth clients by issuer.  A bare list says nothing of the issuer, so it counts where there is but one."""
    if isinstance(agent.client_ids, dict):
        return agent.client_ids
    if len(aliases) > 1 and agent.client_ids:
        message = "with several issuers, a client id must say whose it is"
        help_ = f"write client_ids: {{{aliases[0]}: [{', '.join(agent.client_ids)}]}}"
        raise ProblemError(Problem("ambiguous-client", message, place, help_))
    return dict.fromkeys(aliases, agent.client_ids)
