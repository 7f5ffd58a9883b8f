"""The question and the answer: what is asked of a policy and what it says.

Shapes follow OpenID AuthZEN 1.0 (subject, action, resource, context); everything is frozen.  What is made
for every call are msgspec's structs, which cost a fraction of a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

NOTHING: Mapping[str, object] = MappingProxyType({})


class Effect(StrEnum):
    """What a decision says."""

    ALLOW = "allow"
    DENY = "deny"


class Role(StrEnum):
    """In which capacity a principal of the chain is asked."""

    SUBJECT = "subject"  # the person (or service) on whose behalf everything happens
    RELAY = "relay"  # an earlier agent: it causes the call, it does not make it
    ACTOR = "actor"  # the agent that makes the call now


# Python 3.11 finds an enum's member in a tenth of a microsecond, and a call asks for a dozen: on the road they are globals.
ALLOW: Final = Effect.ALLOW
SUBJECT, RELAY, ACTOR = Role.SUBJECT, Role.RELAY, Role.ACTOR


class Reason(StrEnum):
    """Why a decision came out as it did: the closed list of the decision point."""

    ALLOWED = "allowed"
    UNKNOWN_RESOURCE = "unknown-resource"  # not registered in tools.yaml, or in another tenant
    USER_LACKS_RIGHT = "user-lacks-right"
    AGENT_LACKS_RIGHT = "agent-lacks-right"
    GUARDRAIL = "guardrail"  # a deny line spoke
    DECISION_ERROR = "decision-error"  # an error while deciding is a denial
    # a workflow's rules, by what happened before
    STEP_MISSING = "step-missing"  # something else must have succeeded first
    STEP_TOO_LATE = "step-too-late"
    STEP_LOCKED = "step-locked"  # something that was begun must end first
    STEP_REPEATED = "step-repeated"
    SAME_HANDS = "same-hands"  # another agent or person must do it
    BUDGET_SPENT = "budget-spent"
    NOT_IN_WORKFLOW = "not-in-workflow"
    DATAFLOW = "dataflow"  # what came in before may not leave by this way
    WORKFLOW_UNKNOWN = "workflow-unknown"  # it was begun under a name that the bundle does not have


OF_WORKFLOWS: Final = frozenset(
    {
        Reason.STEP_MISSING,
        Reason.STEP_TOO_LATE,
        Reason.STEP_LOCKED,
        Reason.STEP_REPEATED,
        Reason.SAME_HANDS,
        Reason.BUDGET_SPENT,
        Reason.NOT_IN_WORKFLOW,
        Reason.DATAFLOW,
        Reason.WORKFLOW_UNKNOWN,
    }
)
"""Reasons that come of what happened before, and so of no engine."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a rule stands: file relative to the bundle, 1-based line and column."""

    file: str
    line: int
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that spoke.  `text` is `RULE file:line`, made once when the rule is loaded and not at every call."""

    rule: str  # its id, as `PRO-2`
    effect: str  # allow | deny | require
    source: Source
    condition: str | None = None  # the condition's human sentence, where the rule has one
    text: str = field(init=False, compare=False, repr=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", f"{self.rule} {self.source}")


@dataclass(frozen=True, slots=True)
class Obligation:
    """A duty which the enforcement point fulfils or refuses (XACML)."""

    name: str  # as in obligations.yaml, `full-audit`
    type: str  # `audit`, `sandbox`, `redact-result` …
    params: Mapping[str, object] = field(default_factory=lambda: NOTHING)
    source: Source | None = field(default=None, compare=False)  # where it stands, which is no part of what it says


class Question(msgspec.Struct, frozen=True, gc=False):
    """One principal of the chain, and what it is asked."""

    principal: str
    role: Role
    action: str


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What one principal's question came to.

    `near` names rules that cover this principal, action and resource but whose condition did not hold
    (or could not be decided): the first thing a person wants to know of a refusal.
    """

    question: Question
    allowed: bool
    matched: tuple[Match, ...] = ()
    near: tuple[Match, ...] = ()


class AccessRequest(msgspec.Struct, frozen=True, gc=False):
    """May this subject, through these actors, do this to that?

    subject   `user:<issuer alias>/<sub>` or `svc:<name>`; never an e-mail address.
    actors    `agent:<id>`, origin first; the last one makes the call, the earlier ones relay.  Empty: the person's own hands.
    action    `call`, `send`, `read`, `list` …
    resource  `<server>.<tool>`, `a2a:<agent>`.
    groups    of the subject, as the identity provider vouches for them, without prefix.
    arguments of the call, numbers as int or Decimal; None: not known (a list asks "under some condition?").
    context   further facts: `agent.*` and `ctx.*` of conditions, as {"agent": {...}, "ctx": {...}}.
    at        UTC microseconds since the epoch.
    """

    subject: str
    actors: tuple[str, ...]
    tenant: str
    action: str
    resource: str
    at: int
    groups: frozenset[str] = frozenset()
    arguments: Mapping[str, object] | None = NOTHING
    context: Mapping[str, object] = NOTHING


class Brought(msgspec.Struct, frozen=True, gc=False):
    """A call that brought a label into a workflow: what was called, and the id of its record."""

    label: str
    resource: str
    call: str


class Objection(msgspec.Struct, frozen=True, gc=False):
    """A workflow's rule that refuses, or that would if it were more than watched.

    missing  public names of the steps that would have to come first.
    cure     what to do instead: names of steps, agents and arguments, never a value.
    brought  of a rule about labels: what came in before, and by which call.
    """

    match: Match
    reason: Reason
    cure: str
    missing: tuple[str, ...] = ()
    brought: tuple[Brought, ...] = ()


class Ruling(msgspec.Struct, frozen=True, gc=False):
    """What the workflows that a call belongs to said of it, by what happened before.

    held     name and digest of their definitions.
    spoke    every rule that was about the call.
    refused  rules that refuse it; none where the call was let through.
    watched  rules that would refuse it, and only watch.
    duties   what rules let it through with, and not without.
    exempt   rules about labels that would refuse it, but for the condition (by name) that makes it exempt.
    """

    held: tuple[tuple[str, str], ...]
    spoke: tuple[Match, ...] = ()
    refused: tuple[Objection, ...] = ()
    watched: tuple[Objection, ...] = ()
    duties: tuple[Obligation, ...] = ()
    exempt: tuple[tuple[Match, str], ...] = ()


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The answer, with everything needed to explain it.

    visible  for a denial: whether the same call would be allowed under some arguments.  False means that the caller may not
             know of the resource and must be answered exactly as for an unknown one.
    missing  for a denial: the principals whose right is missing, in chain order.
    ruling   what workflows' rules said; None where none holds the call.
    """

    effect: Effect
    reason: Reason
    bundle: str  # `sha256:<hex>` of the bundle that decided
    answers: tuple[Answer, ...] = ()
    obligations: tuple[Obligation, ...] = ()
    visible: bool = True
    missing: tuple[str, ...] = ()
    ruling: Ruling | None = None

    @property
    def allowed(self) -> bool:
        """Whether the call may go on to its duties."""
        return self.effect is ALLOW

    @property
    def matched(self) -> tuple[Match, ...]:
        """Every rule that spoke for any principal, once, in chain order."""
        return tuple(dict.fromkeys(m for answer in self.answers for m in answer.matched))


def questions(subject: str, actors: tuple[str, ...], action: str) -> tuple[Question, ...]:
    """Whom to ask, and what, in the order of the chain.

    The person is asked for the action itself, every earlier agent for `relay`, and the agent that makes the call now for the
    action again.  Yes is needed from all of them.
    """
    person = Question(subject, SUBJECT, action)
    if not actors:
        return (person,)
    makes_it = Question(actors[-1], ACTOR, action)
    if len(actors) == 1:
        return person, makes_it
    return (person, *[Question(actor, RELAY, "relay") for actor in actors[:-1]], makes_it)
