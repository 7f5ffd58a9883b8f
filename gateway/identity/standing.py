"""Standing grants: a person lets one agent begin work in their name later.  It dies with the person's account.

What the agent gets is never more than the person has at that moment: their groups are asked for anew each time, and what cannot
be asked is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway import scope as scopes
from gateway.identity.token import is_text, refuse
from gateway.model import Clock, Principal, Refused, new_id
from gateway.reasons import Code
from gateway.state.grants import Grant, Grants

if TYPE_CHECKING:
    from gateway.identity.directory import Directory
    from gateway.settings import Agent

LONGEST_SECONDS = 366 * 24 * 3600
RUN_SECONDS = 3600
"""How long a workflow that begins by a grant may go on."""
MAX_DEFINITION = 128


@dataclass(frozen=True, slots=True)
class Wanted:
    """The grant that somebody wants to make."""

    agent: str
    scope: str
    ends: int
    definition: str = ""


class WrongGrantError(Exception):
    """A grant that cannot be made: which member of it, and why."""

    def __init__(self, member: str, message: str) -> None:
        super().__init__(message)
        self.member = member


class Standing:
    """Makes grants, and says for whom, and with which groups, one is used."""

    def __init__(self, grants: Grants, agents: Mapping[str, Agent], directories: Mapping[str, Directory], clock: Clock) -> None:
        """`directories` by the issuer's alias."""
        self.grants = grants
        self._agents = agents
        self._directories = directories
        self._clock = clock

    def made(self, wanted: Wanted, person: Principal) -> Grant:
        """The grant that this person may make, not yet kept.  Made with one's own hands: no agent makes a grant for itself.

        WrongGrantError where it says what cannot be; Refused(USER_LACKS_RIGHT) for anybody but a person.
        """
        if person.actors or not person.subject.startswith("user:"):
            raise Refused(Code.USER_LACKS_RIGHT, "a standing grant is made by the person alone")
        at = self._clock()
        now = at // 1_000_000
        agent = self._agents.get(wanted.agent)
        if agent is None or (agent.tenant is not None and agent.tenant != person.tenant):
            raise WrongGrantError("agent", "no such agent is registered")
        if _alias(person.subject) not in self._directories:
            message = "your identity provider has no directory here, so nobody could tell later whether your account still stands"
            raise WrongGrantError("agent", message)
        if not now < wanted.ends <= now + LONGEST_SECONDS:
            raise WrongGrantError("ends", "the end lies in the future, at most 366 days ahead (epoch seconds)")
        if wanted.definition and not is_text(wanted.definition, MAX_DEFINITION):
            raise WrongGrantError("definition", f"a digest of the workflow's definition: 1 to {MAX_DEFINITION} characters")
        try:
            scope = scopes.narrowed(scopes.parse(wanted.scope), person.scope, agent.scope)
        except ValueError as error:
            raise WrongGrantError("scope", str(error)) from None
        if not scope or len(scope) > scopes.MOST:
            raise WrongGrantError("scope", "nothing of it is both yours and the agent's")
        return Grant(
            new_id(at), person.tenant, person.subject, wanted.agent, scopes.written(scope), wanted.definition, wanted.ends, now
        )

    async def live(self, name: str) -> Grant:
        """The grant, in force now; Refused(INVALID_CREDENTIAL) otherwise."""
        grant = await self.grants.get(name)
        if grant is None or not grant.live(self._clock() // 1_000_000):
            refuse("no such standing grant is in force")
        return grant

    async def used(self, name: str, agent: str, definition: str) -> Grant:
        """The grant by which this agent begins this workflow now."""
        grant = await self.live(name)
        registered = self._agents.get(agent)
        if grant.agent != agent or registered is None or registered.tenant not in (None, grant.tenant):
            refuse("the standing grant is another agent's, or another tenant's")
        if grant.definition not in ("", definition):
            refuse("the standing grant is for another workflow")
        return grant

    async def groups(self, subject: str) -> frozenset[str] | None:
        """The person's groups now; None where their issuer has no directory.  Refused where the account does not stand."""
        directory = self._directories.get(_alias(subject))
        if directory is None:
            return None
        person = await directory.look(subject.partition("/")[2])
        if not person.active:
            refuse("the person's account does not stand")
        return person.groups


def _alias(subject: str) -> str:
    return subject.removeprefix("user:").partition("/")[0] if subject.startswith("user:") else ""
