"""The token endpoint's rules (RFC 8693, RFC 6749): an agent trades what it holds for a delegation token that says no more.

Four ways: a person's token begins a workflow; an agent's own delegation is renewed; a parent hands on to a part of itself; a
standing grant stands for a person who is away.  What is issued is on record before it leaves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, Protocol

from msgspec.structs import replace as changed

from gateway import scope as scopes
from gateway.identity.access import Access, workflow_id
from gateway.identity.clients import METHODS, MUTUAL_TLS, Client, Clients, invalid
from gateway.identity.delegation import DELEGATION_TYPE, MAX_CHAIN, MAX_GROUPS, Delegated, Delegations
from gateway.identity.handing_on import question, refusal
from gateway.identity.oauth_error import OAuthError
from gateway.identity.standing import RUN_SECONDS, Standing
from gateway.identity.token import Unverified, is_compact, read, refuse
from gateway.model import Arrival, Clock, Principal, Refused, new_id, weaker
from gateway.reasons import Code
from policies import names
from policies.model import AccessRequest, Decision

if TYPE_CHECKING:
    from gateway.settings import Agent

TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
CLIENT_CREDENTIALS: Final = "client_credentials"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"
JWT: Final = "urn:ietf:params:oauth:token-type:jwt"

_DEFINITION: Final = "workflow_definition"

Way = Literal["start", "renew", "child", "grant"]
Judge = Callable[[Principal, AccessRequest], Decision]
Alive = Callable[[Principal], None]
Keep = Callable[[Access, str], Awaitable[None]]
Form = Mapping[str, str]
Define = Callable[[str, str], str | None]
"""Tenant, and what a request says of the workflow that it begins: the name of its definition; None for one that is not known."""


class People(Protocol):
    """Who verifies people's tokens."""

    async def verify(self, token: Unverified, now: int) -> Access:
        """A signed one."""

    async def opaque(self, text: str, now: int) -> Access:
        """One that only its issuer can read."""

    def tenants_of(self, alias: str) -> frozenset[str]:
        """Every tenant that a person of that issuer can be of; none where the settings have no such issuer."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A token that is about to leave, and why it may.

    principal  whose it is, as whom its holder asked; for a child, the parent.
    token      a secret, so never shown.
    """

    way: Way
    client: Client
    principal: Principal
    token: str
    said: Delegated
    request: AccessRequest | None = None
    decision: Decision | None = None

    def __repr__(self) -> str:
        return f"Issued({self.way}, {self.said.jti})"

    def answer(self, now: int, kind: str) -> dict[str, str | int]:
        """As RFC 8693 §2.2.1 wants it; with a standing grant, as RFC 6749 §5.1 does."""
        said = self.said
        answer: dict[str, str | int] = {
            "access_token": self.token,
            "token_type": "DPoP" if said.jkt else "Bearer",
            "expires_in": said.expires - now,
            "scope": scopes.written(said.scope),
        }
        return answer if self.way == "grant" else answer | {"issued_token_type": kind}


@dataclass(frozen=True, slots=True)
class Parts:
    """What an exchange is made of.

    `alive` raises `Refused(REVOKED)`; `keep` holds a person's token for later exchanges; `mutual_tls`: whether a terminator hands
    certificates on.
    """

    public_url: str
    agents: Mapping[str, Agent]
    clients: Clients
    people: People
    delegations: Delegations
    standing: Standing
    alive: Alive
    clock: Clock
    keep: Keep | None = None
    mutual_tls: bool = False


def by_name(_tenant: str, said: str) -> str | None:
    """For where nobody knows which definitions there are: whatever can be a name."""
    return said if names.SLUG.fullmatch(said) else ""


class Exchange:
    """Issues delegation tokens to agents."""

    def __init__(self, parts: Parts) -> None:
        self.standing = parts.standing
        self.methods = (*METHODS, MUTUAL_TLS) if parts.mutual_tls else METHODS
        """How agents may prove themselves here, as RFC 8414 names it."""
        self._parts = parts
        self._delegations = parts.delegations

    async def issue(self, arrival: Arrival, form: Form, judge: Judge, define: Define = by_name) -> Issued:
        """What is issued, not yet recorded; `OAuthError` or `Refused` otherwise."""
        now = self._parts.clock() // 1_000_000
        grant_type = form.get("grant_type")
        if grant_type is None:
            raise OAuthError("invalid_request", "grant_type is missing")
        if grant_type not in (TOKEN_EXCHANGE, CLIENT_CREDENTIALS):
            raise OAuthError("unsupported_grant_type", f"{TOKEN_EXCHANGE} or {CLIENT_CREDENTIALS}")
        client = await self._parts.clients.proven(arrival, form, now)
        try:
            return await self._issued_to(arrival, form, client, judge, define)
        except OAuthError as error:
            refusal = error.refusal or Refused(Code.MALFORMED, error.error)
            refusal.detail = f"to agent:{client.agent}: {refusal.detail}"  # for the ledger: it has proven itself
            error.refusal = refusal
            raise

    async def _issued_to(self, arrival: Arrival, form: Form, client: Client, judge: Judge, define: Define) -> Issued:
        """To an agent that has proven itself."""
        wanted = _scope(form)
        self._check_target(form)
        if form["grant_type"] == CLIENT_CREDENTIALS:
            return await self._by_grant(arrival, form, client, wanted, define)
        text, kind = form.get("subject_token", ""), form.get("subject_token_type", "")
        if not text or kind not in (ACCESS_TOKEN, JWT) or form.get("requested_token_type", JWT) not in (ACCESS_TOKEN, JWT):
            raise OAuthError("invalid_request", f"subject_token, of type {ACCESS_TOKEN} or {JWT}, for one of these")
        with invalid("subject_token"):
            token = read(text) if is_compact(text) else None
        if token is None or token.typ != DELEGATION_TYPE:
            if "actor_token" in form or kind != ACCESS_TOKEN:
                raise OAuthError("invalid_request", "a workflow begins with an access_token, and without an actor_token")
            return await self._start(arrival, form, client, token or text, wanted, define)
        with invalid("subject_token"):
            held = self._held(token, client)
        if "actor_token" in form or "actor_token_type" in form:
            return await self._child(arrival, form, (client, held), wanted, judge)
        return await self._renew(arrival, client, held, wanted)

    # --- a workflow begins

    async def _start(  # noqa: PLR0917  what a start is made of
        self,
        arrival: Arrival,
        form: Form,
        client: Client,
        token: Unverified | str,
        wanted: tuple[str, ...] | None,
        define: Define,
    ) -> Issued:
        now = self._parts.clock() // 1_000_000
        with invalid("subject_token"):
            people = self._parts.people
            access = await (people.opaque(token, now) if isinstance(token, str) else people.verify(token, now))
            claims = {} if isinstance(token, str) else token.unverified_claims  # verified by now
            if access.actors != (f"agent:{client.agent}",) and (access.actors or not self._may_act(claims, access, client.agent)):
                refuse("the token was issued to another client, and may_act does not name this one")
            if access.only_at:
                refuse("the token is for one address of this gateway alone")
            if access.jkt and access.jkt != client.jkt:
                refuse("the token is bound to another key than the proof's")
            principal = Principal(
                subject=access.subject,
                actors=(),
                tenant=access.tenant,
                workflow=workflow_id("exchange", client.agent, new_id(self._parts.clock())),  # each exchange begins its own
                ends=access.ends,
                method=f"bearer+{client.method}",
                credential=client.credential,
                groups=access.groups,
                jti=access.jti,
                assurance=weaker("pop" if access.jkt else "bearer", client.assurance),
                path=(access.workflow,),  # the token's own: a kill of it, or of the token, ends what began with it
                issued=access.issued,
                acr=access.acr,
                auth_time=access.auth_time,
                definition=_definition(form, access.tenant, define),
            )
            self._check_alive(principal, client.agent)
        issued = self._mint("start", arrival, client, principal, wanted)
        if self._parts.keep is not None:
            text = token if isinstance(token, str) else token.text
            await self._parts.keep(replace(access, workflow=principal.workflow), text)
        return issued

    def _may_act(self, claims: Mapping[str, object], access: Access, agent: str) -> bool:
        """RFC 8693 §4.4, for a token in the person's own hands: the issuer says that this agent may act for them."""
        named = claims.get("may_act")
        if not isinstance(named, dict) or not named or not named.keys() <= {"sub", "client_id"}:
            return False
        clients = self._parts.agents[agent].client_ids
        own = clients.get(access.issuer, ()) if isinstance(clients, dict) else clients
        return named.get("sub", f"agent:{agent}") == f"agent:{agent}" and ("client_id" not in named or named["client_id"] in own)

    # --- an agent goes on

    def _held(self, token: Unverified, client: Client) -> Delegated:
        """The client's own delegation."""
        held = self._delegations.verify(token)
        if held.holder != client.agent:
            refuse("the delegation belongs to another agent")
        if held.jkt and held.jkt != client.jkt:
            refuse("the delegation is bound to another key than the proof's")
        if any(actor.removeprefix("agent:") not in self._parts.agents for actor in held.chain):
            refuse("an agent of the chain is not registered any more")
        self._check_issuer(held.subject, held.tenant)
        return held

    def _check_issuer(self, subject: str, tenant: str) -> None:
        """The settings may have changed since, while people's rights are those of one tenant."""
        kind, _, name = subject.partition(":")
        if kind == "user" and tenant not in self._parts.people.tenants_of(name.partition("/")[0]):
            refuse("the person's issuer is not trusted any more, or for another tenant")

    async def _renew(self, arrival: Arrival, client: Client, held: Delegated, wanted: tuple[str, ...] | None) -> Issued:
        with invalid("subject_token"):
            principal = await self._present(held, client)
            token = self._delegations.renew(held, principal, arrival.id, most=wanted, jkt=client.jkt)
        return self._issued("renew", client, principal, token, wanted)

    async def _present(self, held: Delegated, client: Client) -> Principal:
        """Whom the delegation stands for, as they are now: alive, with the groups of now."""
        principal = _principal(held, client)
        self._parts.alive(principal)
        if held.grant:
            grant = await self._parts.standing.live(held.grant)
            if (grant.tenant, grant.subject) != (held.tenant, held.subject):
                refuse("the standing grant is another person's")
        groups = await self._parts.standing.groups(held.subject)
        if groups is None:
            if held.grant:
                refuse("nobody can tell whether the person's account still stands")
            return principal
        return changed(principal, groups=groups)

    async def _child(
        self,
        arrival: Arrival,
        form: Form,
        parent: tuple[Client, Delegated],
        wanted: tuple[str, ...] | None,
        judge: Judge,
    ) -> Issued:
        """The parent's delegation, handed on to an agent that shows that it is there, where policy lets it."""
        client, held = parent
        if form.get("actor_token_type") != JWT or not form.get("actor_token"):
            raise OAuthError("invalid_request", f"actor_token is the other agent's assertion, of type {JWT}")
        with invalid("subject_token"):
            principal = await self._present(held, client)
        with invalid("actor_token"):
            child = await self._parts.clients.by_assertion(form["actor_token"])
            self._check_alive(principal, child)
        request = question(principal, child, arrival.at)
        decision = judge(principal, request)
        refused = refusal(principal, request, decision)
        if refused is not None:
            refused.principal, refused.request, refused.decision = principal, request, decision
            raise refused
        issued = self._mint("child", arrival, client, principal, wanted, child=child, left=held.left - 1)
        return replace(issued, request=request, decision=decision)

    # --- a person is away

    async def _by_grant(
        self, arrival: Arrival, form: Form, client: Client, wanted: tuple[str, ...] | None, define: Define
    ) -> Issued:
        name = form.get("standing_grant", "")
        if not name:
            message = "client_credentials needs a standing_grant; in its own name an agent shows its credential at every call"
            raise OAuthError("unauthorized_client", message)
        standing, at = self._parts.standing, self._parts.clock()
        with invalid("standing_grant", "invalid_grant"):
            grant = await standing.used(name, client.agent, form.get(_DEFINITION, ""))
            self._check_issuer(grant.subject, grant.tenant)
            principal = Principal(
                subject=grant.subject,
                actors=(),
                tenant=grant.tenant,
                workflow=workflow_id("grant", grant.id, new_id(at)),
                ends=min(at // 1_000_000 + RUN_SECONDS, grant.ends),
                method=f"grant+{client.method}",
                credential=client.credential,
                assurance=weaker("bearer", client.assurance),
                scope=None if grant.scope == scopes.EVERYTHING else scopes.parse(grant.scope),
                issued=grant.created_at,
                grant=grant.id,
                definition=_definition(form, grant.tenant, define),
            )
            self._check_alive(principal, client.agent)
            groups = await standing.groups(grant.subject)
            if groups is None:
                refuse("nobody can tell whether the person's account still stands")
        return self._mint("grant", arrival, client, changed(principal, groups=groups), wanted)

    # --- what all have in common

    def _mint(
        self,
        way: Way,
        arrival: Arrival,
        client: Client,
        principal: Principal,
        wanted: tuple[str, ...] | None,
        *,
        child: str = "",
        left: int = MAX_CHAIN,
    ) -> Issued:
        agent = child or client.agent
        most = min(self._parts.agents[agent].max_chain_groups, MAX_GROUPS)
        jkt = "" if child else client.jkt  # the proof was the parent's
        with invalid("what was shown"):
            token = self._delegations.mint(principal, agent, arrival.id, most, most=wanted, jkt=jkt, left=left)
        return self._issued(way, client, principal, token, wanted)

    def _issued(self, way: Way, client: Client, principal: Principal, token: str, wanted: tuple[str, ...] | None) -> Issued:
        said = self._delegations.verify(token)
        if said.scope == () and wanted != ():
            raise OAuthError("invalid_scope", "nothing of that scope may be had")
        return Issued(way, client, principal, token, said)

    def _check_alive(self, principal: Principal, agent: str) -> None:
        """Of the principal and of the agent that is to go on."""
        self._parts.alive(changed(principal, actors=(*principal.actors, f"agent:{agent}")))

    def _check_target(self, form: Form) -> None:
        """The token is for this gateway alone; routes of it are no other target (RFC 8707)."""
        url = self._parts.public_url
        for name in ("resource", "audience"):
            target = form.get(name, url)
            if target.rstrip("/") != url and not (name == "resource" and target.startswith(f"{url}/")):
                raise OAuthError("invalid_target", "tokens of this gateway are for this gateway")


def _principal(held: Delegated, client: Client) -> Principal:
    return Principal(
        subject=held.subject,
        actors=held.chain,
        tenant=held.tenant,
        workflow=held.workflow,
        ends=held.ends,
        method=f"delegation+{client.method}",
        credential=client.credential,
        groups=held.groups,
        jti=held.jti,
        path=held.path,
        caused_by=held.call,
        assurance=weaker(held.assurance, client.assurance),
        scope=held.scope,
        issued=held.issued,
        acr=held.acr,
        auth_time=held.auth_time,
        grant=held.grant,
        definition=held.definition,
    )


def _definition(form: Form, tenant: str, define: Define) -> str:
    """The name of the definition by which a workflow is begun, "" where none is named."""
    said = form.get(_DEFINITION, "")
    name = define(tenant, said) if said else ""
    if name is None:
        raise OAuthError("invalid_request", "policy knows no such workflow definition", Refused(Code.WORKFLOW_UNKNOWN, said[:64]))
    return name


def _scope(form: Form) -> tuple[str, ...] | None:
    """What is asked for, None where nothing is said: as much as may be had."""
    if "scope" not in form:
        return None
    try:
        scope = scopes.parse(form["scope"])
    except ValueError as error:
        raise OAuthError("invalid_scope", str(error)) from None
    if not scope:
        raise OAuthError("invalid_scope", "an empty scope is none")
    return scope
