"""Roles that nobody reaches."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """A line speaks for a role whose members are only other roles, and nobody is a member of those.

    A role that no line of `roles.csv` mentions is refused when the bundle is loaded. This one is mentioned, but no
    person, group of the identity provider, service or agent has it, through however many roles. The line never matches: a
    deny line among them protects nothing.

    Name the members of the innermost role, or take the line out.
    """
    held: dict[str, set[str]] = {tenant: set() for tenant in ground.bundle.tenants}
    for each in ground.bundle.roles:
        if not each.member.startswith(("role:", "agents:")):
            held[each.tenant] |= ground.closure.of(each.member, each.tenant)
    for rule in ground.bundle.rules:
        if not rule.who.startswith(("role:", "agents:")):
            continue
        tenants = ground.bundle.tenants if rule.tenant == "*" else [rule.tenant]
        if not any(rule.who in held[tenant] for tenant in tenants):
            message = f"nobody has '{rule.who}': its members are roles that nobody has"
            yield Hit(ground.cell(rule, "who"), message, "name the members of those roles in roles.csv")
