"""What is wrong with a workflow's rules taken together: circles, contradictions, and rules that nobody could ever meet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from policies.finding import Report
from policies.model import Source
from policies.workflows.model import (
    Before,
    Budget,
    Coordinator,
    Distinct,
    Locked,
    Once,
    Only,
    Rule,
    Steps,
    Taint,
    Within,
    Workflow,
)
from policies.workflows.terms import World


def named_in(rules: Iterable[Rule]) -> Iterator[Steps]:
    """Every step that a rule names, except `*`: what all calls are is no step of this workflow."""
    for steps in _every(rules):
        if "" not in steps.beginnings:
            yield steps


def _every(rules: Iterable[Rule]) -> Iterator[Steps]:
    for rule in rules:
        match rule:
            case Before():
                yield from (rule.tool, rule.needs)
            case Within():
                yield from (rule.tool, *((rule.after,) if rule.after is not None else ()))
            case Locked() | Distinct():
                yield from rule.steps
            case Once() | Budget():
                yield rule.tool
            case Only():
                yield from rule.tools
            case Coordinator():
                yield from rule.calls
            case Taint():
                yield rule.deny
                yield from (each.needs for each in rule.cleared)


def check(workflow: Workflow, world: World, report: Report) -> None:
    """Report everything; `workflow` was read without a finding."""
    for check_ in (_circles, _itself, _only, _locked, _once, _hands, _coordinated, _tenants):
        for source, code, message, help_ in check_(workflow, world):
            report.add(code, (source.file, source.line, source.column), message, help_)


Found = Iterator[tuple[Source, str, str, str]]


def _befores(workflow: Workflow) -> list[Before]:
    return [rule for rule in workflow.rules if isinstance(rule, Before)]


def _circles(workflow: Workflow, _world: World) -> Found:
    """A step that must come before itself can never be made: `before`, `chain` and `parallel` together have no circle.

    An object that is one of several which would do (a set, a pattern) stands for itself alone: another of them may do.
    """
    edges: dict[str, list[tuple[str, Before]]] = {}
    for rule in _befores(workflow):
        if len(rule.needs.names) == 1 and not rule.needs.beginnings:
            (needed,) = rule.needs.names
            for name in rule.tool.names:
                edges.setdefault(name, []).append((needed, rule))
    done: set[str] = set()
    for start in edges:
        path: list[str] = []
        stack = [(start, iter(edges.get(start, ())))]
        path.append(start)
        while stack:
            node, rest = stack[-1]
            edge = next(rest, None)
            if edge is None:
                stack.pop()
                path.pop()
                done.add(node)
            elif edge[0] in path:
                circle = " needs ".join([*path[path.index(edge[0]) :], edge[0]])
                yield edge[1].source, "workflow-cycle", f"no step can come first: {circle}", "take one of the rules out"
            elif edge[0] not in done:
                path.append(edge[0])
                stack.append((edge[0], iter(edges.get(edge[0], ()))))


def _itself(workflow: Workflow, _world: World) -> Found:
    for rule in _befores(workflow):
        if rule.tool.within(rule.needs) and rule.needs.within(rule.tool) and len(rule.tool.names) != 1:
            message = f"'{rule.needs.text}' would have to come before itself"
            yield rule.source, "workflow-cycle", message, "name the step that comes first"


def _only(workflow: Workflow, _world: World) -> Found:
    """What must be done must be allowed by `only`."""
    for only in (rule for rule in workflow.rules if isinstance(rule, Only)):
        for rule in workflow.rules:
            for steps in _every([rule]) if not isinstance(rule, Only | Budget | Taint) else ():
                if "" not in steps.beginnings and not any(steps.overlaps(tool) for tool in only.tools):
                    message = f"'{steps.text}' is a step, and 'only' (line {only.source.line}) lets nobody make it"
                    yield rule.source, "workflow-contradiction", message, "add it to 'only', or take the rule out"


def _locked(workflow: Workflow, _world: World) -> Found:
    """Within a lock nothing else can be done, so that what its steps need stands in it or comes before it."""
    befores = _befores(workflow)
    for rule in (rule for rule in workflow.rules if isinstance(rule, Locked)):
        if rule.first.overlaps(rule.last):
            message = f"'{rule.last.text}' would lock and unlock at once"
            yield rule.source, "workflow-contradiction", message, "the first and the last step differ"
        for step in befores:
            inside = any(step.tool.within(each) for each in rule.steps[1:])
            outside = not any(step.needs.overlaps(each) for each in rule.steps)
            after_lock = any(
                other.tool.overlaps(step.needs) and other.needs.within(rule.first) for other in befores if other is not step
            )
            if inside and outside and after_lock:
                message = f"'{step.needs.text}' comes after '{rule.first.text}', and is locked out until '{rule.last.text}'"
                yield rule.source, "workflow-contradiction", message, "add it to the locked steps"
        order = [each for each in befores if each.needs.within(rule.last) and any(each.tool.within(s) for s in rule.steps[:-1])]
        for step in order:
            if step.tool.within(rule.first):
                continue  # the next round may well need the last one
            message = f"'{step.tool.text}' needs '{rule.last.text}', which ends the lock that it stands in"
            yield step.source, "workflow-contradiction", message, "turn the order round"


def _once(workflow: Workflow, _world: World) -> Found:
    """What may be done once cannot be needed and be too old."""
    for once in (rule for rule in workflow.rules if isinstance(rule, Once)):
        for budget in (rule for rule in workflow.rules if isinstance(rule, Budget)):
            plain = budget.per == ("workflow",) and budget.by is None and not once.same and budget.tool == once.tool
            if plain and budget.count is not None and budget.count > 1:
                message = f"'{once.tool.text}' may be called once (line {once.source.line}): its count never matters"
                yield budget.source, "workflow-contradiction", message, "keep one of the two"


def _hands(workflow: Workflow, _world: World) -> Found:
    """Steps that are for different agents cannot both be for the same one."""
    for rule in (rule for rule in workflow.rules if isinstance(rule, Distinct)):
        for index, one in enumerate(rule.steps):
            for other in rule.steps[index + 1 :]:
                if one.overlaps(other):
                    message = f"'{one.text}' and '{other.text}' are no two steps"
                    yield rule.source, "workflow-contradiction", message, "name steps that have nothing in common"
        if rule.of != "agent":
            continue
        before = _befores(workflow)
        fixed = [(step, each.by) for step in rule.steps for each in before if each.by is not None and each.needs == step]
        for index, (one, by) in enumerate(fixed):
            for other, and_by in fixed[index + 1 :]:
                if one is not other and len(by.agents | and_by.agents) == 1:
                    message = f"'{one.text}' and '{other.text}' are for different agents, and both needed by {by.text}"
                    yield rule.source, "workflow-contradiction", message, "name another agent in one of the 'before' rules"


def _coordinated(workflow: Workflow, _world: World) -> Found:
    """Who is needed must be reachable."""
    rules = [rule for rule in workflow.rules if isinstance(rule, Coordinator)]
    if len(rules) > 1:
        for rule in rules[1:]:
            message = f"the coordinator stands in line {rules[0].source.line} already: each would refuse the other's calls"
            yield rule.source, "workflow-contradiction", message, "keep one coordinator"
    for rule in rules[:1]:
        for step in _befores(workflow):
            sent = [name for name in step.needs.names if name.startswith("a2a:")]
            if sent and not any(steps.covers(name) for name in sent for steps in rule.calls):
                if any(f"agent:{name.removeprefix('a2a:')}" in rule.agent.agents for name in sent):
                    continue
                message = f"'{step.needs.text}' is needed, and the coordinator calls no such agent"
                yield step.source, "workflow-contradiction", message, "add it to 'calls'"


def _tenants(workflow: Workflow, world: World) -> Found:
    """A step that exists in none of the workflow's tenants can never be made."""
    tools = world.registry.tools
    for rule in workflow.rules:
        for steps in _every([rule]):
            specs = [tools[name] for name in steps.names if name in tools]
            if specs and not any(spec.tenants & workflow.tenants for spec in specs):
                message = f"'{steps.text}' exists in no tenant of this workflow"
                yield rule.source, "unmeetable-rule", message, "name its tenant, or take the rule out"
