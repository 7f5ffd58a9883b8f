"""Conditions that always say the same."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.conditions import possible
from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "error"


def find(ground: Ground) -> Iterator[Hit]:
    """A condition can never hold, or can never fail.

    `args.amount > 100 and args.amount < 50` never holds: an allow line under it allows nothing, a deny line under it
    speaks only where it cannot be decided. `args.amount > 100 or args.amount <= 100` never fails: the line is as good as
    unconditional. Either is a slip of the pen that no reader sees. It is proven by trying every case that the condition's
    own literals tell apart, with the argument types of the tools that it is used for; where there are too many cases
    nothing is said.

    Correct the comparison. To check that an argument is there, write `has(args.name)`.
    """
    for name, condition in ground.bundle.conditions.items():
        found = possible(ground, name)
        if found is None or found.isdisjoint({True, False}):
            continue
        place = condition.source.file, condition.source.line, condition.source.column
        if True not in found:
            yield Hit(place, f"condition '{name}' never holds", "no value satisfies it: compare the literals with one another")
        elif False not in found:
            yield Hit(place, f"condition '{name}' never fails", "every value satisfies it: write '-' instead, or correct it")
