"""Agents that the settings do not know."""

from __future__ import annotations

from collections.abc import Iterator

from policies.finding import Place, suggest
from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """A line names an agent that the settings do not know.

    Nobody can prove to be this agent, and nothing can be sent to it: the line never matches. A deny line with a misspelt
    agent protects nothing.

    Correct the name, or add the agent under `agents:` in the settings.
    """
    known = ground.facts.agents
    if known is None:
        return
    said: set[str] = set()
    for place, name in _mentions(ground):
        kind, colon, agent = name.partition(":")
        if kind in ("agent", "a2a") and colon and agent != "*" and agent not in known and agent not in said:
            said.add(agent)
            help_ = suggest(agent, known) or "add it under agents: in the settings, or correct the name"
            yield Hit(place, f"'{name}': the settings know no such agent", help_)


def _mentions(ground: Ground) -> Iterator[tuple[Place, str]]:
    for each in ground.bundle.roles:
        yield (each.source.file, each.source.line, each.source.column), each.member
    for rule in (*ground.bundle.rules, *ground.bundle.shadow):
        if rule.who.startswith("agent:"):
            yield ground.cell(rule, "who"), rule.who
        if rule.tool.startswith("a2a:"):
            yield ground.cell(rule, "tool"), rule.tool
