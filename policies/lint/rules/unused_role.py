"""Roles that give nothing."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """A line of `roles.csv` makes somebody a member of a role that no line of `grants/` or `shadow/` speaks of.

    Neither the role nor any role above it is named: membership changes no decision. A role that exists only on paper is
    given away lightly, and becomes dangerous on the day a line names it.

    Write the line that the role was meant for, or take the membership out.
    """
    used: dict[str, set[str]] = {tenant: set() for tenant in ground.bundle.tenants}
    for rule in (*ground.bundle.rules, *ground.bundle.shadow):
        for tenant in ground.bundle.tenants if rule.tenant == "*" else [rule.tenant]:
            used[tenant] |= {rule.who, *ground.approvers(rule)}
    said: set[tuple[str, str]] = set()
    for each in ground.bundle.roles:
        key = each.role, each.tenant
        if key not in said and used[each.tenant].isdisjoint(ground.closure.of(each.role, each.tenant)):
            said.add(key)
            place = each.source.file, each.source.line, each.source.column
            message = f"'{each.role}' gives nothing in tenant '{each.tenant}': no line speaks of it"
            yield Hit(place, message, "write the line that it was meant for, or take the membership out")
