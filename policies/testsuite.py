"""What a bundle's tests ask: rows of questions with their answers, and what must never be allowed.  Values alone."""

from __future__ import annotations

from dataclasses import dataclass

from policies.finding import Finding
from policies.model import AccessRequest, Effect, Source
from policies.workflows.supposed import Supposed


@dataclass(frozen=True, slots=True)
class Case:
    """A row of `tests:`: a question, and what must come of it.

    because  every one must be a principal whose right is missing, the reason, a rule that spoke (or nearly did), or stand in the
             explanation.
    must     the duties; None: the row says nothing of them.  `exact`: these and no others.
    workflow the definition under whose name its workflow was begun; "" for none.  `after`: what happened in it before.
    """

    title: str
    source: Source
    request: AccessRequest
    expect: Effect
    because: tuple[str, ...] = ()
    must: frozenset[str] | None = None
    exact: bool = True
    workflow: str = ""
    after: tuple[Supposed, ...] = ()


@dataclass(frozen=True, slots=True)
class Invariant:
    """A row of `never:`: whose call must be allowed under no arguments, at no time, through no chain.

    kind    who, agent, group or role; `principal` is its full name, as `user:dev/mia`, `idp:interns`.
    groups  of a person whom the table describes; None: whatever groups there are.
    tool    a pattern, as rules name it.
    action  None: whatever is asked.
    via     this chain of agents; None: whatever chain.
    tenant  None: all.
    alone   the principal by itself: no further group beside it.
    """

    title: str
    source: Source
    kind: str
    principal: str
    tool: str
    groups: frozenset[str] | None = None
    action: str | None = None
    via: tuple[str, ...] | None = None
    tenant: str | None = None
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Suite:
    """Everything that a bundle's tests say.  `notes`: what is no mistake for certain, and may be one."""

    cases: tuple[Case, ...] = ()
    invariants: tuple[Invariant, ...] = ()
    notes: tuple[Finding, ...] = ()

    @property
    def rows(self) -> int:
        """How many there are of both."""
        return len(self.cases) + len(self.invariants)

    def only(self, text: str) -> Suite:
        """The rows whose title or place holds the text, in upper or lower case."""
        wanted = text.casefold()
        return Suite(
            tuple(c for c in self.cases if wanted in f"{c.source} {c.title}".casefold()),
            tuple(i for i in self.invariants if wanted in f"{i.source} {i.title}".casefold()),
            self.notes,
        )
