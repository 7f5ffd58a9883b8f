"""How an agent proves that it is itself: a secret of 256 random bits, an assertion signed with its key (RFC 7523), its client
certificate, its JWT-SVID.  Which one it shows follows from the form, never from trying.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gateway.identity.certificates import Certificates
from gateway.identity.dpop import Once
from gateway.identity.keys import Fetch, Key, KeySet
from gateway.identity.svid import Svids, is_svid
from gateway.identity.token import Rule, Unverified, is_compact, moment, read, refuse, text, verify
from gateway.model import Arrival, Assurance, Refused
from gateway.reasons import Code

if TYPE_CHECKING:
    from gateway.settings import Agent, Terminator, TrustDomain

AUTHORIZATION = "authorization"
SECRET_MARK = "bws_"
ASSERTION_TYPE = "client-authentication+jwt"
FORM_TYPES = frozenset({ASSERTION_TYPE, "JWT", ""})
"""What a `client_assertion` may call itself: the form says what it is, and most OAuth libraries write `JWT`, or nothing."""
LEEWAY_SECONDS = 30
LONGEST_SECONDS = 60
MAX_REMEMBERED = 65_536
"""What one scope remembers at a time; more is refused rather than forgotten."""

BEARER = re.compile(r"bearer ([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)  # RFC 6750 §2.1, RFC 9110 §11.1
_SECRET = re.compile(r"bws_([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)_[A-Za-z0-9_-]{43}")
_ALGORITHMS = frozenset({"ES256", "ES384", "EdDSA", "PS256", "RS256"})
_TYPES = frozenset({ASSERTION_TYPE})
_NOBODY = ("0" * 64,)


def new_secret(agent: str) -> tuple[str, str]:
    """A fresh secret for an agent, and its SHA-256 (hex) for the settings.  Only the agent keeps the first."""
    value = f"{SECRET_MARK}{agent}_{secrets.token_urlsafe(32)}"
    return value, hashlib.sha256(value.encode("ascii")).hexdigest()


class Remembered:
    """What was used once, as far as this process knows: for a part that is used alone.  A gateway's is `gateway.state.used`."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, int]] = {}

    async def use(self, scope: str, jti: str, until: int, now: int) -> bool:
        """Whether this was the first use; Refused(OVERLOADED) where the scope is full."""
        seen = self._seen.setdefault(scope, {})
        if jti in seen:  # also one that has ended: what is expired never comes this far
            return False
        if len(seen) >= MAX_REMEMBERED:
            for old in [name for name, end in seen.items() if end <= now]:
                del seen[old]
            if len(seen) >= MAX_REMEMBERED:
                raise Refused(Code.OVERLOADED, "too much was used once in this scope")
        seen[jti] = until
        return True


@dataclass(frozen=True, slots=True)
class Proven:
    """An agent that has proven to be itself.

    method      `secret`, `key`, `certificate` or `svid`.
    assurance   `bearer` where a text alone was enough, `pop` where it holds a key.
    credential  SHA-256 (hex) of what it showed; never the credential.
    """

    agent: str
    method: Literal["secret", "key", "certificate", "svid"]
    assurance: Assurance
    credential: str


class AgentCredentials:
    """Verifies agents' own credentials.  Assertions are good once."""

    def __init__(
        self,
        agents: Mapping[str, Agent],
        audience: str,
        fetch: Fetch | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        once: Once | None = None,
        terminator: Terminator | None = None,
        terminator_secret: str | None = None,
        direct: bool = False,
        trust_domains: Sequence[TrustDomain] = (),
    ) -> None:
        """`audience` is the gateway's public URL, the only audience of an assertion and of an SVID; `once` remembers for all
        replicas; `terminator_secret` is what its settings refer to; `direct`: whether a listener here verifies certificates.
        ProblemError for settings that could not be kept safely.
        """
        self._audience = audience
        self._digests = {agent_id: agent.auth.secret_sha256 for agent_id, agent in agents.items()}
        self._keys = {
            agent_id: KeySet(agent.auth.jwks, fetch, monotonic)
            for agent_id, agent in agents.items()
            if agent.auth.jwks is not None
        }
        self._once = once or Remembered().use
        self._certificates = Certificates(terminator, terminator_secret, agents, direct=direct)
        self._svids = Svids(trust_domains, agents, audience, fetch, monotonic)

    async def proven(self, arrival: Arrival, now: int) -> Proven | None:
        """Which agent the headers prove; None where they prove none, whatever else stands there.

        `Refused(INVALID_CREDENTIAL)` where somebody tries: for a credential of an agent's form that is not good, for a smuggled
        certificate, and where two credentials are two agents'.
        """
        held = self.by_certificate(arrival, now)
        values = arrival.every(AUTHORIZATION)
        if len(values) > 1:
            refuse("header authorization stands twice")
        form = BEARER.fullmatch(values[0]) if values else None
        shown = await self.shown(form.group(1), now) if form is not None else None
        return shown if held is None else held if shown is None else both(shown, held)

    async def shown(self, credential: str, now: int) -> Proven | None:
        """Which agent a text of `Authorization` proves; None where it has not the form of an agent's own credential."""
        if credential.startswith(SECRET_MARK):
            return Proven(self.by_secret(credential), "secret", "bearer", _sha256(credential))
        if not is_compact(credential):
            return None
        token = read(credential)
        if token.typ == ASSERTION_TYPE:
            return Proven(await self.by_key(token, now), "key", "pop", token.digest)
        if is_svid(token):
            return Proven(await self._svids.agent(token, now), "svid", "bearer", token.digest)
        return None

    def by_certificate(self, arrival: Arrival, now: int) -> Proven | None:
        """Which agent's certificate a listener verified, or the trusted terminator hands on; None where that is none's."""
        found = self._certificates.agent(arrival, now)
        return None if found is None else Proven(found[0], "certificate", "pop", found[1])

    async def holds(self, agent: str, key: Key) -> bool:
        """Whether a key is one that the agent registered, for the algorithm that it was used with."""
        keys = self._keys.get(agent)
        registered = await keys.holding(key.public) if keys is not None else None
        return registered is not None and key.algorithms <= registered.algorithms

    def by_secret(self, presented: str) -> str:
        """The id of the agent whose secret this is, or `Refused(INVALID_CREDENTIAL)`.

        Takes as long for an agent that does not exist as for a wrong secret of one that does.
        """
        form = _SECRET.fullmatch(presented)
        if form is None:
            refuse("not the form of an agent's secret")
        agent = form.group(1)
        digest = hashlib.sha256(presented.encode("ascii")).hexdigest()
        good = False
        for expected in self._digests.get(agent) or _NOBODY:
            good |= hmac.compare_digest(digest, expected)
        if not good:
            refuse("not the secret of a registered agent")
        return agent

    async def by_key(self, token: Unverified, now: int, types: frozenset[str] = _TYPES) -> str:
        """The id of the agent that signed this assertion for us just now, or `Refused(INVALID_CREDENTIAL)`.

        RFC 7523 §3: iss and sub are the agent's id, aud is our URL alone, exp at most 60 seconds after iat, jti never seen
        before.  `types` says which `typ` it may have: outside a form, nothing but that tells what it is for.
        """
        unverified_agent = token.unverified_claims.get("iss")
        keys = self._keys.get(unverified_agent) if isinstance(unverified_agent, str) else None
        if keys is None:
            refuse("iss is not an agent with a registered key")
        agent = str(unverified_agent)
        key = await keys.get(token.kid)
        if key is None:
            refuse("agent's keys cannot be read" if keys.failure else "kid is not one of the agent's keys")
        rule = Rule(types, _ALGORITHMS, agent, self._audience, LEEWAY_SECONDS, LONGEST_SECONDS, one_audience=True)
        claims = verify(token, key, rule, now)
        if text(claims, "sub") != agent:
            refuse("sub is not the agent itself")
        if "cnf" in claims:  # RFC 7800: a limit that is not checked here
            refuse("an assertion that is bound to a key is no proof without that key")
        ends = moment(claims, "exp")
        if ends - moment(claims, "iat") > LONGEST_SECONDS:  # by the agent's own clock, which may be a little ahead of ours
            refuse("an assertion lives at most 60 seconds")
        if not await self._once(f"assertion:{agent}", text(claims, "jti", 128), ends + LEEWAY_SECONDS, now):
            refuse("assertion was used before")
        return agent

    async def close(self) -> None:
        """End what the key sets have under way."""
        for keys in self._keys.values():
            await keys.close()
        await self._svids.close()


def both(shown: Proven, held: Proven) -> Proven:
    """A text and a certificate of one agent: as good as the better of them; of two agents, refused."""
    if shown.agent != held.agent:
        refuse("certificate and credential are two agents'")
    return held if shown.assurance == "bearer" else shown


def _sha256(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "backslashreplace")).hexdigest()
