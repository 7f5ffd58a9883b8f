"""Allow lines that never let anything through."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """An allow line can never let a call through, because a deny line holds wherever it does.

    One deny for one principal of the chain is a no. The deny line covers at least the same principals, tenants, tools and
    actions, and has no condition, or one that holds (or cannot be decided) wherever the allow line's does.

    Take the allow line out, or give the deny line the condition that it was meant to have.
    """
    for rule in ground.bundle.rules:
        if rule.effect != "allow":
            continue
        for other in ground.covering(rule, "deny"):
            if ground.implies(rule.when, other.when):
                message = f"'{rule.id}' allows nothing: '{other.id}' ({other.source}) denies all of it"
                yield Hit(ground.cell(rule, "id"), message, f"take the line out, or narrow '{other.id}'")
                break
