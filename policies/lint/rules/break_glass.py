"""Lines for emergencies: short, and loud."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from policies.lint import truth
from policies.lint.ground import Ground, Hit, Severity
from policies.rules import Rule

SEVERITY: Severity = "error"
PREFIX = "BG-"
LONGEST = timedelta(hours=4)
DUTIES = {
    "audit": frozenset({"audit"}),
    "notify": frozenset({"notify"}),
    "approval": frozenset({"approval", "approve", "human-approval"}),
}
"""What an emergency needs → types of obligations.yaml that are it."""


def find(ground: Ground) -> Iterator[Hit]:
    """An emergency line (an allow line whose id starts with `BG-`) has no end within four hours, or lacks a duty.

    Its condition must say from when to when it holds, no more than four hours apart, in comparisons that must hold for
    the whole to hold: `time.now >= date("2026-12-01T08:00:00+00:00") and time.now < date("2026-12-01T12:00:00+00:00")`.
    And `require` lines that are asked whenever the line is, and that speak wherever it does, must demand an audit
    (`audit`), a notice (`notify`) and an approval (`approve`). An emergency line without an end is a back door that is
    forgotten; one without duties is one that nobody notices.

    Give the condition both bounds, and write the `require` lines for the same subject, or for `*`.
    """
    for rule in ground.bundle.rules:
        if rule.effect == "allow" and rule.id.startswith(PREFIX):
            yield from _span(ground, rule)
            demanded = [each for each in ground.covering(rule, "require") if ground.implies(rule.when, each.when)]
            found = {ground.bundle.obligations[each.must].type for each in demanded if each.must}
            for types in DUTIES.values():
                if found.isdisjoint(types):
                    message = f"'{rule.id}' lacks a duty of type {' or '.join(sorted(types))}"
                    help_ = f"write a 'require' line for {rule.who} (or *) and {rule.tool} that names one"
                    yield Hit(ground.cell(rule, "id"), message, help_)


def _span(ground: Ground, rule: Rule) -> Iterator[Hit]:
    help_ = 'write time.now >= date("…") and time.now < date("…"), at most four hours apart'
    begin, end = (None, None) if rule.when is None else truth.ends(ground.bundle.conditions[rule.when].expression.text)
    if begin is None or end is None:
        missing = "no beginning and no end" if begin is None and end is None else "no beginning" if begin is None else "no end"
        yield Hit(ground.cell(rule, "when"), f"'{rule.id}' has {missing}", help_)
    elif end - begin > LONGEST:
        yield Hit(ground.cell(rule, "when"), f"'{rule.id}' holds for {end - begin}, more than {LONGEST}", help_)
