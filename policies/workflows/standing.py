"""What may come next in a workflow: every step that its rules name, and whether it could be made now, with some arguments.

It asks the rules that decide calls, of a call whose arguments nobody has said yet.  Pure: no clock, no database.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from policies.model import Objection
from policies.workflows.checks import named_in
from policies.workflows.judge import Breach, Past, Purse, Spent, judge, purses, qualifying
from policies.workflows.model import Before, Budget, Coordinator, Distinct, Once, Rule, Taint, Workflow, Workflows
from policies.workflows.phrases import all_of, one_of
from policies.workflows.story import Step, Story

MOST_STEPS: Final = 500
"""Steps that are told of: a set may have many tools."""
MOST_WAYS: Final = 1000
"""Choices of arguments that are looked through for one that all rules are met by."""
_LEAST: Final = Decimal("1E-60")
_NOBODY_KNOWS: Final = "\0"
"""Stands for the value of an argument that equals no earlier one."""


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a budget.

    agent   whose, where it is counted for each agent.
    count   calls; `total` what the argument `sum` may still come to.
    """

    rule: str
    per: tuple[str, ...]
    agent: str = ""
    count: int | None = None
    sum: str = ""
    total: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Next:
    """One step, and how it stands.

    refused  rules that refuse it whatever its arguments; none: it is ready.
    watched  rules that would, and are only watched.
    when     what its arguments, or who makes it, must be all the same.
    left     of the budgets that it draws on.
    """

    resource: str
    refused: tuple[Objection, ...] = ()
    watched: tuple[Objection, ...] = ()
    when: tuple[str, ...] = ()
    left: tuple[Left, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether it could be made now, as far as rules of workflows say."""
        return not self.refused


@dataclass(frozen=True, slots=True)
class Now:
    """Where a workflow stands: whose it is, its id, its steps so far, and the moment.

    spent  what was used of a purse; `came` as in `Past`.
    """

    tenant: str
    subject: str
    workflow: str
    story: Story
    at: int
    spent: Mapping[Purse, Spent]
    came: Mapping[tuple[str, str], Step]

    def step(self, resource: str, actor: str = "") -> Step:
        """A call that nobody has made yet, about which nothing else is known."""
        return Step("", resource, actor, self.subject, self.at)


REST: Final = ""
"""As which what no rule names is asked about."""


def definitions_of(known: Workflows, story: Story, begun: str = "") -> tuple[Workflow, ...]:
    """The definitions whose rules held steps of this workflow, or by whose name it was begun."""
    held = {name for step in story.steps.values() for name in step.held} | {begun}
    return tuple(each for name, each in known.items() if name in held)


def holding_rest(definitions: Iterable[Workflow]) -> tuple[Workflow, ...]:
    """Those of them that hold calls which no rule names: by who makes them, or by the name under which all began."""
    return tuple(
        each for each in definitions if not each.binds or any(bind.tool is None or bind.tool.covers(REST) for bind in each.binds)
    )


def steps_of(definitions: Iterable[Workflow]) -> tuple[str, ...]:
    """The objects that their rules name, patterns with their star; without what all calls are."""
    found: dict[str, None] = {}
    for workflow in definitions:
        for steps in named_in(workflow.rules):
            found |= dict.fromkeys((*sorted(steps.names), *(f"{start}*" for start in steps.beginnings if start)))
    return tuple(found)[:MOST_STEPS]


def holding(known: Workflows, definitions: Iterable[Workflow], tenant: str, resource: str) -> tuple[Workflow, ...]:
    """Those, and whichever else would hold a call of this object whoever makes it."""
    mine = {each.name for each in definitions}
    return tuple(
        each
        for name, each in known.items()
        if name in mine or (resource and tenant in each.tenants and any(bind.covers(resource, ()) for bind in each.binds))
    )


def drawn(held: Iterable[Workflow], resource: str, now: Now) -> Iterator[Purse]:
    """The purses that what is left of budgets is told from."""
    for workflow in held:
        for rule in workflow.rules:
            if isinstance(rule, Budget) and rule.tool.covers(resource):
                for agent in _agents(rule, workflow.name, now):
                    yield from purses(replace(workflow, rules=(rule,)), now.step(resource, agent), now.workflow)


def standing(resource: str, held: Iterable[Workflow], now: Now) -> Next:
    """How a step stands; `REST` for what no rule names."""
    refused: list[Objection] = []
    watched: list[Objection] = []
    when: dict[str, None] = {}
    left: list[Left] = []
    for workflow in held:
        into = watched if workflow.shadow else refused
        into += [_objection(each) for each in _breaches(workflow, resource, now)]
        if not workflow.shadow:
            when |= dict.fromkeys(_conditions(workflow, resource, now))
        left += _left(workflow, resource, now)
    return Next(resource, tuple(refused), tuple(watched), tuple(when), tuple(left))


def _objection(breach: Breach) -> Objection:
    return Objection(breach.rule.match, breach.reason, breach.cure, breach.missing, breach.brought)


def _breaches(workflow: Workflow, resource: str, now: Now) -> Iterator[Breach]:
    befores = [rule for rule in workflow.rules if isinstance(rule, Before) and rule.tool.covers(resource)]
    yield from _missing(workflow.name, befores, resource, now)
    for rule in workflow.rules:
        if isinstance(rule, Before | Distinct) or (isinstance(rule, Once) and rule.same):
            continue  # told above, or by what it asks of the arguments
        if isinstance(rule, Budget) and (rule.by is not None or "agent" in rule.per):
            continue  # another agent may have some of it left
        found = _asked(workflow, rule, resource, now)
        if found is not None and found.must is None:
            yield found


def _asked(workflow: Workflow, rule: Rule, resource: str, now: Now) -> Breach | None:
    """What one rule says of a call with the arguments that suit it best."""
    step = now.step(resource, min(rule.agent.agents) if isinstance(rule, Coordinator) else "")
    asked: Rule = rule
    if isinstance(rule, Taint):
        asked = replace(rule, cleared=tuple(replace(each, same=()) for each in rule.cleared))
    if isinstance(rule, Budget) and rule.sum is not None:
        step = replace(step, sums={rule.sum: _LEAST})
    spent = {purse: now.spent.get(purse, Spent()) for purse in purses(workflow, step, now.workflow) if purse.budget is rule}
    _, breaches = judge(replace(workflow, rules=(asked,)), step, Past(now.story, spent, {}, now.came), now.workflow)
    return replace(breaches[0], rule=rule) if breaches else None


def _missing(name: str, befores: Iterable[Before], resource: str, now: Now) -> Iterator[Breach]:
    """What must come first and has not, for no choice of arguments that the rules before it leave."""
    ways: list[dict[str, str]] = [{}]
    for rule in befores:
        found = _ways(rule, name, ways, now)
        if found:
            ways = found
            continue
        nobodys = replace(now.step(resource), marks=dict.fromkeys((own for own, _ in rule.same), _NOBODY_KNOWS))
        only = Workflow(name, "", frozenset(), shadow=False, binds=(), rules=(rule,), source=rule.source)
        _, breaches = judge(only, nobodys, Past(now.story, {}, {}), now.workflow)
        yield from breaches


def _ways(rule: Before, name: str, ways: list[dict[str, str]], now: Now) -> list[dict[str, str]]:
    """Of these choices of arguments those that a rule is met by, with the arguments that it adds."""
    known = [own for own, _ in rule.same if own in ways[0]]
    by_known: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for way in ways:
        by_known[tuple(way[own] for own in known)].append(way)
    found: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    for past in qualifying(rule, name, now.at, now.story):
        marks = {own: past.marks.get(theirs, "") for own, theirs in rule.same}
        for way in by_known.get(tuple(marks[own] for own in known), ()) if all(marks.values()) else ():
            both = way | marks
            found[tuple(sorted(both.items()))] = both
            if len(found) >= MOST_WAYS:
                return list(found.values())
    return list(found.values())


def _conditions(workflow: Workflow, resource: str, now: Now) -> Iterator[str]:
    """What a call that is ready must be like all the same; names, never values."""
    for rule in workflow.rules:
        match rule:
            case Before() if rule.same and rule.tool.covers(resource):
                yield f"with the same {_own(rule.same)} as {rule.needs.text}"
            case Once() if rule.same and rule.tool.covers(resource):
                yield f"once for the same {_own(rule.same)}"
            case Distinct() if any(each.covers(resource) for each in rule.steps):
                mine = next(each for each in rule.steps if each.covers(resource))
                others = [each.text for each in rule.steps if each is not mine]
                about = f" for the same {_own(rule.same)}" if rule.same else ""
                yield f"by another {rule.of} than the one who did {one_of(tuple(others))}{about}"
            case Coordinator() if resource.startswith("a2a:") and f"agent:{resource[4:]}" not in rule.agent.agents:
                yield f"by {rule.agent.text}"
            case Taint() if rule.deny.covers(resource):
                yield from _cleared(workflow, rule, resource, now)
            case _:
                pass


def _cleared(workflow: Workflow, rule: Taint, resource: str, now: Now) -> Iterator[str]:
    strict = replace(rule, cleared=())
    _, tainted = judge(replace(workflow, rules=(strict,)), now.step(resource), Past(now.story, {}, {}, now.came), now.workflow)
    if not tainted:
        return
    ways = [f"with the same {_own(each.same)} as {each.needs.text}" for each in rule.cleared if each.tool.covers(resource)]
    ways += [f"as '{rule.unless.name}' allows"] if rule.unless is not None else []
    ways += [f"under the duty {rule.must.name}"] if rule.must is not None else []
    if ways:
        yield one_of(tuple(ways))


def _own(same: Iterable[tuple[str, str]]) -> str:
    return all_of([own for own, _ in same])


def _left(workflow: Workflow, resource: str, now: Now) -> Iterator[Left]:
    for rule in workflow.rules:
        if not isinstance(rule, Budget) or not rule.tool.covers(resource):
            continue
        for agent in _agents(rule, workflow.name, now):
            for purse in purses(replace(workflow, rules=(rule,)), now.step(resource, agent), now.workflow):
                spent = now.spent.get(purse, Spent())
                count = None if rule.count is None else max(rule.count - spent.count, 0)
                total = None if rule.max is None else max(rule.max - spent.total, Decimal(0))
                yield Left(rule.id, rule.per, agent, count, rule.sum or "", total)


def _agents(rule: Budget, name: str, now: Now) -> tuple[str, ...]:
    """For whom what is left is told: where it is each agent's own, for those that a rule names or that have drawn on it."""
    if "agent" not in rule.per and rule.by is None:
        return ("",)
    if rule.by is not None:
        return tuple(sorted(rule.by.agents)) if "agent" in rule.per else (min(rule.by.agents),)
    return tuple(dict.fromkeys(step.actor for step in now.story.latest(rule.tool, name)))
