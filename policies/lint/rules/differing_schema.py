"""Registered arguments that are not those of the approved definition."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity
from policies.registry import approved_args
from policies.schema import comparable, described

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """An argument in `tools.yaml` is missing from the definition that `tools.lock` holds as approved, or has another type there.

    Conditions are typed by `tools.yaml` where it names arguments, and by the approved definition where it does not. Where the
    two differ, one of them is wrong: a condition would read what never comes, or a call may carry what nobody judged.

    Correct the entry, or take its `args` out: then the approved definition says them.
    """
    lock = ground.bundle.pinning.lock
    for name, spec in ground.bundle.tools.items():
        approved = lock.approved(spec.server, "tool", name[len(spec.server) + 1 :])
        place = ground.key("tools.yaml", "tools", name, "args")
        if approved is None or place == ground.key("tools.yaml", "tools", name):  # the arguments are the definition's own
            continue
        there = comparable(described(approved.definition.get("inputSchema")))
        for argument, kind in spec.args.items():
            at = ground.key("tools.yaml", "tools", name, "args", argument)
            if argument not in there:
                yield Hit(at, f"the approved definition of '{name}' has no argument '{argument}'", "take it out")
            elif there[argument] not in (kind, "unknown") and (there[argument], kind) != ("integer", "number"):
                message = f"'{argument}' of '{name}' is {there[argument]} in the approved definition, and {kind} here"
                yield Hit(at, message, f"write {there[argument]}")
        for argument, kind in approved_args(lock, name).items():
            if argument not in spec.args:
                message = f"the approved definition of '{name}' has an argument '{argument}' that is not registered"
                yield Hit(place, message, f"add '{argument}: {kind}', or leave 'args' out")
