"""Sets that no line names."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """A set of tools stands in `tools.yaml` and no line of `grants/` or `shadow/` names it.

    A guardrail that was meant for the set may name its tools one by one, and miss the tool that joins the set tomorrow.

    Name the set in the column `tool` of a line, or take it out.
    """
    used = {rule.tool for rule in (*ground.bundle.rules, *ground.bundle.shadow)}
    for name in ground.bundle.sets:
        if name not in used:
            place = ground.key("tools.yaml", "sets", name)
            yield Hit(place, f"no line names '{name}'", "name it in the column 'tool' of a line, or take it out")
