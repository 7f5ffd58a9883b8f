"""Conditions that nothing decides."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from policies.finding import suggest
from policies.lint.conditions import possible
from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "error"


def find(ground: Ground) -> Iterator[Hit]:
    """A condition can never be decided, or reads a name that the gateway never fills in.

    What cannot be decided is a no for `allow` lines and a yes for `deny` and `require` lines: an allow line under such a
    condition allows nothing, a deny line denies everything that it covers. A misspelt name under `agent.` or `ctx.` is
    the usual cause; the names that are filled in stand in [Conditions and tools](conditions.md).

    Correct the name.
    """
    for name, condition in ground.bundle.conditions.items():
        file, line, column = condition.source.file, condition.source.line, condition.source.column
        found = possible(ground, name)
        if found is not None and found.isdisjoint({True, False}):
            yield Hit(
                (file, line, column), f"condition '{name}' can never be decided", "compare values of one type that can be there"
            )
            continue
        known = ground.facts.context
        if known is None:
            continue
        for text, at in _outside(condition.expression.text):
            if text not in known:
                help_ = suggest(text, known) or f"known are {', '.join(sorted(known))}"
                yield Hit((file, line, column + at), f"condition '{name}' reads {text}, which the gateway never fills in", help_)


def _outside(text: str) -> Iterator[tuple[str, int]]:
    """Names below `agent` and `ctx` that a condition reads, and where."""
    todo: list[ast.AST] = [ast.parse(" ".join(text.split("\n")).strip(), mode="eval")]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name.startswith(("agent.", "ctx.")):
                yield name, node.col_offset
        else:
            todo += ast.iter_child_nodes(node)
