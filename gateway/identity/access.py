"""People's access tokens (RFC 9068): who the person is, and through whose hands the token came."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.identity import claims as said
from gateway.identity.agents import SECRET_MARK
from gateway.identity.introspection import Remembered
from gateway.identity.issuers import STRICT_TYPES, Trusted, Ways, trusted
from gateway.identity.keys import Fetch, KeySet
from gateway.identity.token import Unverified, VerifiedCache, moment, refuse, text, verify
from gateway.model import Refused
from gateway.problem import Problem, ProblemError
from gateway.protected import scopes_of
from gateway.reasons import Code

if TYPE_CHECKING:
    from gateway.identity.directory import Directory
    from gateway.settings import Agent, Issuer

_OPAQUE = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 §2.1
_JSON = re.compile(rb'\s*\{\s*"')
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
    acr     authentication context as the issuer says it, "" where it says none; auth_time when the person last proved who they
            are (epoch seconds), 0 where it says nothing.
    jkt     thumbprint of the key that the token is bound to, "" where it is bound to none.  Whoever accepts a bound token must
            have seen that key's proof.
    only_at  addresses of this gateway that the token is for, and for no other (RFC 8707); empty: for all.
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
    auth_time: int = 0
    jkt: str = ""
    scope: tuple[str, ...] = ()
    only_at: frozenset[str] = frozenset()


def workflow_id(*origin: str) -> str:
    """`wf-` and 26 hex characters that follow from where the workflow began: one token, one workflow."""
    return "wf-" + hashlib.sha256("\0".join(origin).encode("utf-8")).hexdigest()[:26]


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
        ways: Ways | None = None,
    ) -> None:
        """ProblemError where two issuers share a name, or a client id could mean two things.

        `tenant` is the gateway's own; `ways` are how issuers are reached, instead of `fetch` and `monotonic` alone.
        """
        self._issuers: dict[str, Trusted] = {}
        self._aliases: dict[str, Trusted] = {}
        self._cache: VerifiedCache[tuple[Access, KeySet]] = VerifiedCache()
        self._told: Remembered[Access] = Remembered()
        configured = tuple(issuers)
        clients = _clients(configured, agents)
        for issuer in configured:
            if issuer.issuer in self._issuers or issuer.alias in self._aliases:
                raise ProblemError(
                    Problem("duplicate-issuer", "two issuers have the same name or alias", f"issuers.{issuer.alias}")
                )
            part = trusted(issuer, clients[issuer.alias], tenant, ways or Ways(fetch, monotonic=monotonic))
            self._issuers[issuer.issuer] = self._aliases[issuer.alias] = part
        asked = [part for part in self._issuers.values() if part.introspection is not None]
        if len(asked) > 1:
            message = "an opaque token does not say whose it is, and is shown to no issuer but its own"
            raise ProblemError(Problem("two-introspections", message, f"issuers.{asked[1].settings.alias}.introspection"))
        self._asked = asked[0] if asked else None

    def issuer(self, alias: str) -> Trusted | None:
        """The issuer of that alias: its keys, its metadata, its directory."""
        return self._aliases.get(alias)

    def tenants_of(self, alias: str) -> frozenset[str]:
        """Every tenant that a person of that issuer can be of; none where the settings have no such issuer."""
        part = self._aliases.get(alias)
        if part is None:
            return frozenset()
        return frozenset(part.settings.tenants.values() if part.settings.tenant_claim else (part.tenant,))

    @property
    def directories(self) -> Mapping[str, Directory]:
        """By issuer's alias, where its people are looked up."""
        return {alias: part.directory for alias, part in self._aliases.items() if part.directory is not None}

    @property
    def tenants(self) -> frozenset[str]:
        """Every tenant that a person of these issuers can be of."""
        return frozenset(tenant for alias in self._aliases for tenant in self.tenants_of(alias))

    def at_hand(self, digest: str, now: int) -> Access | None:
        """The same as `known`, where nobody has to be waited for."""
        cached = self._cache.get(digest, now)
        if cached is None:
            return None
        (access, keys), key = cached
        return access if keys.at_hand(key.kid) is key else None

    async def known(self, digest: str, now: int) -> Access | None:
        """What a token said that was verified within the last minute, while its key is still one of the issuer's; or what was
        told of an opaque one, for as long as its issuer's settings say."""
        cached = self._cache.get(digest, now)
        if cached is None:
            return self._told.get(digest, now)
        (access, keys), key = cached
        if (keys.at_hand(key.kid) or await keys.get(key.kid)) is not key:
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
            failure = issuer.keys.failure
            refuse(f"issuer's keys cannot be read: {failure}" if failure else "kid is not one of the issuer's keys")
        claims = verify(token, key, issuer.rule, now)
        strict = token.typ in STRICT_TYPES
        if not strict and _ID_TOKEN_CLAIMS & claims.keys():
            refuse("an ID token is no access token")
        access = await _read(claims, issuer, token.signed_digest, strict=strict)
        self._cache.put(token.digest, (access, issuer.keys), key, now, access.ends)
        return access

    async def opaque(self, text: str, now: int) -> Access:
        """What the one issuer that is asked about opaque tokens says of this one, or `Refused`.

        Whatever could be read by another is no opaque token, and is told to nobody: a JOSE object, an agent's secret.
        """
        if _OPAQUE.fullmatch(text) is None or text.startswith(SECRET_MARK) or _is_jose(text):
            refuse("neither a signed nor an opaque token")
        issuer = self._asked
        if issuer is None or issuer.introspection is None:
            refuse("token is opaque, and no issuer is asked about such")
        claims = await issuer.introspection.claims(text, now)
        digest = hashlib.sha256(text.encode("ascii")).hexdigest()
        access = await _read(claims, issuer, digest, strict=True)
        if issuer.introspection.seconds:
            self._told.put(digest, access, min(access.ends, now + issuer.introspection.seconds))
        return access

    async def close(self) -> None:
        """End what is under way."""
        for issuer in self._issuers.values():
            await issuer.close()


def _is_jose(text: str) -> bool:
    """Whether its first part of several begins as a header does: a JWS or JWE of whomever, in whatever state."""
    head, dot, _ = text.partition(".")
    head = head.rstrip("=")
    try:
        return bool(dot) and _JSON.match(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4))) is not None
    except ValueError:
        return False


async def _read(claims: said.Claims, issuer: Trusted, digest: str, *, strict: bool) -> Access:
    """What verified claims say; `digest` stands for a token that has no `jti`."""
    settings = issuer.settings
    if _OTHER_USES & claims.keys() or said.is_of_another_kind(claims):
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
        wanted = {"scope": " ".join(scopes_of([settings.required_scope]))}
        raise Refused(Code.SCOPE_REQUIRED, "token lacks a scope that this gateway wants", data=wanted)
    jkt = said.bound_to(claims)
    if settings.dpop == "require" and not jkt:
        refuse("token is bound to no key")
    tenant = said.tenant(claims, settings.tenant_claim, settings.tenants) if settings.tenant_claim else issuer.tenant
    sub, jti = text(claims, "sub"), text(claims, "jti") if "jti" in claims else ""
    if said.is_of_a_client(claims, client):
        refuse("a client's own token names no person")  # RFC 9068 §5: one client could be called as a person is
    groups = said.groups(claims, settings.groups_claim)
    if groups is None:
        groups = await _looked_up(issuer, sub)
    elif issuer.directory is not None and said.find(claims, settings.groups_claim) is said.MISSING:
        groups = await _unsaid(issuer.directory, sub)
    return Access(
        subject=f"user:{settings.alias}/{sub}",
        actors=actors,
        groups=groups,
        workflow=workflow_id(issuer.rule.issuer, jti or digest),
        ends=moment(claims, "exp"),
        jti=jti,
        tenant=tenant,
        issued=moment(claims, "iat"),
        issuer=settings.alias,
        acr=said.authentication_context(claims),
        auth_time=said.authenticated_at(claims),
        jkt=jkt,
        scope=scope,
        only_at=issuer.rule.addressed(claims.get("aud")),
    )


async def _unsaid(directory: Directory, sub: str) -> frozenset[str]:
    """The groups of somebody whose token says nothing of them: what it holds is often the client's choice (an OAuth scope), and
    nobody gets rid of a deny rule that names a group by not asking for the claim."""
    person = await directory.look(sub)
    if not person.active:
        refuse("the token says nothing of groups, and the directory knows no such account")
    return person.groups


async def _looked_up(issuer: Trusted, sub: str) -> frozenset[str]:
    """The groups of somebody who has more than a token holds.  Unknown groups could be ones that a deny rule names."""
    if issuer.directory is None:
        refuse("the person has more groups than the token holds")
    person = await issuer.directory.look(sub)
    if not person.active or not person.groups:
        refuse("the directory knows no such account, or no groups of it")
    return person.groups


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
