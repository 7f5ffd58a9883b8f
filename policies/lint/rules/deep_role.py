"""Roles of roles of roles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "warning"
MOST = 10


def find(ground: Ground) -> Iterator[Hit]:
    """Somebody stands below ten or more levels of roles.

    The gateway works out roles at any depth. Stock Casbin does not look that far and says nothing, so the same files would
    say something else in another tool; and a person can no longer tell what a membership gives.

    Make members of the inner role members of the outer one directly.
    """
    direct: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for each in ground.bundle.roles:
        direct[each.tenant, each.member].append((each.tenant, each.role))
    depth: dict[tuple[str, str], int] = {}
    for start in list(direct):
        stack = [start]
        while stack:  # circles are refused when the bundle is loaded
            node = stack[-1]
            waiting = [after for after in direct.get(node, ()) if after not in depth]
            if waiting:
                stack += waiting
            else:
                depth[stack.pop()] = 1 + max((depth[after] for after in direct.get(node, ())), default=-1)
    for each in ground.bundle.roles:
        if depth[each.tenant, each.member] == MOST and depth[each.tenant, each.role] == MOST - 1:
            place = each.source.file, each.source.line, each.source.column
            message = f"'{each.member}' stands below {MOST} levels of roles"
            yield Hit(place, message, "stock Casbin would stop there silently; join some of the roles")
