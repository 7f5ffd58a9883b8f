"""Sets without tools in the line's tenant."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """A line is about a set that holds no tool.

    The line matches nothing. A deny line on an empty set protects nothing, and is easily believed to.

    Name the set's tools in `tools.yaml`, or take the line out.
    """
    for rule in ground.bundle.rules:
        if rule.tool.startswith("set:") and not ground.bundle.sets.get(rule.tool):
            message = f"'{rule.id}' never matches: {rule.tool} holds no tool"
            yield Hit(ground.cell(rule, "tool"), message, f"name its tools in tools.yaml, under {rule.tool}")
