"""Exemptions that can hold for nothing that their rule denies."""

from __future__ import annotations

from collections.abc import Iterator

from policies.expression import ExpressionError, parse
from policies.lint.ground import Ground, Hit, Severity
from policies.workflows.model import taints

SEVERITY: Severity = "error"


def find(ground: Ground) -> Iterator[Hit]:
    """The condition of a `taint` rule's `unless` reads arguments that none of the tools has which the rule denies.

    It holds for none of them, so that nothing is exempt. The argument is misspelt, or has another type in `tools.yaml`.

    Name the arguments of those tools, or take the exemption out.
    """
    bundle = ground.bundle
    for rule in taints(bundle.workflows.values()):
        if rule.unless is None or rule.deny.beginnings or any(name not in bundle.tools for name in rule.deny.names):
            continue  # what a message to an agent says is declared nowhere
        if rule.deny.names and not any(_fits(rule.unless.test.text, bundle.tools[name].args) for name in rule.deny.names):
            place = (rule.source.file, rule.source.line, rule.source.column)
            message = f"the exemption '{rule.unless.name}' of '{rule.id}' fits no tool that it denies"
            yield Hit(place, message, "name arguments that these tools have in tools.yaml")


def _fits(text: str, args: object) -> bool:
    try:
        parse(text, args)  # type: ignore[arg-type]
    except ExpressionError:
        return False
    return True
