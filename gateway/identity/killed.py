"""What a set of kills means for a principal: a few look-ups, none where nothing of a kind is killed.

    user      `user:<issuer alias>/<sub>` or `svc:<agent>`, whoever acts for them.
    agent     `agent:<id>`, anywhere in a chain; the agent as a service of its own has itself in its chain.
    workflow  its id.
    branch    `jti` of a delegation token: whatever goes back to it; the parent goes on.
    token     `jti` of the token that is presented, or of the person's token with which the workflow began.
    grant     id of a standing grant.
    tenant    its name.

A kill that somebody made for themselves reaches what is theirs, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from gateway.identity.access import workflow_id
from gateway.identity.token import is_text
from gateway.model import Principal
from gateway.state.kills import SELF, Kill

KINDS: Final = ("user", "agent", "workflow", "branch", "token", "grant", "tenant")
OWN: Final = frozenset({"user", "workflow", "branch", "token", "grant"})
"""What people may kill of their own."""
_FOR_EVER: Final = 1 << 62
_SLUG: Final = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_FORMS: Final = {
    "user": (re.compile(rf"user:{_SLUG}/.{{1,255}}|svc:{_SLUG}"), "user:<issuer alias>/<sub>, or svc:<agent>"),
    "agent": (re.compile(rf"agent:{_SLUG}"), "agent:<id>"),
    "workflow": (re.compile(r"wf-[0-9a-f]{26}"), "wf- and 26 hex characters"),
    "tenant": (re.compile(_SLUG), "a tenant's name"),
}
_OTHER: Final = "an id: 1 to 255 printable characters"


def wrong_target(kind: str, target: str) -> str:
    """How a target of this kind is written, where this is none; "" where it is one."""
    form, said = _FORMS.get(kind, (None, _OTHER))
    good = is_text(target, 400 if kind == "user" else 255) and (form is None or form.fullmatch(target) is not None)
    return "" if good else said


class _Table:
    """Kills of one kind: by target, until when what was given is dead, and which kill says so."""

    __slots__ = ("by_target",)

    def __init__(self) -> None:
        self.by_target: dict[str, tuple[int, Kill]] = {}

    def add(self, target: str, kill: Kill) -> None:
        until = _FOR_EVER if kill.before is None else kill.before
        known = self.by_target.get(target)
        if known is None or known[0] < until:
            self.by_target[target] = until, kill


class Killed:
    """An index of kills.  It never changes."""

    __slots__ = ("_agents", "_branches", "_grants", "_own", "_tenants", "_tokens", "_users", "_workflows")

    def __init__(self, kills: Iterable[Kill], issuers: Sequence[str] = ()) -> None:
        """`issuers`: whose access tokens begin workflows, so that the token with which one began kills it."""
        own: dict[str, list[Kill]] = {}
        tables = {kind: _Table() for kind in KINDS}
        for kill in kills:
            if kill.source == SELF and kill.kind != "user":
                own.setdefault(kill.by, []).append(kill)
                continue
            tables[kill.kind].add(kill.target, kill)
            if kill.kind == "token":
                for issuer in issuers:
                    tables["workflow"].add(workflow_id(issuer, kill.target), kill)
        self._users, self._agents = tables["user"].by_target, tables["agent"].by_target
        self._workflows, self._branches = tables["workflow"].by_target, tables["branch"].by_target
        self._tokens, self._grants = tables["token"].by_target, tables["grant"].by_target
        self._tenants = tables["tenant"].by_target
        self._own = {person: Killed([_without_owner(kill) for kill in theirs], issuers) for person, theirs in own.items()}

    def of(self, principal: Principal) -> Kill | None:
        """A kill by which this principal is dead."""
        given = principal.issued
        found = self._users.get(principal.subject) if self._users else None
        if found is not None and given <= found[0]:
            return found[1]
        found = self._workflows.get(principal.workflow) if self._workflows else None
        if found is not None and given <= found[0]:
            return found[1]
        return self._elsewhere(principal, given)

    def _elsewhere(self, principal: Principal, given: int) -> Kill | None:
        looked: tuple[tuple[dict[str, tuple[int, Kill]], Sequence[str]], ...] = (
            (self._agents, principal.actors),
            (self._branches, principal.path),
            (self._tokens, (principal.jti,)),
            (self._grants, (principal.grant,)),
            (self._tenants, (principal.tenant,)),
        )
        for table, names in looked:
            if not table:
                continue
            for name in names:
                found = table.get(name)
                if found is not None and given <= found[0]:
                    return found[1]
        own = self._own.get(principal.subject) if self._own else None
        return own.of(principal) if own is not None else None


def _without_owner(kill: Kill) -> Kill:
    """The same, for the index of its owner's alone."""
    return replace(kill, source="")
