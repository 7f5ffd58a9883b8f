"""What a set of kills means for a principal: a few look-ups, none where nothing of a kind is killed.

A kill that somebody made for themselves reaches what is theirs, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from gateway.identity.access import workflow_id
from gateway.identity.token import is_text
from gateway.model import Principal
from gateway.state.kills import SELF, Kill

if TYPE_CHECKING:
    from gateway.settings import Settings

KINDS: Final = ("user", "agent", "workflow", "branch", "token", "grant", "tenant")
"""user      `user:<issuer alias>/<sub>` or `svc:<agent>`, whoever acts for them.
agent     `agent:<id>`, anywhere in a chain; the agent as a service of its own has itself in its chain.
workflow  its id; one that began by an exchange goes with that of the token that was exchanged.
branch    `jti` of a delegation token: whatever goes back to it; the parent goes on.
token     `jti` of the token that is presented, or of the person's token with which the workflow began.
grant     id of a standing grant.
tenant    its name.
"""
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


@dataclass(frozen=True, slots=True)
class Names:
    """Whom the settings know: a kill of a misspelt name would kill nobody, and say that it did."""

    tenant: str
    issuers: frozenset[str]
    agents: frozenset[str]
    tenants: frozenset[str]

    @classmethod
    def of(cls, settings: Settings) -> Names:
        """Those of the settings."""
        aliases = frozenset(issuer.alias for issuer in settings.issuers)
        return cls(settings.tenant, aliases, frozenset(settings.agents), settings.every_tenant)

    def wrong(self, kind: str, target: str) -> str:
        """What is wrong with a target, in words; "" where nothing is."""
        said = wrong_target(kind, target)
        if said:
            return f"the target of a kill of kind {kind} is written {said}"
        if kind == "user" and target.startswith("user:"):
            return _unknown("issuer", target[5:].partition("/")[0], self.issuers)
        if kind in {"user", "agent"}:
            return _unknown("agent", target.partition(":")[2], self.agents)
        return _unknown("tenant", target, self.tenants) if kind == "tenant" else ""


def _unknown(what: str, name: str, known: frozenset[str]) -> str:
    if name in known:
        return ""
    some = ", ".join(sorted(known)[:8]) or "none"
    return f"the settings have no {what} {name}; there are: {some}"


_SINGLE: Final = tuple(
    (kind, attrgetter(name))
    for kind, name in (
        ("user", "subject"), ("workflow", "workflow"), ("token", "jti"), ("grant", "grant"), ("tenant", "tenant"),
    )
)  # fmt: skip
_SEVERAL: Final = (
    ("agent", attrgetter("actors")),
    ("branch", attrgetter("path")),
    ("workflow", attrgetter("path")),  # of one that began by an exchange, it begins with the workflow of what was exchanged
)


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

    __slots__ = ("_own", "_several", "_single")

    def __init__(self, kills: Iterable[Kill], issuers: Sequence[str] = ()) -> None:
        """`issuers`: whose access tokens begin workflows, so that the token with which one began kills it.

        ValueError for a kill of a kind that is not known.
        """
        own: dict[str, list[Kill]] = {}
        tables = {kind: _Table() for kind in KINDS}
        for kill in kills:
            if kill.source == SELF:  # whatever its target says: of somebody else's it kills nothing
                own.setdefault(kill.by, []).append(kill)
                continue
            if kill.kind not in tables:
                msg = f"kill {kill.id} is of a kind that is not known here"
                raise ValueError(msg)
            tables[kill.kind].add(kill.target, kill)
            begun = [workflow_id(issuer, kill.target) for issuer in issuers] if kill.kind == "token" else []
            for workflow in begun:
                tables["workflow"].add(workflow, kill)
            for workflow in [kill.target] if kill.kind == "workflow" else begun:
                tables["branch"].add(workflow, kill)  # a workflow that began with the token goes back to it: see `path`
        self._single = [(tables[kind].by_target, get) for kind, get in _SINGLE if tables[kind].by_target]
        self._several = [(tables[kind].by_target, get) for kind, get in _SEVERAL if tables[kind].by_target]
        # in the index of one person's own, whose they are is settled
        self._own = {who: Killed([replace(kill, source="") for kill in theirs], issuers) for who, theirs in own.items()}

    def of(self, principal: Principal) -> Kill | None:
        """A kill by which this principal is dead."""
        given = principal.issued
        for table, get in self._single:
            found = table.get(get(principal))
            if found is not None and given <= found[0]:
                return found[1]
        for table, get in self._several:
            for name in get(principal):
                found = table.get(name)
                if found is not None and given <= found[0]:
                    return found[1]
        own = self._own.get(principal.subject) if self._own else None
        return own.of(principal) if own is not None else None
