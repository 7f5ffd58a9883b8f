"""The gateway's own tokens: for whom, and through whom, an agent acts.  A child never says more than its parent.

Minted when an agent-to-agent call is let through, and by the token endpoint.  Person, workflow, end and the moment at which the
authority was given never change; the chain only grows; depth, scope and assurance only shrink.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, get_args

from cryptography.hazmat.primitives.asymmetric import ec

from gateway import scope as scopes
from gateway.identity.signing import KeyRing
from gateway.identity.token import MAX_CHARS, Rule, Unverified, VerifiedCache, moment, read, refuse, text, texts, verify
from gateway.model import Assurance, Clock, Principal, Refused, new_id, wall_clock, weaker
from gateway.problem import Problem, ProblemError
from gateway.reasons import Code
from policies import names

if TYPE_CHECKING:
    from gateway.settings import Agent

DELEGATION_TYPE = "wf-dt+jwt"
LEEWAY_SECONDS = 2
LONGEST_SECONDS = 300
MAX_GROUPS = 500
MAX_CHAIN = 16
MAX_SUBJECT = 400

_CLAIMS: Final = frozenset(
    {"iss", "aud", "sub", "groups", "tenant", "wf", "jti", "path", "chain", "act", "left", "cnf", "call", "iat", "exp", "ends"}
    | {"scope", "start", "assurance", "acr", "grant"}
)
_DEFINITION: Final = "wfd"
"""Claim of workflows that were begun by a definition's name, and of no others."""
_AUTH_TIME: Final = "auth_time"
"""Claim of what a person began whose issuer said when they last proved who they are, and of nothing else."""
_ASSURANCES: Final[Mapping[str, Assurance]] = {word: word for word in get_args(Assurance)}
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")  # RFC 7638, SHA-256
_GRANT = re.compile(r"[0-9a-f-]{36}")
_SUBJECT = re.compile(r"(?:user:[a-z0-9-]{1,63}/.+|svc:[a-z0-9-]{1,63})")
_AGENT = re.compile(r"agent:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_WORKFLOW = re.compile(r"wf-[0-9a-f]{26}")


@dataclass(frozen=True, slots=True)
class Delegated:
    """What a verified delegation token says.

    chain    `agent:<id>`, origin first; the last one holds the token.
    jti      of this branch of the workflow: a renewed token keeps it, so that a kill of it is a kill of what it became.
    path     jti of every branch from the workflow's start; the last one is this token's own.  Where the token endpoint began the
             workflow, the one that the person's token is stands before them.
    left     how many more agents the chain may take.
    call     id of the call for which it was minted.
    expires, ends   epoch seconds: of this token, and of everything in this person's name.
    scope, issued, assurance, acr, auth_time, grant, definition   as in `Principal`.
    jkt      RFC 7638 thumbprint of the key that must be shown beside it (RFC 9449), "" where none must.
    """

    subject: str
    groups: frozenset[str]
    tenant: str
    workflow: str
    jti: str
    path: tuple[str, ...]
    chain: tuple[str, ...]
    left: int
    call: str
    expires: int
    ends: int
    scope: tuple[str, ...] | None
    issued: int
    assurance: Assurance
    acr: str
    grant: str
    jkt: str
    definition: str = ""
    auth_time: int = 0

    @property
    def holder(self) -> str:
        """Id of the agent that may present the token."""
        return self.chain[-1].removeprefix("agent:")


@dataclass(frozen=True, slots=True)
class Terms:
    """What the settings say of one agent: the most that a workflow through it may touch, and how long its tokens last."""

    scope: tuple[str, ...] | None = None
    seconds: int = LONGEST_SECONDS


_ANY: Final = Terms()


def terms_of(agents: Mapping[str, Agent], bearer_seconds: int) -> dict[str, Terms]:
    """The terms of every registered agent; ProblemError for a scope that no rule could be written with."""
    terms: dict[str, Terms] = {}
    for name, agent in agents.items():
        for item in agent.scope:
            try:
                scopes.check(item)
            except ValueError as error:
                raise ProblemError(Problem("bad-scope", f"{item[:80]!r}: {error}", f"agents.{name}.scope")) from None
        seconds = bearer_seconds if agent.auth.bearer_ok else LONGEST_SECONDS
        terms[name] = Terms(scopes.narrowed(agent.scope), seconds)
    return terms


class Delegations:
    """Mints and verifies delegation tokens with one ES256 key.  Whoever mints, an agent gets no more than its own terms."""

    def __init__(
        self,
        key: ec.EllipticCurvePrivateKey | KeyRing,
        issuer: str,
        lifetime: int = LONGEST_SECONDS,
        max_depth: int = 5,
        clock: Clock = wall_clock,
        *,
        terms: Mapping[str, Terms] = MappingProxyType({}),
    ) -> None:
        """`issuer` is the gateway's public URL, also the only audience; `lifetime` in seconds; `max_depth` agents in a chain;
        `terms` by the agent's id.
        """
        self._terms = terms
        self.ring = key if isinstance(key, KeyRing) else KeyRing.of(key)
        self._issuer = issuer
        self._lifetime = min(lifetime, LONGEST_SECONDS)
        self._max_depth = min(max_depth, MAX_CHAIN)
        self._clock = clock
        self._rule = Rule(
            frozenset({DELEGATION_TYPE}), frozenset({"ES256"}), issuer, issuer, LEEWAY_SECONDS, LONGEST_SECONDS, True
        )
        self._cache: VerifiedCache[Delegated] = VerifiedCache()

    def mint(
        self,
        principal: Principal,
        agent: str,
        call_id: str,
        max_groups: int = MAX_GROUPS,
        *,
        most: Iterable[str] | None = None,
        lifetime: int | None = None,
        jkt: str = "",
        left: int = MAX_CHAIN,
    ) -> str:
        """The token by which `agent` goes on for this principal; `call_id` is the call that hands it over.

        Its scope is the principal's, the agent's own and `most`, all three; `lifetime` (seconds) and `left` can only shorten;
        `jkt` binds the token to a key.

        Refused(DELEGATION_LOOP) when the agent stands in the chain, DELEGATION_TOO_DEEP when the chain is full, TOO_LARGE when
        the person has more than `max_groups` groups or the token would not fit a header (groups are never dropped: a deny rule
        may name one), INVALID_CREDENTIAL when the person's time is over.
        """
        actor = f"agent:{agent}"
        chain = (*principal.actors, actor)
        if actor in principal.actors:
            raise Refused(Code.DELEGATION_LOOP, f"{actor} stands in the chain already")
        if len(chain) > self._max_depth or left < 0:
            raise Refused(Code.DELEGATION_TOO_DEEP, f"a chain has at most {self._max_depth} agents")
        if len(principal.groups) > min(max_groups, MAX_GROUPS):
            raise Refused(Code.TOO_LARGE, "the person has more groups than the token may carry")
        jti = new_id(self._clock())
        claims = self._claims(principal, principal.scope, agent, most, lifetime) | {
            "jti": jti,
            "path": [*principal.path, jti],
            "chain": list(chain),
            "act": _act(chain),
            "left": min(self._max_depth - len(chain), left),
            "cnf": _cnf(agent, jkt),
            "call": call_id,
        }
        return self._signed(claims)

    def renew(
        self,
        token: Delegated,
        principal: Principal,
        call_id: str,
        *,
        most: Iterable[str] | None = None,
        lifetime: int | None = None,
        jkt: str = "",
    ) -> str:
        """The same branch with a fresh `exp`: the token's holder goes on, with the groups that `principal` has now.

        The principal is the one that the token made, so everything but its groups, scope and assurance is taken from the token,
        and these two can only have shrunk.  Refused as by `mint`.
        """
        if len(token.chain) > self._max_depth:
            raise Refused(Code.DELEGATION_TOO_DEEP, f"a chain has at most {self._max_depth} agents")
        if len(principal.groups) > MAX_GROUPS:
            raise Refused(Code.TOO_LARGE, "the person has more groups than the token may carry")
        if token.jkt and jkt != token.jkt:
            refuse("the delegation is bound to another key")
        said = _principal_of(token, principal)
        claims = self._claims(said, scopes.narrowed(token.scope, principal.scope), token.holder, most, lifetime) | {
            "jti": token.jti,
            "path": list(token.path),
            "chain": list(token.chain),
            "act": _act(token.chain),
            "left": min(token.left, self._max_depth - len(token.chain)),
            "cnf": _cnf(token.holder, jkt),
            "call": call_id,
        }
        return self._signed(claims)

    def _claims(
        self,
        principal: Principal,
        scope: tuple[str, ...] | None,
        agent: str,
        most: Iterable[str] | None,
        lifetime: int | None,
    ) -> dict[str, object]:
        """What does not follow from the chain."""
        terms, now = self._terms.get(agent, _ANY), self._clock() // 1_000_000
        scope = scopes.narrowed(scope, terms.scope, most)
        seconds = min(self._lifetime, terms.seconds, self._lifetime if lifetime is None else lifetime)
        expires = min(now + seconds, principal.ends)
        if expires <= now:
            refuse("the person's time is over")
        if scope is not None and len(scope) > scopes.MOST:
            raise Refused(Code.TOO_LARGE, "the scope has more items than the token may carry")
        return {
            "iss": self._issuer,
            "aud": self._issuer,
            "sub": principal.subject,
            "groups": sorted(principal.groups),
            "tenant": principal.tenant,
            "wf": principal.workflow,
            "iat": now,
            "exp": expires,
            "ends": principal.ends,
            "scope": scopes.written(scope),
            "start": min(principal.issued or now, now),  # an issuer's clock may be ahead of ours
            "assurance": principal.assurance,
            "acr": principal.acr,
            "grant": principal.grant,
            **({_DEFINITION: principal.definition} if principal.definition else {}),
            **({_AUTH_TIME: principal.auth_time} if principal.auth_time else {}),
        }

    def _signed(self, claims: Mapping[str, object]) -> str:
        token = self.ring.sign(DELEGATION_TYPE, claims)
        if len(token) > MAX_CHARS:
            raise Refused(Code.TOO_LARGE, "the delegation token would not fit a header")
        return token

    def known(self, digest: str) -> Delegated | None:
        """What a token said that was verified within the last minute; `digest` is the SHA-256 (hex) of its text."""
        cached = self._cache.get(digest, self._clock() // 1_000_000)
        if cached is None or self.ring.public(cached[1].kid) is not cached[1]:
            return None
        return cached[0]

    def verify(self, token: str | Unverified) -> Delegated:
        """What the token says, or `Refused(INVALID_CREDENTIAL)`.  Who may present it is checked by the caller: `holder`."""
        parsed = read(token) if isinstance(token, str) else token
        now = self._clock() // 1_000_000
        key = self.ring.public(parsed.kid)
        if key is None:
            refuse("kid is not one of the gateway's keys")
        claims = verify(parsed, key, self._rule, now)
        if claims.keys() - {_DEFINITION, _AUTH_TIME} != _CLAIMS:
            refuse("not the claims of a delegation token")
        delegated = _delegated(claims)
        if delegated.ends <= now:
            refuse("the person's time is over")
        self._cache.put(parsed.digest, delegated, key, now, delegated.expires)
        return delegated


def _principal_of(token: Delegated, principal: Principal) -> Principal:
    """What is renewed: the token's own facts, with the groups of now and the weaker assurance."""
    return Principal(
        subject=token.subject,
        actors=token.chain,
        tenant=token.tenant,
        workflow=token.workflow,
        ends=min(token.ends, principal.ends),
        method=principal.method,
        credential=principal.credential,
        groups=principal.groups,
        assurance=weaker(token.assurance, principal.assurance),
        issued=token.issued,
        acr=token.acr,
        auth_time=token.auth_time,
        grant=token.grant,
        definition=token.definition,
    )


def _cnf(agent: str, jkt: str) -> dict[str, object]:
    """Who may present it, and with which key (RFC 7800, RFC 9449 §6.1)."""
    return {"agent": agent, "jkt": jkt} if jkt else {"agent": agent}


def _act(chain: tuple[str, ...]) -> dict[str, object]:
    """The chain as RFC 8693 §4.1 nests it, most recent actor outermost: for readers; decisions use `chain`."""
    act: dict[str, object] = {}
    for actor in chain:
        act = {"sub": actor, "act": act} if act else {"sub": actor}
    return act


def _delegated(claims: Mapping[str, object]) -> Delegated:
    """Every invariant once more, although the signature is ours: an old key or an older release must not widen anything."""
    chain, path = texts(claims, "chain", MAX_CHAIN), texts(claims, "path", MAX_CHAIN + 1)
    left, jti = claims["left"], text(claims, "jti")
    if not chain or len(set(chain)) != len(chain) or not all(_AGENT.fullmatch(actor) for actor in chain):
        refuse("chain is not a list of different agents")
    if not 1 <= len(path) <= len(chain) + 1 or len(set(path)) != len(path) or path[-1] != jti:
        refuse("path does not end with this token")
    if type(left) is not int or not 0 <= left <= MAX_CHAIN - len(chain):
        refuse("left is no number of agents")
    if claims["act"] != _act(chain):
        refuse("act does not nest the chain")
    subject, workflow = text(claims, "sub", MAX_SUBJECT), text(claims, "wf")
    if not _SUBJECT.fullmatch(subject) or not _WORKFLOW.fullmatch(workflow):
        refuse("sub or wf has another form")
    expires, ends, issued = moment(claims, "exp"), moment(claims, "ends"), moment(claims, "start")
    if expires > ends or issued > moment(claims, "iat") + LEEWAY_SECONDS:
        refuse("exp lies after ends, or start after iat")
    assurance, grant = _ASSURANCES.get(text(claims, "assurance")), claims["grant"]
    if assurance is None:
        refuse("assurance is none of the known")
    if not isinstance(grant, str) or (grant and not _GRANT.fullmatch(grant)):
        refuse("grant is no id")
    return Delegated(
        subject=subject,
        groups=frozenset(texts(claims, "groups", MAX_GROUPS)),
        tenant=text(claims, "tenant", 63),
        workflow=workflow,
        jti=jti,
        path=path,
        chain=chain,
        left=left,
        call=text(claims, "call"),
        expires=expires,
        ends=ends,
        scope=_scope(claims["scope"]),
        issued=issued,
        assurance=assurance,
        acr=text(claims, "acr") if claims["acr"] != "" else "",
        auth_time=moment(claims, _AUTH_TIME) if _AUTH_TIME in claims else 0,
        grant=grant,
        jkt=_thumbprint(claims["cnf"], chain[-1]),
        definition=_named(claims),
    )


def _named(claims: Mapping[str, object]) -> str:
    """The definition by whose name the workflow was begun."""
    if _DEFINITION not in claims:
        return ""
    name = text(claims, _DEFINITION, 63)
    if not names.SLUG.fullmatch(name):
        refuse("wfd is no name of a definition")
    return name


def _scope(value: object) -> tuple[str, ...] | None:
    """None for `*`, which is no bound; anything but canonical text is refused."""
    if value == scopes.EVERYTHING:
        return None
    if not isinstance(value, str):
        refuse("scope is no text")
    try:
        scope = scopes.parse(value)
    except ValueError:
        refuse("scope names what is no object and no pattern")
    if scopes.written(scopes.narrowed(scope)) != value:
        refuse("scope is not written as the gateway writes it")
    return scope


def _thumbprint(cnf: object, actor: str) -> str:
    """The key of `cnf`, which must name the last agent of the chain and nothing unknown."""
    agent = actor.removeprefix("agent:")
    if cnf == {"agent": agent}:
        return ""
    jkt = cnf.get("jkt") if isinstance(cnf, dict) else None
    if not isinstance(jkt, str) or not _THUMBPRINT.fullmatch(jkt) or cnf != {"agent": agent, "jkt": jkt}:
        refuse("cnf is not the last agent of the chain")
    return jkt
