"""JWT-SVIDs (SPIFFE): a workload's identity as its trust domain signs it.

Which domain's keys count follows from `sub`; `iss` is not read, as SPIFFE gives it no meaning.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from gateway.identity.keys import Fetch, KeySet
from gateway.identity.token import Rule, Unverified, refuse, verify
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from gateway.settings import Agent, TrustDomain

SCHEME = "spiffe://"
LEEWAY_SECONDS = 30
LONGEST_SECONDS = 3600
USES = frozenset({"sig", "jwt-svid"})
"""Of `use`: a JWK Set says `sig`; a SPIFFE bundle `jwt-svid`, where `x509-svid` marks keys that are not for this."""

_ALGORITHMS = frozenset({"ES256", "ES384", "RS256", "PS256"})
_TYPES = frozenset({"JWT", "JOSE", ""})  # JWT-SVID §2.3: typ may be left out
_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_ID = re.compile(r"spiffe://([a-z0-9._-]{1,255})((?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+)+)")
"""SPIFFE-ID §2: a domain and a path, lower case and upper case as they stand, no empty and no dot segment."""


def is_svid(token: Unverified) -> bool:
    """Whether a token says that it is one; nothing of it is proven."""
    unverified_subject = token.unverified_claims.get("sub")
    return isinstance(unverified_subject, str) and unverified_subject.startswith(SCHEME)


class Svids:
    """Verifies the JWT-SVIDs of the configured trust domains."""

    def __init__(
        self,
        domains: Sequence[TrustDomain],
        agents: Mapping[str, Agent],
        audience: str,
        fetch: Fetch | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """ProblemError for a domain or an id that is none, or stands twice, and for an id of a domain that is not configured."""
        self._audience = audience
        self._domains: dict[str, KeySet] = {}
        self._agents: dict[str, str] = {}
        for domain in domains:
            if _DOMAIN.fullmatch(domain.name) is None or domain.name in self._domains:
                message = f"{domain.name[:80]!r} is no trust domain, or stands twice"
                raise ProblemError(
                    Problem("bad-trust-domain", message, "trust_domains", "a name as example.org, without spiffe://")
                )
            self._domains[domain.name] = KeySet(domain.jwks, fetch, monotonic, USES)
        for agent_id, agent in agents.items():
            if agent.auth.spiffe_id is not None:
                self._register(agent_id, agent.auth.spiffe_id)

    async def agent(self, token: Unverified, now: int) -> str:
        """Id of the agent whose JWT-SVID for this gateway alone it is, or `Refused(INVALID_CREDENTIAL)`."""
        spiffe_id = str(token.unverified_claims.get("sub"))
        form = _ID.fullmatch(spiffe_id)
        keys = self._domains.get(form.group(1)) if form is not None else None
        if keys is None:
            refuse("sub is no id of a configured trust domain")
        key = await keys.get(token.kid)
        if key is None:
            refuse("the domain's keys cannot be read" if keys.failure else "kid is not one of the domain's keys")
        rule = Rule(_TYPES, _ALGORITHMS, "", self._audience, LEEWAY_SECONDS, LONGEST_SECONDS, any_issuer=True)
        claims = verify(token, key, rule, now)
        audience = claims["aud"]
        if "cnf" in claims:  # RFC 7800: a limit that is not checked here
            refuse("an SVID that is bound to a key is no proof without that key")
        if isinstance(audience, list) and len(audience) != 1:  # another of its audiences could show it here
            refuse("aud names others beside this gateway")
        agent = self._agents.get(spiffe_id)
        if agent is None:
            refuse("sub is not a registered agent")
        return agent

    async def close(self) -> None:
        """End what the key sets have under way."""
        for keys in self._domains.values():
            await keys.close()

    def _register(self, agent: str, spiffe_id: str) -> None:
        location = f"agents.{agent}.auth.spiffe_id"
        form = _ID.fullmatch(spiffe_id)
        if form is None:
            message = f"{spiffe_id[:80]!r} is no SPIFFE id"
            raise ProblemError(Problem("bad-spiffe-id", message, location, "write it as spiffe://domain/path"))
        if form.group(1) not in self._domains:
            message = f"the trust domain {form.group(1)[:80]!r} is not configured"
            raise ProblemError(Problem("unknown-trust-domain", message, location, "name it, with its keys, under trust_domains"))
        if self._agents.setdefault(spiffe_id, agent) != agent:
            raise ProblemError(Problem("ambiguous-spiffe-id", f"{spiffe_id[:80]!r} belongs to two agents", location))
