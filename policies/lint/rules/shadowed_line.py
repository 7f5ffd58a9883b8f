"""Lines that change nothing."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity
from policies.rules import Rule

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """A line is wholly covered by another line that says the same.

    The other line has the same effect (and for `require` the same duty), covers at least the same principals, tenants,
    tools and actions, and its condition is absent, the same or weaker. Whether a condition is weaker is proven by trying
    every case that the two conditions tell apart; where that is not possible nothing is said. Taking the covered line out
    changes no decision; leaving it in lets a reader believe that its condition or its subject still matters.

    Take the covered line out. If the other line was meant to be narrower, narrow that one.
    """
    for rule in ground.bundle.rules:
        for other in ground.covering(rule, rule.effect):
            if rule.must != other.must or not ground.implies(rule.when, other.when):
                continue
            if _equal(ground, rule, other) and _order(rule) < _order(other):
                continue  # of two that say the same, the later one is told
            message = f"'{rule.id}' changes nothing: '{other.id}' ({other.source}) covers all of it"
            yield Hit(ground.cell(rule, "id"), message, f"take the line out, or narrow '{other.id}'")
            break


def _equal(ground: Ground, rule: Rule, other: Rule) -> bool:
    key = rule.who, rule.tenant, rule.tool, rule.action
    back = any((each.who, each.tenant, each.tool, each.action) == key for each in ground.covering(other, other.effect))
    return back and ground.implies(other.when, rule.when)


def _order(rule: Rule) -> tuple[str, int]:
    return rule.source.file, rule.source.line
