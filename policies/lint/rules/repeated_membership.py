"""Memberships that stand twice."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """The same membership stands in `roles.csv` twice.

    Who takes a role from somebody by taking out one line would find that it is still there.

    Keep one of the lines.
    """
    first: dict[tuple[str, str, str], int] = {}
    for each in ground.bundle.roles:
        key = each.member, each.role, each.tenant
        if key in first:
            place = each.source.file, each.source.line, each.source.column
            yield Hit(place, f"this membership stands in line {first[key]} already", "keep one of the two")
        first.setdefault(key, each.source.line)
