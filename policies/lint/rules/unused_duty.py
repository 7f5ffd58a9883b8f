"""Duties that no line names."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity
from policies.workflows.model import taints

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """A duty stands in `obligations.yaml`, and no `require` line of `grants/` or `shadow/` and no rule of a workflow names it.

    Nothing is ever redacted, approved or recorded because of it.

    Write the `require` line that it was meant for, or take it out.
    """
    used = {rule.must for rule in (*ground.bundle.rules, *ground.bundle.shadow)}
    used |= {rule.must.name for rule in taints(ground.bundle.workflows.values()) if rule.must is not None}
    for name in ground.bundle.obligations:
        if name not in used:
            place = ground.key("obligations.yaml", name)
            yield Hit(place, f"no line names the duty '{name}'", "write a 'require' line that names it, or take it out")
