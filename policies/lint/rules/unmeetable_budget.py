"""Budgets that no call which is granted could ever keep to."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint import truth
from policies.lint.ground import Ground, Hit, Severity
from policies.rules import Rule as Grant
from policies.workflows.model import Budget, Workflow

SEVERITY: Severity = "error"
_MADE = ("call", "*")


def find(ground: Ground) -> Iterator[Hit]:
    """A budget allows less than the least that any grant of its tool lets anybody spend, or is for agents that may not call it.

    In the first case each call is granted and refused by the budget, for ever; in the second the budget counts nothing.

    Raise `max`, widen the condition of a grant, or name the agents that call the tool.
    """
    for workflow in ground.bundle.workflows.values():
        for rule in (each for each in workflow.rules if isinstance(each, Budget)):
            place = (rule.source.file, rule.source.line, rule.source.column)
            lines = [_lines(ground, workflow, tool) for tool in sorted(rule.tool.names & ground.bundle.tools.keys())]
            if not lines or not all(lines) or rule.tool.beginnings:
                continue
            if rule.by is not None and not any(_for(ground, workflow, rule, line) for found in lines for line in found):
                help_ = "name the agents that grants let call it, or take 'by' out"
                yield Hit(place, f"no line lets {rule.by.text} call '{rule.tool.text}': '{rule.id}' counts nothing", help_)
            elif rule.sum is not None and all(_beyond(ground, found, rule) for found in lines):
                message = f"every line that allows '{rule.tool.text}' asks for more than {rule.max} of '{rule.sum}'"
                yield Hit(place, f"{message}: '{rule.id}' refuses each call", "raise 'max', or widen the condition of a line")


def _lines(ground: Ground, workflow: Workflow, tool: str) -> list[Grant]:
    """The allow lines that speak of calls of a tool."""
    return [
        grant
        for grant in ground.bundle.rules
        if grant.effect == "allow"
        and grant.action in _MADE
        and (grant.tenant == "*" or grant.tenant in workflow.tenants)
        and tool in ground.tools_of.get(grant.tool, frozenset())
    ]


def _for(ground: Ground, workflow: Workflow, rule: Budget, grant: Grant) -> bool:
    if grant.who == "*" or rule.by is None:
        return True
    tenants = workflow.tenants if grant.tenant == "*" else {grant.tenant}
    return any(grant.who in ground.closure.of(agent, tenant) for agent in rule.by.agents for tenant in tenants)


def _beyond(ground: Ground, grants: list[Grant], rule: Budget) -> bool:
    """Whether all lines for people, or all for agents, allow only what is beyond the budget: both are needed for a call."""
    agents = [grant for grant in grants if grant.who.startswith(("agent:", "agents:"))]
    people = [grant for grant in grants if not grant.who.startswith(("agent:", "agents:"))]
    beyond = f"args.{rule.sum} > {rule.max:f}"
    return any(group and all(_implies(ground, grant, beyond) for grant in group) for group in (agents, people))


def _implies(ground: Ground, grant: Grant, beyond: str) -> bool:
    return grant.when is not None and truth.implies(ground.bundle.conditions[grant.when].expression.text, beyond)
