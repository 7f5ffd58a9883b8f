"""What a workflow's rules say of one call, by what happened before it: a pure function that refuses or has nothing to say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact
from types import MappingProxyType
from typing import Final, NamedTuple

from policies.model import Brought, Obligation, Reason
from policies.workflows.model import (
    Before,
    Bound,
    Budget,
    Coordinator,
    Distinct,
    Locked,
    Once,
    Only,
    Rule,
    Same,
    Taint,
    Within,
    Workflow,
)
from policies.workflows.phrases import all_of, bounds_of, one_of, time_of, verb_of
from policies.workflows.story import COUNTED, DONE, Step, Story, Value

MICRO: Final = 1_000_000
MAX_DIGITS: Final = 60
"""Digits and power of ten of a number that is added up: more is no amount, and would make exact sums costly."""


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule that refuses.

    missing  public names of the steps that would have to come first; none where no step cures it.
    cure     what to do instead, for the agent and for people: names of steps, agents and arguments, never a value.
    brought  the calls that brought labels.
    must     the duty with which the call may be made all the same.
    """

    rule: Rule
    reason: Reason
    cure: str
    missing: tuple[str, ...] = ()
    brought: tuple[Brought, ...] = ()
    must: Obligation | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What was used of a budget: by calls that ran or may have run, running ones among them."""

    count: int = 0
    total: Decimal = Decimal(0)

    def plus(self, count: int, total: Decimal) -> Spent:
        """The same with more, exactly; or with less."""
        return Spent(self.count + count, _EXACT.add(self.total, total))


_EXACT: Final = Context(prec=300, traps=[Inexact])
"""Sums of amounts (`amount`) are exact, or there are none."""


class Purse(NamedTuple):
    """One budget for one of what it is counted per: (scope, value) in the order of `SCOPES`."""

    budget: Budget
    workflow: str
    scope: tuple[tuple[str, str], ...]


class Shared(NamedTuple):
    """Steps of all workflows that are about the same thing, and for different persons."""

    rule: Distinct
    workflow: str
    marks: tuple[tuple[str, str], ...]


class Past(NamedTuple):
    """What a workflow's rules are decided by.

    story   of this workflow.
    spent   of every purse that `purses` names.
    others  steps of other workflows that `shared` asks for.
    came    by a rule's id and a label, a step of another workflow that brought it to where the rule looks.
    exempt  ids of rules about labels whose exemption the call is.
    """

    story: Story
    spent: Mapping[Purse, Spent]
    others: Mapping[Shared, tuple[Step, ...]]
    came: Mapping[tuple[str, str], Step] = MappingProxyType({})
    exempt: frozenset[str] = frozenset()


def purses(workflow: Workflow, step: Step, workflow_id: str) -> Iterator[Purse]:
    """The budgets that a step draws on."""
    for rule in workflow.rules:
        if isinstance(rule, Budget) and draws(rule, step):
            values = _values(step, workflow_id)
            yield Purse(rule, workflow.name, tuple((scope, values[scope]) for scope in rule.per))


def draws(budget: Budget, step: Step) -> bool:
    """Whether a step is one that a budget counts."""
    return budget.tool.covers(step.resource) and (budget.by is None or step.actor in budget.by.agents)


def day_of(at: int) -> str:
    """The day of a moment, in UTC."""
    return datetime.fromtimestamp(at // MICRO, UTC).date().isoformat()


def amount(value: object) -> Decimal | None:
    """A number that can be added up exactly; None for what is none, is below zero, or is beyond all measure."""
    if type(value) is int:
        if abs(value) >= 10**MAX_DIGITS:
            return None
        value = Decimal(value)
    if not isinstance(value, Decimal) or not value.is_finite() or value < 0:
        return None
    sign, digits, exponent = value.as_tuple()
    del sign
    return value if isinstance(exponent, int) and -MAX_DIGITS <= exponent <= MAX_DIGITS and len(digits) <= MAX_DIGITS else None


def shared(workflow: Workflow, step: Step) -> Iterator[Shared]:
    """What must be known of other workflows."""
    for rule in workflow.rules:
        if isinstance(rule, Distinct) and rule.of == "person" and any(each.covers(step.resource) for each in rule.steps):
            marks = _marks(rule.same, step)
            if marks is not None:
                yield Shared(rule, workflow.name, marks)


def judge(workflow: Workflow, step: Step, past: Past, workflow_id: str) -> tuple[tuple[Rule, ...], tuple[Breach, ...]]:
    """The rules that speak of a step, and those that refuse it.  `step` is not in the story."""
    spoke: list[Rule] = []
    breaches: list[Breach] = []
    drawn = {purse.budget.id: purse for purse in purses(workflow, step, workflow_id)}
    for rule in workflow.rules:
        found = _asked(rule, workflow.name, step, past, drawn)
        if found is None:
            continue
        spoke.append(rule)
        if isinstance(found, Breach):
            breaches.append(found)
    return tuple(spoke), tuple(breaches)


def freed(workflow: Workflow, step: Step, past: Past) -> tuple[Taint, ...]:
    """The rules about labels that would say no to a step, but for the exemption that it is."""
    if not past.exempt:
        return ()
    bound = past._replace(exempt=frozenset())
    exempt = (rule for rule in workflow.rules if isinstance(rule, Taint) and rule.id in past.exempt)
    return tuple(rule for rule in exempt if isinstance(_asked(rule, workflow.name, step, bound, {}), Breach))


_FINE: Final = "fine"


def _asked(rule: Rule, name: str, step: Step, past: Past, drawn: Mapping[str, Purse]) -> Breach | str | None:
    """A breach; `_FINE` where the rule speaks and is met; None where it does not speak of this step."""
    story = past.story
    match rule:
        case Before() if rule.tool.covers(step.resource):
            return _before(rule, name, step, story)
        case Within() if rule.tool.covers(step.resource):
            return _within(rule, name, step, story)
        case Locked():
            return _locked(rule, name, step, story)
        case Once() if rule.tool.covers(step.resource):
            return _once(rule, name, step, story)
        case Distinct() if any(each.covers(step.resource) for each in rule.steps):
            return _distinct(rule, name, step, past)
        case Budget() if rule.id in drawn:
            return _budget(rule, step, past.spent[drawn[rule.id]])
        case Only():
            return _only(rule, name, step)
        case Taint() if rule.deny.covers(step.resource):
            return _taint(rule, name, step, past)
        case Coordinator() if step.resource.startswith("a2a:"):
            return _coordinator(rule, step)
        case _:
            return None


def qualifying(rule: Before, name: str, at: int, story: Story, marks: tuple[tuple[str, str], ...] = ()) -> Iterator[Step]:
    """Earlier steps that satisfy a rule at a moment, with these marks where some are given; the latest first."""
    oldest = at - rule.seconds * MICRO if rule.seconds is not None else None
    for past in story.latest(rule.needs, name, marks):
        if past.state not in DONE or (rule.by is not None and past.actor not in rule.by.agents):
            continue
        if oldest is not None and past.at < oldest:
            continue
        if rule.result is None or _bounded(rule.result, past.results.get(rule.result.field)):
            yield past


# --- one function a keyword


def _before(rule: Before, name: str, step: Step, story: Story) -> Breach | str:
    marks: tuple[tuple[str, str], ...] = ()
    for own, theirs in rule.same:
        mark = step.marks.get(own)
        if mark is None:
            return Breach(rule, Reason.STEP_MISSING, f"say '{own}', as a plain value")
        marks += ((theirs, mark),)
    if next(qualifying(rule, name, step.at, story, marks), None) is not None:
        return _FINE
    said = f"first {verb_of(rule.needs)} {rule.needs.text}"
    said += f", by {rule.by.text}," if rule.by is not None else ""
    said += f" with the same {all_of([own for own, _ in rule.same])}" if rule.same else ""
    said += f", with a result in which {bounds_of(rule.result)}" if rule.result is not None else ""
    said += f"; it counts for {time_of(rule.seconds)}" if rule.seconds is not None else ""
    return Breach(rule, Reason.STEP_MISSING, said.replace(",,", ","), (rule.needs.text,))


def _within(rule: Within, name: str, step: Step, story: Story) -> Breach | str:
    begun = story.first(name) if rule.after is None else story.newest(rule.after, name, DONE)
    if begun is None or step.at <= begun.at + rule.seconds * MICRO:
        return _FINE
    if rule.after is None:
        return Breach(rule, Reason.STEP_TOO_LATE, f"begin a new workflow: this one had {time_of(rule.seconds)} for it")
    said = f"{verb_of(rule.after)} {rule.after.text} again: it is good for {time_of(rule.seconds)}"
    return Breach(rule, Reason.STEP_TOO_LATE, said, (rule.after.text,))


def _locked(rule: Locked, name: str, step: Step, story: Story) -> Breach | str | None:
    if any(each.covers(step.resource) for each in rule.steps):
        return _FINE
    begun = story.newest(rule.first, name, COUNTED)
    if begun is None:
        return None
    ended = story.newest(rule.last, name, DONE)
    if ended is not None and ended.place > begun.place:
        return None
    left = tuple(each.text for each in rule.steps[1:])
    return Breach(
        rule, Reason.STEP_LOCKED, f"go on with {one_of(left)}: until {rule.last.text} has succeeded nothing else is", left
    )


def _once(rule: Once, name: str, step: Step, story: Story) -> Breach | str:
    marks = _marks(rule.same, step)
    if marks is None:
        return Breach(rule, Reason.STEP_REPEATED, f"say {all_of([own for own, _ in rule.same])}, as plain values")
    if any(past.state.counts for past in story.latest(rule.tool, name, marks)):
        for_it = f" for the same {all_of([own for own, _ in rule.same])}" if rule.same else ""
        return Breach(rule, Reason.STEP_REPEATED, f"it may be done once{for_it} in a workflow, and was done or is being done")
    return _FINE


def _distinct(rule: Distinct, name: str, step: Step, past: Past) -> Breach | str:
    marks = _marks(rule.same, step)
    if marks is None:
        return Breach(rule, Reason.SAME_HANDS, f"say {all_of([own for own, _ in rule.same])}, as plain values")
    mine = next(each for each in rule.steps if each.covers(step.resource))
    for other in rule.steps:
        if other is mine:
            continue
        if rule.of == "agent":
            done: Iterable[Step] = past.story.latest(other, name, marks)
        else:
            done = (each for each in past.others.get(Shared(rule, name, marks), ()) if other.covers(each.resource))
        if any(each.state.counts and _who(rule, each) == _who(rule, step) for each in done):
            whom = "agent" if rule.of == "agent" else "person"
            return Breach(rule, Reason.SAME_HANDS, f"this is for another {whom} than the one who did {other.text}")
    return _FINE


def _who(rule: Distinct, step: Step) -> str:
    return step.actor if rule.of == "agent" else step.subject


def _budget(rule: Budget, step: Step, spent: Spent) -> Breach | str:
    per = f" for each {all_of(list(rule.per))}"
    if rule.count is not None and spent.count >= rule.count:
        return Breach(rule, Reason.BUDGET_SPENT, f"{rule.tool.text} may be called {rule.count} times{per}; {_anew(rule)}")
    if rule.sum is not None and rule.max is not None:
        own = step.sums.get(rule.sum)
        if own is None:
            return Breach(rule, Reason.BUDGET_SPENT, f"say '{rule.sum}', as a number from zero")
        if spent.plus(1, own).total > rule.max:
            said = f"'{rule.sum}' of {rule.tool.text} may come to {rule.max}{per}, running calls among them; {_anew(rule)}"
            return Breach(rule, Reason.BUDGET_SPENT, said)
    return _FINE


def _anew(rule: Budget) -> str:
    return "it begins anew with the next day (UTC)" if "day" in rule.per else "it begins anew with a new workflow"


def _only(rule: Only, name: str, step: Step) -> Breach | str:
    if any(each.covers(step.resource) for each in rule.tools):
        return _FINE
    allowed = tuple(each.text for each in rule.tools)
    return Breach(rule, Reason.NOT_IN_WORKFLOW, f"the workflow {name} has {one_of(allowed)} alone")


def _coordinator(rule: Coordinator, step: Step) -> Breach | str:
    if f"agent:{step.resource.removeprefix('a2a:')}" in rule.agent.agents:
        return _FINE  # the way in
    if step.actor not in rule.agent.agents:
        return Breach(
            rule, Reason.NOT_IN_WORKFLOW, f"in this workflow {rule.agent.text} alone sends to agents; answer it instead"
        )
    if any(each.covers(step.resource) for each in rule.calls):
        return _FINE
    allowed = tuple(each.text for each in rule.calls)
    return Breach(rule, Reason.NOT_IN_WORKFLOW, f"in this workflow {rule.agent.text} sends to {one_of(allowed)} alone")


def _taint(rule: Taint, name: str, step: Step, past: Past) -> Breach | str:
    brought = []
    for label in rule.after:
        source = past.story.bringing(label) or past.came.get((rule.id, label))
        if source is None and (rule.of == "person" or not step.subject.startswith("svc:")):
            return _FINE
        if source is not None:
            brought.append((label, source))
    clearances = [each for each in rule.cleared if each.tool.covers(step.resource)]
    if rule.id in past.exempt or any(_before(each, name, step, past.story) == _FINE for each in clearances):
        return _FINE
    said = [f"'{label}' came in with {_said(source, step)}" for label, source in brought]
    if not said:
        said = ["a service that calls in its own name begins a workflow with each call, so that nobody knows what it read before"]
    cures = [_unless(each, name, step, past.story) for each in clearances]
    cures += [f"send what '{rule.unless.name}' allows"] if rule.unless is not None else []
    cure = f"{all_of(said)}, and may not leave by {rule.deny.text}" + (f": {one_of(tuple(cures))}" if cures else "")
    calls = tuple(Brought(label, source.resource, source.id) for label, source in brought)
    return Breach(rule, Reason.DATAFLOW, cure, brought=calls, must=rule.must)


def _said(source: Step, step: Step) -> str:
    """What a call was, for whoever made it; of another's the record alone."""
    return f"{source.resource} (record {source.id})" if source.actor == step.actor else f"another's call (record {source.id})"


def _unless(clearance: Before, name: str, step: Step, story: Story) -> str:
    found = _before(clearance, name, step, story)
    return found.cure if isinstance(found, Breach) else ""


# --- words


def _marks(same: Same, step: Step) -> tuple[tuple[str, str], ...] | None:
    """The marks by which other steps are compared with this one; None where it lacks one of them."""
    found = tuple((theirs, step.marks.get(own, "")) for own, theirs in same)
    return None if any(not mark for _, mark in found) else found


def _bounded(bound: Bound, value: Value | None) -> bool:
    if bound.equals is not None:
        return type(value) is type(bound.equals) and value == bound.equals
    if not isinstance(value, Decimal):
        return False
    return (bound.least is None or value >= bound.least) and (bound.most is None or value <= bound.most)


def spent_by(purse: Purse, steps: Iterable[tuple[str, Step]]) -> Spent:
    """What these steps, each with its workflow's id, used of a purse: the meaning of a budget, by which a faster way is held."""
    spent, budget = Spent(), purse.budget
    for workflow_id, step in steps:
        if purse.workflow in step.held and draws(budget, step) and step.state.counts:
            values = _values(step, workflow_id)
            if all(values[scope] == value for scope, value in purse.scope):
                spent = spent.plus(1, share(budget, step))
    return spent


def share(budget: Budget, step: Step) -> Decimal:
    """What a step adds to a budget's sum."""
    return step.sums.get(budget.sum, Decimal(0)) if budget.sum is not None else Decimal(0)


def _values(step: Step, workflow_id: str) -> dict[str, str]:
    return {
        "workflow": workflow_id,
        "subject": step.subject,
        "agent": step.actor,
        "tool": step.resource,
        "day": day_of(step.at),
    }
