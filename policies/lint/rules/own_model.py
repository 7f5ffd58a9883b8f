"""A matcher of one's own."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """The matcher of `model.conf` is not the shipped one.

    It was found safe enough to load, and it may be what you want. But which line covers which is known of the shipped
    matcher alone: the rules `shadowed-line`, `denied-allow` and the duties of `break-glass` find less here, and decisions
    may take Casbin's slower path.

    Use the shipped matcher, or say on the line above why not.
    """
    if ground.stock:
        return
    for number, line in enumerate(ground.bundle.model.split("\n"), 1):
        if line.partition("=")[0].strip() == "m":
            yield Hit(
                ("model.conf", number, 1), "this is not the shipped matcher", "which line covers which is not known of this one"
            )
