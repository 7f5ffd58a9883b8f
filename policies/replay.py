"""A question that was answered before, asked again: is the answer the same, and if not, which rules make the difference?

What is compared is what a record can hold: verdicts and the texts of rules, never the rules themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from policies.model import OF_WORKFLOWS, Decision, Effect, Reason, Role, Ruling

MOST_RULES: Final = 32
"""Rules of workflows that one record names."""
_OF_WORKFLOWS: Final = frozenset(reason.value for reason in OF_WORKFLOWS)


class Direction(StrEnum):
    """In which way an answer became another one; the first is the one to look at."""

    GRANTED = "deny->allow"
    TAKEN = "allow->deny"
    DUTIES = "duties"  # allowed before and after, under other duties


@dataclass(frozen=True, slots=True)
class Asked:
    """What one principal's question came to; rules as `RULE file:line`.

    who  the agent's name; "" for the person, whose name is no part of an answer.
    """

    who: str
    role: str
    action: str
    allow: bool
    rules: tuple[str, ...] = ()
    duties: tuple[str, ...] = ()
    near: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ruled:
    """What rules of workflows said, by their texts: names of the definitions, who spoke, who refused, who only watched."""

    held: tuple[str, ...]
    rules: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    watched: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision as a record holds it.  Equal verdicts are the same decision, made by the same bundle.

    ruled  what its workflows said; None where none held it.
    """

    effect: str
    reason: str
    bundle: str
    asked: tuple[Asked, ...] = ()
    obligations: tuple[str, ...] = ()
    ruled: Ruled | None = None

    @property
    def allowed(self) -> bool:
        """Whether it let the call go on."""
        return self.effect == "allow"

    @property
    def of_workflows(self) -> bool:
        """Whether a workflow had a word in it."""
        return self.granted != self

    @property
    def granted(self) -> Verdict:
        """What the rules of grants alone had said: a workflow is asked of what they allow, and of nothing else."""
        if self.reason in _OF_WORKFLOWS:
            return replace(self, effect=Effect.ALLOW.value, reason=Reason.ALLOWED.value, ruled=None)
        return replace(self, ruled=None)

    @classmethod
    def of(cls, decision: Decision) -> Verdict:
        """What a record would hold of this decision."""
        return cls(
            decision.effect.value,
            decision.reason.value,
            decision.bundle,
            tuple(
                Asked(
                    "" if answer.question.role is Role.SUBJECT else answer.question.principal,
                    answer.question.role.value,
                    answer.question.action,
                    answer.allowed,
                    tuple(match.text for match in answer.matched if match.effect != "require"),
                    tuple(match.text for match in answer.matched if match.effect == "require"),
                    tuple(match.text for match in answer.near),
                )
                for answer in decision.answers
            ),
            tuple(obligation.name for obligation in decision.obligations),
            _ruled(decision.ruling) if decision.ruling is not None and decision.ruling.held else None,
        )


def _ruled(ruling: Ruling) -> Ruled:
    return Ruled(
        tuple(name for name, _ in ruling.held),
        tuple(match.text for match in ruling.spoke[:MOST_RULES]),
        tuple(each.match.text for each in ruling.refused[:MOST_RULES]),
        tuple(each.match.text for each in ruling.watched[:MOST_RULES]),
    )


@dataclass(frozen=True, slots=True)
class Change:
    """An answer that became another one.

    rules   the rules that speak in only one of the two answers, for the principals whose own answer changed; where there are
            none, those that speak now.  As `RULE file:line`, or `(reason)` where no rule speaks at all.
    before  the reason code then; `after` now.
    """

    direction: Direction
    rules: tuple[str, ...]
    before: str
    after: str


FIELDS: Final = ("effect", "reason", "bundle", "asked", "obligations", "ruled")


def differences(recorded: Verdict, again: Verdict) -> tuple[str, ...]:
    """The parts of a verdict in which these two are not the same; none where they are identical."""
    return tuple(name for name in FIELDS if getattr(recorded, name) != getattr(again, name))


def change(before: Verdict, after: Verdict) -> Change | None:
    """What became of an answer under other rules; None where it stayed.  Both must be answers to one question."""
    if before.allowed != after.allowed:
        direction = Direction.GRANTED if after.allowed else Direction.TAKEN
        return Change(direction, _responsible(before, after), before.reason, after.reason)
    if after.allowed and set(before.obligations) != set(after.obligations):
        spoke = [text for asked in before.asked for text in asked.duties]
        speaks = [text for asked in after.asked for text in asked.duties]
        return Change(Direction.DUTIES, _only_one(spoke, speaks) or tuple(dict.fromkeys(speaks)), before.reason, after.reason)
    return None


def rule_of(text: str) -> str:
    """The id in `RULE file:line`: a line keeps it when it moves."""
    return text.partition(" ")[0]


def _responsible(before: Verdict, after: Verdict) -> tuple[str, ...]:
    """The rules behind a flip."""
    if before.granted.allowed and after.granted.allowed:  # a workflow made it
        return _of_workflows(before, after) or (f"({after.reason if not after.allowed else before.reason})",)
    then = before.asked or (None,) * len(after.asked)
    now = after.asked or (None,) * len(before.asked)
    spoke: list[str] = []
    speaks: list[str] = []
    for old, new in zip(then, now, strict=False):
        if old is not None and new is not None and old.allow == new.allow:
            continue
        spoke += old.rules if old is not None else ()
        speaks += new.rules if new is not None else ()
    found = _only_one(spoke, speaks) or tuple(dict.fromkeys(speaks))
    return found or (f"({after.reason if not after.allowed else before.reason})",)


def _of_workflows(before: Verdict, after: Verdict) -> tuple[str, ...]:
    """The rules of workflows that refuse in one of the two alone; where there are none, those that refuse."""
    then = list(before.ruled.refused) if before.ruled is not None else []
    now = list(after.ruled.refused) if after.ruled is not None else []
    return _only_one(then, now) or tuple(dict.fromkeys((*now, *then)))


def _only_one(before: list[str], after: list[str]) -> tuple[str, ...]:
    """The texts whose rule stands in one of the lists alone: those that came first, then those that went."""
    old, new = {rule_of(text) for text in before}, {rule_of(text) for text in after}
    came = [text for text in after if rule_of(text) not in old]
    went = [text for text in before if rule_of(text) not in new]
    return tuple(dict.fromkeys((*came, *went)))


@dataclass(slots=True)
class Group:
    """How many answers changed alike, and the first few records of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)


class Tally:
    """What a replay comes to, in memory that does not grow with the number of questions.

    asked    answers that were compared; `changed` by direction.
    reasons  denials that stayed denials, for another reason.
    groups   (direction, `rule` | `subject` | `tool`) → name → group.  Names beyond `most` are counted under `OTHERS`.
    """

    OTHERS: Final = "(others)"

    def __init__(self, *, most: int = 1000, examples: int = 3) -> None:
        self._most = most
        self._examples = examples
        self.asked = 0
        self.reasons = 0
        self.changed: dict[Direction, int] = dict.fromkeys(Direction, 0)
        self.groups: dict[tuple[Direction, str], dict[str, Group]] = {}

    def add(self, before: Verdict, after: Verdict, *, record: str, subject: str, tool: str) -> Change | None:
        """Compare two answers to one question, and note what changed."""
        self.asked += 1
        found = change(before, after)
        if found is None:
            self.reasons += not after.allowed and before.reason != after.reason
            return None
        self.changed[found.direction] += 1
        self._note(found.direction, "subject", subject, record)
        self._note(found.direction, "tool", tool, record)
        for rule in found.rules:
            self._note(found.direction, "rule", rule, record)
        return found

    def top(self, direction: Direction, kind: str, most: int | None = None) -> list[tuple[str, Group]]:
        """The groups of one kind, the largest first."""
        groups = self.groups.get((direction, kind), {})
        return sorted(groups.items(), key=lambda item: (-item[1].count, item[0]))[:most]

    def _note(self, direction: Direction, kind: str, name: str, record: str) -> None:
        groups = self.groups.setdefault((direction, kind), {})
        group = groups.get(name)
        if group is None:
            group = groups.setdefault(name if len(groups) < self._most else self.OTHERS, Group())
        group.count += 1
        if len(group.examples) < self._examples:
            group.examples.append(record)
