"""Constants in the matcher that match too much."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "error"
_WIDE = frozenset({"p.sub", "p.dom", "p.act"})
_RELAY = 'r.act == "relay" && (p.act == "call" || p.act == "send")'


def find(ground: Ground) -> Iterator[Hit]:
    """The matcher of `model.conf` compares a field with a constant that the shipped matcher does not.

    A `*` belongs beside `p.sub`, `p.dom` and `p.act`: a rule may say "everybody", "in every tenant", "every action".
    Anywhere else it widens what rules say without their saying it. `|| r.act == "read"` lets every rule speak for
    reading, whatever its own action is; `|| p.obj == "*"` makes an allow line of a tool name that the reader of rules
    refuses. No line of `grants/` shows it.

    Use the shipped matcher. `model.conf` is code: have a change to it reviewed like code.
    """
    for number, line in enumerate(ground.bundle.model.split("\n"), 1):
        name, equals, value = line.partition("=")
        if not equals or name.strip() != "m":
            continue
        column = len(name) + 2 + len(value) - len(value.lstrip())
        plain = "".join(value.split()).replace("".join(_RELAY.split()), "r.act==p.act")
        tree = ast.parse(plain.replace("&&", " and ").replace("||", " or "), mode="eval")
        for node in ast.walk(tree):
            if not isinstance(node, ast.Compare):
                continue
            sides = [node.left, node.comparators[0]]
            for side, other in (sides, sides[::-1]):
                if isinstance(side, ast.Constant) and not (side.value == "*" and ast.unparse(other) in _WIDE):
                    what = f"{ast.unparse(other)} == {str(side.value)!r}"
                    message = f"the matcher holds a stray constant: {what}"
                    yield Hit(
                        ("model.conf", number, column), message, "rules would say more than they show; use the shipped matcher"
                    )
