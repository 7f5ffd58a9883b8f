"""Budgets of duties that add up an argument which a tool does not have, or that is no number there."""

from __future__ import annotations

from collections.abc import Iterator

from policies.finding import suggest
from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "error"
_NUMBERS = ("number", "integer")


def find(ground: Ground) -> Iterator[Hit]:
    """A `require` line names a `budget` whose `sum` is no argument of one of its tools, or none that is a number.

    A call that does not say the number is refused. Every call of that tool will be.

    Correct the name, add the argument to the tool in `tools.yaml`, or leave the tool out of the line.
    """
    for rule in (*ground.bundle.rules, *ground.bundle.shadow):
        duty = ground.bundle.obligations.get(rule.must) if rule.must else None
        wanted = duty.params.get("sum") if duty is not None and duty.type == "budget" else None
        if not isinstance(wanted, str):
            continue
        for tool in sorted(ground.tools_of.get(rule.tool, frozenset())):
            args = ground.bundle.tools[tool].args
            if args.get(wanted) not in _NUMBERS:
                place = (rule.source.file, rule.source.line, rule.source.column)
                help_ = (
                    suggest(wanted, [name for name, kind in args.items() if kind in _NUMBERS]) or "name a number, or count calls"
                )
                yield Hit(place, f"the budget '{rule.must}' adds up '{wanted[:60]}', which is no number of '{tool}'", help_)
                break
