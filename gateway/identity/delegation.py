"""The gateway's own tokens: for whom, and through whom, an agent acts.  A child never says more than its parent.

Minted only when an agent-to-agent call is let through.  Person, workflow and end never change; the chain only grows; the depth
that is left only shrinks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from gateway.identity.signing import KeyRing
from gateway.identity.token import MAX_CHARS, Rule, Unverified, VerifiedCache, moment, read, refuse, text, texts, verify
from gateway.model import Clock, Principal, Refused, new_id, wall_clock
from gateway.reasons import Code

DELEGATION_TYPE = "wf-dt+jwt"
LEEWAY_SECONDS = 2
LONGEST_SECONDS = 300
MAX_GROUPS = 500
MAX_CHAIN = 16
MAX_SUBJECT = 400

_CLAIMS = frozenset(
    {"iss", "aud", "sub", "groups", "tenant", "wf", "jti", "path", "chain", "act", "left", "cnf", "call", "iat", "exp", "ends"}
)
_SUBJECT = re.compile(r"(?:user:[a-z0-9-]{1,63}/.+|svc:[a-z0-9-]{1,63})")
_AGENT = re.compile(r"agent:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_WORKFLOW = re.compile(r"wf-[0-9a-f]{26}")


@dataclass(frozen=True, slots=True)
class Delegated:
    """What a verified delegation token says.

    chain    `agent:<id>`, origin first; the last one holds the token.
    path     jti of every token from the workflow's start; the last one is this token's own.
    left     how many more agents the chain may take.
    call     id of the call for which it was minted.
    expires, ends   epoch seconds: of this token, and of everything in this person's name.
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

    @property
    def holder(self) -> str:
        """Id of the agent that may present the token."""
        return self.chain[-1].removeprefix("agent:")


class Delegations:
    """Mints and verifies delegation tokens with one ES256 key."""

    def __init__(
        self,
        key: ec.EllipticCurvePrivateKey | KeyRing,
        issuer: str,
        lifetime: int = LONGEST_SECONDS,
        max_depth: int = 5,
        clock: Clock = wall_clock,
    ) -> None:
        """`issuer` is the gateway's public URL, also the only audience; `lifetime` in seconds; `max_depth` agents in a chain."""
        self.ring = key if isinstance(key, KeyRing) else KeyRing.of(key)
        self._issuer = issuer
        self._lifetime = min(lifetime, LONGEST_SECONDS)
        self._max_depth = min(max_depth, MAX_CHAIN)
        self._clock = clock
        self._rule = Rule(
            frozenset({DELEGATION_TYPE}), frozenset({"ES256"}), issuer, issuer, LEEWAY_SECONDS, LONGEST_SECONDS, True
        )
        self._cache: VerifiedCache[Delegated] = VerifiedCache()

    def mint(self, principal: Principal, agent: str, call_id: str, max_groups: int = MAX_GROUPS) -> str:
        """The token by which `agent` goes on for this principal; `call_id` is the call that hands it over.

        Refused(DELEGATION_LOOP) when the agent stands in the chain, DELEGATION_TOO_DEEP when the chain is full, TOO_LARGE when
        the person has more than `max_groups` groups or the token would not fit a header (groups are never dropped: a deny rule
        may name one), INVALID_CREDENTIAL when the person's time is over.
        """
        at = self._clock()
        now = at // 1_000_000
        actor = f"agent:{agent}"
        chain = (*principal.actors, actor)
        if actor in principal.actors:
            raise Refused(Code.DELEGATION_LOOP, f"{actor} stands in the chain already")
        if len(chain) > self._max_depth:
            raise Refused(Code.DELEGATION_TOO_DEEP, f"a chain has at most {self._max_depth} agents")
        if len(principal.groups) > min(max_groups, MAX_GROUPS):
            raise Refused(Code.TOO_LARGE, "the person has more groups than the token may carry")
        expires = min(now + self._lifetime, principal.ends)
        if expires <= now:
            refuse("the person's time is over")
        jti = new_id(at)
        claims: dict[str, object] = {
            "iss": self._issuer,
            "aud": self._issuer,
            "sub": principal.subject,
            "groups": sorted(principal.groups),
            "tenant": principal.tenant,
            "wf": principal.workflow,
            "jti": jti,
            "path": [*principal.path, jti],
            "chain": list(chain),
            "act": _act(chain),
            "left": self._max_depth - len(chain),
            "cnf": {"agent": agent},
            "call": call_id,
            "iat": now,
            "exp": expires,
            "ends": principal.ends,
        }
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
        if claims.keys() != _CLAIMS:
            refuse("not the claims of a delegation token")
        delegated = _delegated(claims)
        if delegated.ends <= now:
            refuse("the person's time is over")
        self._cache.put(parsed.digest, delegated, key, now, delegated.expires)
        return delegated


def _act(chain: tuple[str, ...]) -> dict[str, object]:
    """The chain as RFC 8693 §4.1 nests it, most recent actor outermost: for readers; decisions use `chain`."""
    act: dict[str, object] = {}
    for actor in chain:
        act = {"sub": actor, "act": act} if act else {"sub": actor}
    return act


def _delegated(claims: Mapping[str, object]) -> Delegated:
    """Every invariant once more, although the signature is ours: an old key or an older release must not widen anything."""
    chain, path = texts(claims, "chain", MAX_CHAIN), texts(claims, "path", MAX_CHAIN)
    left, jti = claims["left"], text(claims, "jti")
    if not chain or len(set(chain)) != len(chain) or not all(_AGENT.fullmatch(actor) for actor in chain):
        refuse("chain is not a list of different agents")
    if not 1 <= len(path) <= len(chain) or len(set(path)) != len(path) or path[-1] != jti:
        refuse("path does not end with this token")
    if type(left) is not int or not 0 <= left <= MAX_CHAIN - len(chain):
        refuse("left is no number of agents")
    if claims["cnf"] != {"agent": chain[-1].removeprefix("agent:")}:
        refuse("cnf is not the last agent of the chain")
    subject, workflow = text(claims, "sub", MAX_SUBJECT), text(claims, "wf")
    if not _SUBJECT.fullmatch(subject) or not _WORKFLOW.fullmatch(workflow):
        refuse("sub or wf has another form")
    expires, ends = moment(claims, "exp"), moment(claims, "ends")
    if expires > ends:
        refuse("exp lies after ends")
    groups = frozenset(texts(claims, "groups", MAX_GROUPS))
    tenant, call = text(claims, "tenant", 63), text(claims, "call")
    return Delegated(subject, groups, tenant, workflow, jti, path, chain, left, call, expires, ends)
