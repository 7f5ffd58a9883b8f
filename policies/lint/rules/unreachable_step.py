"""Steps of workflows that nobody could ever make."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity
from policies.rules import Rule as Grant
from policies.workflows.model import Before, By, Distinct, Locked, Rule, Steps, Workflow

SEVERITY: Severity = "error"
_MADE = ("call", "send", "read", "get", "*")


def find(ground: Ground) -> Iterator[Hit]:
    """A workflow needs a step that no allow line lets anybody make, or not the agent that it names.

    Whatever waits for the step is refused for ever: what `before`, `chain` and `parallel` need, what ends a lock, what is for
    different hands.

    Write the allow lines for the agent and for the people that it works for, name another agent, or take the rule out.
    """
    for workflow in ground.bundle.workflows.values():
        for rule in workflow.rules:
            for steps, by in _needed(rule):
                if not _could(ground, workflow, steps, by):
                    place = (rule.source.file, rule.source.line, rule.source.column)
                    whom = f"let {by.text} make" if by is not None else "let anybody make"
                    help_ = "write an allow line for it in grants/, or take the rule out"
                    yield Hit(place, f"no line would {whom} the step '{steps.text}' of '{rule.id}'", help_)


def _needed(rule: Rule) -> Iterator[tuple[Steps, By | None]]:
    match rule:
        case Before():
            yield rule.needs, rule.by
        case Locked():
            yield rule.last, None
        case Distinct():
            yield from ((steps, None) for steps in rule.steps)


def _could(ground: Ground, workflow: Workflow, steps: Steps, by: By | None) -> bool:
    """Whether some allow line speaks of one of these steps, for the agent where one is named."""
    grants = [grant for grant in ground.bundle.rules if grant.effect == "allow" and grant.action in _MADE]
    return any(_speaks(ground, grant, workflow, steps) and _of(ground, grant, workflow, by) for grant in grants)


def _speaks(ground: Ground, grant: Grant, workflow: Workflow, steps: Steps) -> bool:
    if grant.tenant != "*" and grant.tenant not in workflow.tenants:
        return False
    tools = ground.tools_of.get(grant.tool)
    if tools is not None:
        return any(steps.covers(tool) for tool in tools)
    if grant.tool.endswith("*"):
        stem = grant.tool.removesuffix("*")
        return any(name.startswith(stem) for name in steps.names) or any(
            start.startswith(stem) or stem.startswith(start) for start in steps.beginnings
        )
    return steps.covers(grant.tool)


def _of(ground: Ground, grant: Grant, workflow: Workflow, by: By | None) -> bool:
    if by is None or grant.who == "*":
        return True
    tenants = workflow.tenants if grant.tenant == "*" else {grant.tenant}
    return any(grant.who in ground.closure.of(agent, tenant) for agent in by.agents for tenant in tenants)
