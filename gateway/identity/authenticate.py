"""Who calls: from a few headers to a `Principal`, or a refusal.

Which credential is which follows from its form, never from trying.  Headers in which a client or a proxy claims an identity
(`X-Forwarded-User` and its kin) are not read at all.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec.structs import replace

from gateway.identity.access import Access, AccessTokens, workflow_id
from gateway.identity.agents import AUTHORIZATION, SECRET_MARK, AgentCredentials, Proven, Remembered, both
from gateway.identity.delegation import DELEGATION_TYPE, Delegated, Delegations
from gateway.identity.dpop import DPOP, Once, Proof, Proofs, refuse_proof
from gateway.identity.keys import Fetch, is_loopback
from gateway.identity.token import Unverified, is_compact, read, refuse
from gateway.model import Arrival, Assurance, Clock, Principal, Refused, new_id, wall_clock, weaker
from gateway.problem import Problem, ProblemError
from gateway.reasons import Code
from gateway.scope import EVERYTHING, narrowed

if TYPE_CHECKING:
    from gateway.identity.hops import Hops
    from gateway.settings import Agent, Issuer

DELEGATION = "bailiwick-delegation"
SERVICE_SECONDS = 3600
"""How long a workflow that an agent starts in its own name may go on."""

Keep = Callable[[Access, str], Awaitable[None]]
"""Told of an access token that was verified afresh, with its text."""

_AGGREGATE = frozenset({"/mcp", "/mcp/"})
_CREDENTIAL = re.compile(r"(bearer|dpop) ([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)  # RFC 6750 §2.1, RFC 9449 §7.1


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
        credentials: AgentCredentials | None = None,
        hops: Hops | None = None,
        keep: Keep | None = None,
        once: Once | None = None,
        fetch: Fetch | None = None,
        instances: Callable[[str], str] | None = None,
        clock: Clock = wall_clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """ProblemError for settings that could not be kept safely; reads no key yet.

        `public_url` without a trailing slash is the audience of agents' assertions; `alive` raises `Refused(REVOKED)` for a
        principal of whom anything is killed; `fetch` gets key sets by URL; `access` verifies people's tokens and `credentials`
        agents' own, where they were made elsewhere; `once` remembers proofs for all replicas; `instances` makes keyed digests of
        the keys that callers show to hold.
        """
        for issuer in issuers:
            if issuer.development and not is_loopback(urlsplit(public_url).hostname or ""):
                message = "the development issuer lets anybody be anybody: it is for a loopback address only"
                raise ProblemError(Problem("development-issuer", message, f"issuers.{issuer.alias}", "configure your own issuer"))
        self._tenant = tenant
        self._public_url = public_url
        self._tenants = _tenants(tenant, issuers, agents.values())
        self._agents = agents
        self._bounds = {f"agent:{name}": agent.scope for name, agent in agents.items() if EVERYTHING not in agent.scope}
        self._delegations = delegations
        self._clock = clock
        self._alive = alive
        self._hops = hops
        self._keep = keep
        self._instances = instances
        once = once or Remembered().use
        self.access = access or AccessTokens(issuers, agents, fetch, monotonic, tenant=tenant)
        self.credentials = credentials or AgentCredentials(agents, public_url, fetch, monotonic, once=once)
        self.proofs = Proofs(public_url, once)

    async def __call__(self, arrival: Arrival) -> Principal:
        """The principal of a call, from its headers alone; `Refused`: NO_CREDENTIAL, INVALID_CREDENTIAL or REVOKED."""
        principal = await self._identified(arrival)
        if self._bounds:
            principal = self._bounded(principal)
        self._alive(principal)
        return principal

    def inside(self, token: str, agent: str) -> Principal:
        """Who code in the gateway's own sandbox is, by the token that was minted for its run, as if `agent` had shown it.

        The token has never left this process, so that holding it needs no further proof.  `Refused` as for a call.
        """
        delegated, digest = self._delegated(token)
        if delegated.holder != agent:
            refuse("the delegation belongs to another agent")
        principal = self._bounded(_delegate(delegated, "delegation+sandbox", digest, "pop"))
        self._alive(principal)
        return principal

    async def close(self) -> None:
        """End what the key sets have under way."""
        await self.access.close()
        await self.credentials.close()

    def _bounded(self, principal: Principal) -> Principal:
        """Within the scope of every agent that it goes through, however it came to them: also with a person's plain token."""
        bounds = [self._bounds[actor] for actor in principal.actors if actor in self._bounds]
        return replace(principal, scope=narrowed(principal.scope, *bounds)) if bounds else principal

    async def _identified(self, arrival: Arrival) -> Principal:
        now = self._clock() // 1_000_000
        authorization, delegation = _only(arrival, AUTHORIZATION), _only(arrival, DELEGATION)
        proved = bool(arrival.every(DPOP))
        held = self.credentials.by_certificate(arrival, now)
        if authorization is None:
            if proved:
                refuse_proof("a proof of possession without a token")
            if held is not None:
                return self._seen(await self._agent(held, delegation, arrival, now), held)
            if delegation is None:
                raise Refused(Code.NO_CREDENTIAL)
            return self._bare(delegation)
        if authorization[:7].lower() == "bearer " and delegation is None and not proved:
            digest = _sha256(authorization[7:])  # seen a moment ago: the same answer for a tenth of the price
            access = self.access.at_hand(digest, now) or await self.access.known(digest, now)
            if access is not None:
                return self._seen(_person(self._here(access, arrival), digest, held), held)
        form = _CREDENTIAL.fullmatch(authorization)
        if form is None:
            refuse("neither one Bearer nor one DPoP credential")
        scheme, credential = form.groups()
        if scheme.lower() == DPOP:
            if delegation is not None:
                refuse("a delegation stands beside an agent's own credential only")
            return await self._bound(credential, held, arrival, now)
        if proved:
            refuse_proof("a proof of possession beside another scheme than DPoP")
        return self._seen(await self._unbound(credential, delegation, held, arrival, now), held)

    def _seen(self, principal: Principal, held: Proven | None, proof: Proof | None = None) -> Principal:
        """The same, by the key that it showed to hold: a proof's own, else a certificate's."""
        shown = f"jkt {proof.thumbprint}" if proof is not None else f"x5t {held.credential}" if held is not None else ""
        return replace(principal, instance=self._instances(shown)) if shown and self._instances is not None else principal

    async def _unbound(
        self, credential: str, delegation: str | None, held: Proven | None, arrival: Arrival, now: int
    ) -> Principal:
        """`Authorization: Bearer`: an agent's own credential, a delegation, or a person's token."""
        shown = await self.credentials.shown(credential, now)
        if shown is not None:
            return await self._agent(shown if held is None else both(shown, held), delegation, arrival, now)
        if delegation is not None:
            refuse("a delegation stands beside an agent's own credential only")
        token = read(credential) if is_compact(credential) else None
        if token is not None and token.typ == DELEGATION_TYPE:
            return self._bare(credential) if held is None else await self._agent(held, credential, arrival, now)
        access = self._here(await self._accessed(credential, token, now), arrival)
        return _person(access, _sha256(credential), held)

    async def _bound(self, credential: str, held: Proven | None, arrival: Arrival, now: int) -> Principal:
        """`Authorization: DPoP`: a person's token or a delegation, by whoever holds the key that it, or the agent, names."""
        proof = self.proofs.read(arrival, credential, now)
        if credential.startswith(SECRET_MARK):  # or it would be asked about at an issuer as an opaque token
            refuse("an agent's secret stands beside the scheme Bearer alone")
        digest = _sha256(credential)
        access = await self.access.known(digest, now)
        if access is None:
            token = read(credential) if is_compact(credential) else None
            if token is not None and token.typ == DELEGATION_TYPE:
                return await self._bound_delegation(credential, proof, held, now)
            access = await self._accessed(credential, token, now)
        if access.jkt != proof.thumbprint:
            refuse_proof("token is bound to another key, or to none")
        await self.proofs.spend(proof, now)
        return self._seen(_person(self._here(access, arrival), digest, held, bound=True), held, proof)

    def _here(self, access: Access, arrival: Arrival) -> Access:
        """A token that may be for one server or agent alone, or for all servers as one, where it came to just that."""
        if not access.only_at:
            return access
        if arrival.target:
            here = f"{self._public_url}/{arrival.protocol}/{arrival.target}"
        else:
            here = f"{self._public_url}/mcp" if arrival.url_path in _AGGREGATE else ""
        if here not in access.only_at:
            refuse("the token is for another address of this gateway")
        return access

    async def _bound_delegation(self, credential: str, proof: Proof, held: Proven | None, now: int) -> Principal:
        delegated, digest = self._delegated(credential)
        if held is not None and held.agent != delegated.holder:
            refuse("the delegation belongs to another agent")
        if delegated.jkt:
            if delegated.jkt != proof.thumbprint:
                refuse_proof("the delegation is bound to another key")
        elif not await self.credentials.holds(delegated.holder, proof.key):
            refuse_proof("the key is not one that the agent registered")
        await self.proofs.spend(proof, now)
        return self._seen(_delegate(delegated, "delegation+dpop", digest, "pop"), held, proof)

    async def _accessed(self, credential: str, token: Unverified | None, now: int) -> Access:
        """A person's token, verified afresh."""
        access = await (self.access.opaque(credential, now) if token is None else self.access.verify(token, now))
        if self._keep is not None:
            await self._keep(access, credential)
        return access

    async def _agent(self, proven: Proven, delegation: str | None, arrival: Arrival, now: int) -> Principal:
        """An agent that has proven itself: for the person of its delegation or of its trace, or as the service that it is."""
        if delegation is not None:
            delegated, digest = self._delegated(delegation)
            if delegated.holder != proven.agent:
                refuse("the delegation belongs to another agent")
            if delegated.jkt:
                refuse_proof("the delegation is bound to a key, and nobody proved to hold it")
            return _delegate(delegated, f"delegation+{proven.method}", digest, proven.assurance)
        if self._hops is not None and self._agents[proven.agent].auth.trace_ok and arrival.trace.parent:
            token = await self._hops.handed(proven.agent, arrival.trace.trace_id, now)
            if token is not None:
                delegated, digest = self._delegated(token)
                if delegated.holder != proven.agent:
                    refuse("the delegation belongs to another agent")
                return _delegate(delegated, f"trace+{proven.method}", digest, "correlated")
        return Principal(
            subject=f"svc:{proven.agent}",
            actors=(f"agent:{proven.agent}",),
            tenant=self._agents[proven.agent].tenant or self._tenant,
            workflow=workflow_id("svc", proven.agent, new_id(self._clock())),
            ends=now + SERVICE_SECONDS,
            method=proven.method,
            credential=proven.credential,
            assurance=proven.assurance,
            issued=now,
        )

    def _bare(self, credential: str) -> Principal:
        """A delegation token alone: good for agents whose settings say so."""
        delegated, digest = self._delegated(credential)
        if delegated.jkt:
            refuse_proof("the delegation is bound to a key, and nobody proved to hold it")
        if not self._agents[delegated.holder].auth.bearer_ok:
            refuse("this agent must show a credential of its own beside the delegation")
        return _delegate(delegated, "delegation", digest, "bearer")

    def _delegated(self, credential: str) -> tuple[Delegated, str]:
        """A delegation token that may be used here, by whomever it belongs to; and its SHA-256 (hex)."""
        digest = _sha256(credential)
        delegated = self._delegations.known(digest) or self._delegations.verify(credential)
        if delegated.tenant not in self._tenants:
            refuse("the delegation is for another tenant")
        if any(actor.removeprefix("agent:") not in self._agents for actor in delegated.chain):
            refuse("an agent of the chain is not registered any more")
        return delegated, digest


def _person(access: Access, digest: str, held: Proven | None, *, bound: bool = False) -> Principal:
    """A person's access token, in the person's own hands or in those of a registered agent."""
    if access.jkt and not bound:
        refuse_proof("token is bound to a key, and nobody proved to hold it")
    if held is not None and access.actors != (f"agent:{held.agent}",):
        refuse("an agent's certificate beside a token that was not issued to it")
    return Principal(
        subject=access.subject,
        actors=access.actors,
        tenant=access.tenant,
        workflow=access.workflow,
        ends=access.ends,
        method="dpop" if bound else "bearer",
        credential=digest,
        groups=access.groups,
        jti=access.jti,
        assurance="pop" if bound else "bearer",
        issued=access.issued,
        acr=access.acr,
        auth_time=access.auth_time,
    )


def _delegate(delegated: Delegated, method: str, digest: str, assurance: Assurance) -> Principal:
    """The agent that holds a delegation, with what the delegation says; `assurance` is of this hop alone."""
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
        assurance=weaker(delegated.assurance, assurance),
        scope=delegated.scope,
        issued=delegated.issued,
        acr=delegated.acr,
        auth_time=delegated.auth_time,
        grant=delegated.grant,
        definition=delegated.definition,
    )


def _tenants(own: str, issuers: Iterable[Issuer], agents: Iterable[Agent]) -> frozenset[str]:
    """Every tenant in which somebody can begin a workflow here."""
    found = {own} | {agent.tenant for agent in agents if agent.tenant is not None}
    for issuer in issuers:
        found |= set(issuer.tenants.values()) | ({issuer.tenant} if issuer.tenant is not None else set())
    return frozenset(found)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _only(arrival: Arrival, name: str) -> str | None:
    """The only value of a header; a second one, even an equal one, is refused."""
    values = arrival.every(name)
    if len(values) > 1:
        refuse(f"header {name} stands twice")
    return values[0] if values else None
