"""Rights of single people."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity
from policies.lint.rules.break_glass import PREFIX

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """An allow line, or a membership, names one person although groups of the identity provider are used in this tenant.

    Who leaves a group loses what the group gives, on the day it happens and without a change of policy. What is given to
    a person by name stays. Deny lines and emergency lines (`BG-…`) may name people.

    Put the person into a group of the identity provider, and name its role.
    """
    grouped = {each.tenant for each in ground.bundle.roles if each.member.startswith("idp:")}
    for rule in ground.bundle.rules:
        named = rule.effect == "allow" and rule.who.startswith("user:") and not rule.id.startswith(PREFIX)
        if named and (rule.tenant in grouped or (rule.tenant == "*" and grouped)):
            yield Hit(ground.cell(rule, "who"), f"'{rule.id}' names one person", "name a role, and let a group give it")
    for each in ground.bundle.roles:
        if each.member.startswith("user:") and each.tenant in grouped:
            place = each.source.file, each.source.line, each.source.column
            yield Hit(place, f"'{each.role}' is given to one person by name", "let a group of the identity provider give it")
