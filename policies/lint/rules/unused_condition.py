"""Conditions that no line names."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity
from policies.workflows.model import taints

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """A named condition stands in `conditions.yaml`, and no line of `grants/` or `shadow/` and no `unless` names it.

    It limits nothing, and a reader may believe that it does. Often the line that should carry it says `-`.

    Name it in the column `when` of the line that it was written for, or take it out.
    """
    used = {rule.when for rule in (*ground.bundle.rules, *ground.bundle.shadow)}
    used |= {rule.unless.name for rule in taints(ground.bundle.workflows.values()) if rule.unless is not None}
    for name in ground.bundle.conditions:
        if name not in used:
            place = ground.key("conditions.yaml", name)
            yield Hit(place, f"no line names the condition '{name}'", "name it in the column 'when' of a line, or take it out")
