"""Lines whose time is over."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint import truth
from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """The condition of a line has an end, and the end has passed.

    The line never speaks again. For an allow line that is what was wanted, and the line can go; for a deny line it may be
    a protection that ended without anybody noticing.

    Take the line out, or give the condition a new end.
    """
    now = ground.facts.now
    if now is None:
        return
    ends = {name: truth.ends(condition.expression.text)[1] for name, condition in ground.bundle.conditions.items()}
    for rule in ground.bundle.rules:
        end = ends[rule.when] if rule.when is not None else None
        if end is not None and end < now:
            message = f"'{rule.id}' ended at {end.isoformat()}"
            yield Hit(ground.cell(rule, "when"), message, "take the line out, or give the condition a new end")
