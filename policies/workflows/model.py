"""What workflows/*.yaml says: for each workflow its rules, each of which can refuse a call and none of which grants one.

Steps are named by the objects of grants: tools, agents, resources and prompts.  What no rule names is free, inside the grants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from policies.expression import Expression
from policies.model import Match, Obligation, Source

KEYWORDS: Final = (
    "before",
    "within",
    "locked",
    "once",
    "distinct",
    "budget",
    "only",
    "chain",
    "parallel",
    "coordinator",
    "taint",
)
SCOPES: Final = ("workflow", "subject", "agent", "tool", "day")
"""What a budget can be counted by."""
FOREVER: Final = 366 * 24 * 3600
"""The longest time that a rule can name, in seconds."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Objects that a rule names: one, a set, or everything with one beginning.

    text        as it was written.
    names       the objects that are named outright; `beginnings` those of the others.
    """

    text: str
    names: frozenset[str] = frozenset()
    beginnings: tuple[str, ...] = ()

    def covers(self, resource: str) -> bool:
        """Whether an object is among them."""
        return resource in self.names or resource.startswith(self.beginnings)  # by none, where there are none

    def overlaps(self, other: Steps) -> bool:
        """Whether some object is among both."""
        return (
            bool(self.names & other.names)
            or any(name.startswith(other.beginnings) for name in self.names if other.beginnings)
            or any(name.startswith(self.beginnings) for name in other.names if self.beginnings)
            or any(a.startswith(b) or b.startswith(a) for a in self.beginnings for b in other.beginnings)
        )

    def within(self, other: Steps) -> bool:
        """Whether everything here is among the others."""
        return all(other.covers(name) for name in self.names) and all(
            any(start.startswith(wide) for wide in other.beginnings) for start in self.beginnings
        )


@dataclass(frozen=True, slots=True)
class By:
    """Agents that a rule names: one, or a group of roles.csv."""

    text: str
    agents: frozenset[str]


Same = tuple[tuple[str, str], ...]
"""Arguments that must be equal: (of the call, of the earlier step)."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a field of an earlier step's result must be."""

    field: str
    least: Decimal | None = None
    most: Decimal | None = None
    equals: str | bool | Decimal | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """What all rules have: the keyword that it was written under, its id, and where it stands."""

    keyword: str
    id: str
    source: Source

    @property
    def match(self) -> Match:
        """The rule as records and explanations name it."""
        return Match(self.id, self.keyword, self.source)


@dataclass(frozen=True, slots=True)
class Before(Rule):
    """`before`, `chain`, `parallel`: `tool` may be called only after `needs` has succeeded."""

    tool: Steps
    needs: Steps
    by: By | None = None
    same: Same = ()
    seconds: int | None = None
    result: Bound | None = None


@dataclass(frozen=True, slots=True)
class Within(Rule):
    """`tool` may be called only so long after the last success of `after` (None: after the workflow's first step)."""

    tool: Steps
    seconds: int
    after: Steps | None = None


@dataclass(frozen=True, slots=True)
class Locked(Rule):
    """From the first of the steps until the last has succeeded, nothing else may be called."""

    steps: tuple[Steps, ...]

    @property
    def first(self) -> Steps:
        """The step that locks."""
        return self.steps[0]

    @property
    def last(self) -> Steps:
        """The step that unlocks."""
        return self.steps[-1]


@dataclass(frozen=True, slots=True)
class Once(Rule):
    """`tool` may be called once (with the same arguments)."""

    tool: Steps
    same: Same = ()


@dataclass(frozen=True, slots=True)
class Distinct(Rule):
    """Each of the steps is for another agent, in one workflow; or for another person, in all workflows of the tenant."""

    steps: tuple[Steps, ...]
    of: Literal["agent", "person"]
    same: Same = ()


@dataclass(frozen=True, slots=True)
class Budget(Rule):
    """How often `tool` may be called, and what an argument of it may come to, for each of what it is counted `per`."""

    tool: Steps
    per: tuple[str, ...]
    by: By | None = None
    count: int | None = None
    sum: str | None = None
    max: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Only(Rule):
    """Nothing else may be called."""

    tools: tuple[Steps, ...]


@dataclass(frozen=True, slots=True)
class Coordinator(Rule):
    """Agents are sent to by `agent` alone, and only these."""

    agent: By
    calls: tuple[Steps, ...]


@dataclass(frozen=True, slots=True)
class Exemption:
    """A named condition under which a rule about labels lets a call through."""

    name: str
    test: Expression


@dataclass(frozen=True, slots=True)
class Taint(Rule):
    """After all of the labels `after` have come in, what has the label `deny` may not be called.

    deny     objects with that label.
    of       whose history counts: this workflow's, or all of the person's for `seconds`.
    unless   where this surely holds, the call is let through.
    cleared  a step that has succeeded with the very arguments that are now sent vouches for them: each as a `Before` of its own.
    must     the duty with which the call is let through all the same; None: it is refused.
    """

    after: tuple[str, ...]
    deny: Steps
    of: Literal["workflow", "person"] = "workflow"
    seconds: int | None = None
    unless: Exemption | None = None
    cleared: tuple[Before, ...] = ()
    must: Obligation | None = None


@dataclass(frozen=True, slots=True)
class Bind:
    """Calls that belong to a workflow whoever begins it: of these tools, through this agent, or both where both are named."""

    tool: Steps | None
    agent: By | None

    def covers(self, resource: str, actors: Iterable[str]) -> bool:
        """Whether a call belongs."""
        return (self.tool is None or self.tool.covers(resource)) and (
            self.agent is None or not self.agent.agents.isdisjoint(actors)
        )


@dataclass(frozen=True, slots=True)
class Workflow:
    """One definition.

    name     by which a workflow is begun.
    digest   `sha256:<hex>` of its file.
    tenants  in which it counts.
    shadow   it is watched: what it would refuse is on record, and happens.
    binds    calls that belong to it even where nobody began it by name.
    """

    name: str
    digest: str
    tenants: frozenset[str]
    shadow: bool
    binds: tuple[Bind, ...]
    rules: tuple[Rule, ...]
    source: Source

    def holds(self, resource: str, actors: Iterable[str], definition: str) -> bool:
        """Whether a call belongs to it; `definition` names the workflow that was begun, "" where none was."""
        if definition == self.name:
            return True
        for bind in self.binds:  # noqa: SIM110  asked for every call, and a generator costs more than the question
            if bind.covers(resource, actors):
                return True
        return False

    @property
    def bounded(self) -> frozenset[str]:
        """Fields of results that its rules bound, of whichever step."""
        every = (*self.rules, *(each for taint in taints([self]) for each in taint.cleared))
        return frozenset(rule.result.field for rule in every if isinstance(rule, Before) and rule.result is not None)

    def kept(self, resource: str) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
        """What history must keep of a step for these rules: arguments that are compared, that are summed, fields of results."""
        marks: set[str] = set()
        sums: set[str] = set()
        fields: set[str] = set()
        for rule in (*self.rules, *(each for taint in taints([self]) for each in taint.cleared)):
            match rule:
                case Before():
                    if rule.tool.covers(resource):
                        marks.update(own for own, _ in rule.same)
                    if rule.needs.covers(resource):
                        marks.update(theirs for _, theirs in rule.same)
                        fields.update([rule.result.field] if rule.result is not None else [])
                case Once():
                    marks.update(own for own, _ in rule.same if rule.tool.covers(resource))
                case Distinct():
                    marks.update(own for own, _ in rule.same if any(step.covers(resource) for step in rule.steps))
                case Budget():
                    sums.update([rule.sum] if rule.sum is not None and rule.tool.covers(resource) else [])
        return frozenset(marks), frozenset(sums), frozenset(fields)


Workflows = Mapping[str, Workflow]
"""All of a bundle, by name."""


def taints(workflows: Iterable[Workflow]) -> tuple[Taint, ...]:
    """Their rules about labels."""
    return tuple(rule for each in workflows for rule in each.rules if isinstance(rule, Taint))
