"""What each keyword of workflow files means, by going through every step for every rule: slow, without indices, and short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from policies.workflows.model import Before, Budget, Coordinator, Distinct, Locked, Once, Only, Rule, Steps, Within, Workflow
from policies.workflows.story import State, Step

HOUR = 3_600_000_000
TOOLS = ("t.a", "t.b", "t.c", "a2a:x", "a2a:y")
HERE = "wf-1"
COUNTING = {State.RUNNING, State.OK, State.OPEN, State.UNCERTAIN}


@dataclass(frozen=True)
class World:
    """A workflow, what happened (each step with its workflow's id), and what is asked."""

    workflow: Workflow
    steps: tuple[tuple[str, Step], ...]
    asked: Step

    @property
    def held(self) -> list[tuple[str, Step]]:
        """The steps that the workflow's rules held."""
        return [(name, step) for name, step in self.steps if "w" in step.held]

    @property
    def mine(self) -> list[Step]:
        """Those of the workflow that is asked in, by arrival."""
        return sorted((step for name, step in self.held if name == HERE), key=lambda step: (step.at, step.id))


def meant(world: World) -> set[str]:
    """Ids of the rules that refuse."""
    return {rule.id for rule in world.workflow.rules if not _KEYWORDS[type(rule)](rule, world)}


def _before(rule: Before, world: World) -> bool:
    asked = world.asked
    return asked.resource not in _named(rule.tool) or any(_satisfies(rule, step, asked) for step in world.mine)


def _within(rule: Within, world: World) -> bool:
    if world.asked.resource not in _named(rule.tool):
        return True
    if rule.after is None:
        since = [step for step in world.mine if step.state in COUNTING][:1]
    else:
        since = [step for step in world.mine if step.state is State.OK and step.resource in _named(rule.after)][-1:]
    return all(world.asked.at - step.at <= rule.seconds * 1_000_000 for step in since)


def _locked(rule: Locked, world: World) -> bool:
    first, last = _named(rule.steps[0]), _named(rule.steps[-1])
    locked = False
    for step in world.mine:
        if step.state in COUNTING and step.resource in first:
            locked = True
        elif step.state is State.OK and step.resource in last:
            locked = False
    return not locked or any(world.asked.resource in _named(each) for each in rule.steps)


def _once(rule: Once, world: World) -> bool:
    asked = world.asked
    if asked.resource not in _named(rule.tool):
        return True
    if rule.same and "k" not in asked.marks:
        return False
    done = [step for step in world.mine if step.resource in _named(rule.tool) and step.state in COUNTING]
    return not any(not rule.same or step.marks.get("k") == asked.marks["k"] for step in done)


def _only(rule: Only, world: World) -> bool:
    return any(world.asked.resource in _named(each) for each in rule.tools)


def _coordinator(_rule: Coordinator, world: World) -> bool:
    to = world.asked.resource
    return not to.startswith("a2a:") or to == "a2a:x" or (world.asked.actor == "agent:x" and to == "a2a:y")


def _named(steps: Steps) -> set[str]:
    return {tool for tool in TOOLS if tool in steps.names or any(tool.startswith(start) for start in steps.beginnings)}


def _satisfies(rule: Before, step: Step, asked: Step) -> bool:
    value, bound = step.results.get("r"), rule.result
    fits = bound is None or (
        value == bound.equals and type(value) is str
        if bound.equals is not None
        else isinstance(value, Decimal) and value >= (bound.least or value) and value <= (bound.most or value)
    )
    return (
        step.state is State.OK
        and step.resource in _named(rule.needs)
        and (rule.by is None or step.actor == "agent:x")
        and (not rule.same or (asked.marks.get("k") is not None and step.marks.get("k") == asked.marks["k"]))
        and (rule.seconds is None or asked.at - step.at <= rule.seconds * 1_000_000)
        and fits
    )


def _apart(rule: Distinct, world: World) -> bool:
    asked = world.asked
    if not any(asked.resource in _named(each) for each in rule.steps):
        return True
    if rule.same and "k" not in asked.marks:
        return False
    own = next(each for each in rule.steps if asked.resource in _named(each))
    for step in world.mine if rule.of == "agent" else [step for _, step in world.held]:
        about = not rule.same or step.marks.get("k") == asked.marks["k"]
        same = step.actor == asked.actor if rule.of == "agent" else step.subject == asked.subject
        other = any(step.resource in _named(each) for each in rule.steps if each is not own)
        if about and same and other and step.state in COUNTING:
            return False
    return True


def _affords(rule: Budget, world: World) -> bool:
    asked = world.asked

    def counted(step: Step) -> bool:
        return step.resource in _named(rule.tool) and (rule.by is None or step.actor == "agent:x") and step.state in COUNTING

    if not counted(asked):
        return True
    day = 24 * HOUR
    like = [
        step
        for name, step in world.held
        if counted(step)
        and ("workflow" not in rule.per or name == HERE)
        and ("subject" not in rule.per or step.subject == asked.subject)
        and ("agent" not in rule.per or step.actor == asked.actor)
        and ("tool" not in rule.per or step.resource == asked.resource)
        and ("day" not in rule.per or step.at // day == asked.at // day)
    ]
    if rule.count is not None and len(like) >= rule.count:
        return False
    if rule.sum is None or rule.max is None:
        return True
    return "n" in asked.sums and sum(step.sums.get("n", Decimal(0)) for step in like) + asked.sums["n"] <= rule.max


_KEYWORDS: dict[type[Rule], Callable[[Any, World], bool]] = {
    Before: _before,
    Within: _within,
    Locked: _locked,
    Once: _once,
    Distinct: _apart,
    Budget: _affords,
    Only: _only,
    Coordinator: _coordinator,
}
