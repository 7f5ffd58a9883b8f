"""What the named conditions of a bundle can come to, for the tools that they are used for."""

from __future__ import annotations

from policies.lint import truth
from policies.lint.ground import Ground

MOST_TYPINGS = 20


def possible(ground: Ground, name: str) -> frozenset[object] | None:
    """Every value that a condition can have for some tool that it is used for; None where that is not known."""
    expression = ground.bundle.conditions[name].expression
    typings: set[tuple[tuple[str, str], ...]] = set()
    for written in {rule.tool for rule in ground.under.get(name, ())}:
        for tool in ground.tools_of.get(written, frozenset()):
            args = ground.bundle.tools[tool].args
            typings.add(tuple(sorted((a, args[a]) for a in expression.arguments if a in args)))
    if len(typings) > MOST_TYPINGS:
        typings = set()
    found: set[object] = set()
    for typing in typings or {()}:
        tried = truth.outcomes([expression.text], dict(typing))
        if tried is None:
            return None
        found |= {outcome for (outcome,) in tried}
    return frozenset(found)
