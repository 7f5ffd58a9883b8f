"""Who calls: from two headers to a `Principal`, or a refusal.

Which credential is which follows from its form, never from trying.  Headers in which a client or a proxy claims an identity
(`X-Forwarded-User` and its kin) are not read at all.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from gateway.identity.access import Access, AccessTokens, workflow_id
from gateway.identity.agents import ASSERTION_TYPE, SECRET_MARK, AgentCredentials
from gateway.identity.delegation import DELEGATION_TYPE, Delegated, Delegations
from gateway.identity.keys import Fetch, is_loopback
from gateway.identity.token import read, refuse
from gateway.model import Arrival, Clock, Principal, Refused, new_id, wall_clock
from gateway.problem import Problem, ProblemError
from gateway.reasons import Code

if TYPE_CHECKING:
    from gateway.settings import Agent, Issuer

AUTHORIZATION = "authorization"
DELEGATION = "bailiwick-delegation"
SERVICE_SECONDS = 3600
"""How long a workflow that an agent starts in its own name may go on."""

_BEARER = re.compile(r"bearer ([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)  # RFC 6750 §2.1, RFC 9110 §11.1


def _nobody_is_killed(_principal: Principal) -> None:
    """For a gateway part that is used alone."""


class Authenticator:
    """The road's first stage."""

    def __init__(
        self,
        *,
        tenant: str,
        public_url: str,
        issuers: Sequence[Issuer],
        agents: Mapping[str, Agent],
        delegations: Delegations,
        alive: Callable[[Principal], None] = _nobody_is_killed,
        access: AccessTokens | None = None,
        fetch: Fetch | None = None,
        clock: Clock = wall_clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """ProblemError for settings that could not be kept safely; reads no key yet.

        `public_url` without a trailing slash is the audience of agents' assertions; `alive` raises `Refused(REVOKED)` for a
        principal of whom anything is killed; `fetch` gets key sets by URL; `access` verifies people's
        tokens, where it was made elsewhere.
        """
        for issuer in issuers:
            if issuer.development and not is_loopback(urlsplit(public_url).hostname or ""):
                message = "the development issuer lets anybody be anybody: it is for a loopback address only"
                raise ProblemError(Problem("development-issuer", message, f"issuers.{issuer.alias}", "configure your own issuer"))
        self._tenant = tenant
        self._agents = agents
        self._delegations = delegations
        self._clock = clock
        self._alive = alive
        self.access = access or AccessTokens(issuers, agents, fetch, monotonic, tenant=tenant)
        self._credentials = AgentCredentials(agents, public_url, fetch, monotonic)

    async def __call__(self, arrival: Arrival) -> Principal:
        """The principal of a call, from its headers alone; `Refused`: NO_CREDENTIAL, INVALID_CREDENTIAL or REVOKED."""
        principal = await self._identified(arrival)
        self._alive(principal)
        return principal

    async def _identified(self, arrival: Arrival) -> Principal:
        now = self._clock() // 1_000_000
        authorization, delegation = _only(arrival, AUTHORIZATION), _only(arrival, DELEGATION)
        if authorization is None:
            if delegation is None:
                raise Refused(Code.NO_CREDENTIAL)
            return self._bare(delegation)
        if delegation is None and authorization.startswith(
            "Bearer "
        ):  # seen a moment ago: the same answer for a tenth of the price
            digest = _sha256(authorization[7:])
            access = await self.access.known(digest, now)
            if access is not None:
                return self._person(access, digest)
        bearer = _BEARER.fullmatch(authorization)
        if bearer is None:
            refuse("not one Bearer credential")
        credential = bearer.group(1)
        if credential.startswith(SECRET_MARK):
            return self._agent(self._credentials.by_secret(credential), "secret", credential, delegation, now)
        token = read(credential)
        if token.typ == ASSERTION_TYPE:
            return self._agent(await self._credentials.by_key(token, now), "key", credential, delegation, now)
        if delegation is not None:
            refuse("a delegation stands beside an agent's own credential only")
        if token.typ == DELEGATION_TYPE:
            return self._bare(credential)
        return self._person(await self.access.verify(token, now), token.digest)

    async def close(self) -> None:
        """End what the key sets have under way."""
        await self.access.close()
        await self._credentials.close()

    def _person(self, access: Access, digest: str) -> Principal:
        """A person's access token, in the person's own hands or in those of a registered agent."""
        if access.jkt:
            refuse("token is bound to a key, and nobody proved to hold it")
        return Principal(
            subject=access.subject,
            actors=access.actors,
            tenant=access.tenant,
            workflow=access.workflow,
            ends=access.ends,
            method="bearer",
            credential=digest,
            groups=access.groups,
            jti=access.jti,
            issued=access.issued,
            acr=access.acr,
        )

    def _agent(
        self, agent: str, method: Literal["secret", "key"], credential: str, delegation: str | None, now: int
    ) -> Principal:
        """An agent that has proven itself: for the person of its delegation, or as the service that it is."""
        if delegation is not None:
            delegated, digest = self._delegated(delegation)
            if delegated.holder != agent:
                refuse("the delegation belongs to another agent")
            return self._principal(delegated, f"delegation+{method}", digest)
        return Principal(
            subject=f"svc:{agent}",
            actors=(f"agent:{agent}",),
            tenant=self._tenant,
            workflow=workflow_id("svc", agent, new_id(self._clock())),
            ends=now + SERVICE_SECONDS,
            method=method,
            credential=_sha256(credential),
        )

    def _bare(self, credential: str) -> Principal:
        """A delegation token alone: good for agents whose settings say so."""
        delegated, digest = self._delegated(credential)
        if not self._agents[delegated.holder].auth.bearer_ok:
            refuse("this agent must show a credential of its own beside the delegation")
        return self._principal(delegated, "delegation", digest)

    def _delegated(self, credential: str) -> tuple[Delegated, str]:
        """A delegation token that may be used here, by whomever it belongs to; and its SHA-256 (hex)."""
        digest = _sha256(credential)
        delegated = self._delegations.known(digest) or self._delegations.verify(credential)
        if delegated.tenant != self._tenant:
            refuse("the delegation is for another tenant")
        if any(actor.removeprefix("agent:") not in self._agents for actor in delegated.chain):
            refuse("an agent of the chain is not registered any more")
        return delegated, digest

    def _principal(self, delegated: Delegated, method: str, digest: str) -> Principal:
        return Principal(
            subject=delegated.subject,
            actors=delegated.chain,
            tenant=delegated.tenant,
            workflow=delegated.workflow,
            ends=delegated.ends,
            method=method,
            credential=digest,
            groups=delegated.groups,
            jti=delegated.jti,
            path=delegated.path,
            caused_by=delegated.call,
        )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _only(arrival: Arrival, name: str) -> str | None:
    """The only value of a header; a second one, even an equal one, is refused."""
    values = arrival.every(name)
    if len(values) > 1:
        refuse(f"header {name} stands twice")
    return values[0] if values else None
