"""How an agent proves that it is itself: a secret of 256 random bits, or an assertion signed with its key (RFC 7523)."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gateway.identity.keys import Fetch, KeySet
from gateway.identity.token import Rule, Unverified, moment, refuse, text, verify

if TYPE_CHECKING:
    from gateway.settings import Agent

SECRET_MARK = "bws_"
ASSERTION_TYPE = "client-authentication+jwt"
LEEWAY_SECONDS = 30
LONGEST_SECONDS = 60
MAX_REMEMBERED = 65_536
"""Assertions of one agent that are remembered at a time; more are refused rather than forgotten."""

_SECRET = re.compile(r"bws_([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)_[A-Za-z0-9_-]{43}")
_ALGORITHMS = frozenset({"ES256", "ES384", "EdDSA", "PS256", "RS256"})
_NOBODY = ("0" * 64,)


def new_secret(agent: str) -> tuple[str, str]:
    """A fresh secret for an agent, and its SHA-256 (hex) for the settings.  Only the agent keeps the first."""
    value = f"{SECRET_MARK}{agent}_{secrets.token_urlsafe(32)}"
    return value, hashlib.sha256(value.encode("ascii")).hexdigest()


class AgentCredentials:
    """Verifies agents' own credentials.  Assertions are good once, as far as this process remembers."""

    def __init__(
        self,
        agents: Mapping[str, Agent],
        audience: str,
        fetch: Fetch | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`audience` is the gateway's public URL, the only audience of an assertion."""
        self._audience = audience
        self._digests = {agent_id: agent.auth.secret_sha256 for agent_id, agent in agents.items()}
        self._keys = {
            agent_id: KeySet(agent.auth.jwks, fetch, monotonic)
            for agent_id, agent in agents.items()
            if agent.auth.jwks is not None
        }
        self._seen: dict[str, dict[str, int]] = {}

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

    async def by_key(self, token: Unverified, now: int) -> str:
        """The id of the agent that signed this assertion for us just now, or `Refused(INVALID_CREDENTIAL)`.

        RFC 7523 §3: iss and sub are the agent's id, aud is our URL alone, exp at most 60 seconds ahead, jti never seen before.
        """
        unverified_agent = token.unverified_claims.get("iss")
        keys = self._keys.get(unverified_agent) if isinstance(unverified_agent, str) else None
        if keys is None:
            refuse("iss is not an agent with a registered key")
        agent = str(unverified_agent)
        key = await keys.get(token.kid)
        if key is None:
            refuse("agent's keys cannot be read" if keys.failure else "kid is not one of the agent's keys")
        rule = Rule(
            frozenset({ASSERTION_TYPE}), _ALGORITHMS, agent, self._audience, LEEWAY_SECONDS, LONGEST_SECONDS, one_audience=True
        )
        claims = verify(token, key, rule, now)
        if text(claims, "sub") != agent:
            refuse("sub is not the agent itself")
        ends = moment(claims, "exp")
        if ends > now + LONGEST_SECONDS:
            refuse("an assertion lives at most 60 seconds")
        self._use(agent, text(claims, "jti", 128), ends + LEEWAY_SECONDS, now)
        return agent

    async def close(self) -> None:
        """End what the key sets have under way."""
        for keys in self._keys.values():
            await keys.close()

    def _use(self, agent: str, jti: str, until: int, now: int) -> None:
        seen = self._seen.setdefault(agent, {})
        if jti in seen:  # also one that has ended: an expired token never comes this far
            refuse("assertion was used before")
        if len(seen) >= MAX_REMEMBERED:
            for old in [name for name, end in seen.items() if end <= now]:
                del seen[old]
            if len(seen) >= MAX_REMEMBERED:
                refuse("agent has used too many assertions in a minute")
        seen[jti] = until
