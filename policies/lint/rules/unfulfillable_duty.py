"""Duties of a type that the gateway does not know, or with parameters that it cannot read."""

from __future__ import annotations

from collections.abc import Iterator

from policies.finding import suggest
from policies.lint.ground import Ground, Hit, Severity

SEVERITY: Severity = "error"


def find(ground: Ground) -> Iterator[Hit]:
    """A duty has a type that this gateway cannot fulfil, or parameters that it cannot read.

    A call whose duty cannot be fulfilled is refused. Every call that a `require` line with this duty speaks for will be.

    Correct the type or the parameter; the known ones stand in [Duties](duties.md).
    """
    known = ground.facts.duties
    if known is None:
        return
    for name, duty in ground.bundle.obligations.items():
        if duty.type not in known:
            place = ground.key("obligations.yaml", name, "type")
            help_ = suggest(duty.type, known) or f"known are {', '.join(sorted(known))}"
            yield Hit(place, f"this gateway cannot fulfil '{name}': it knows no type '{duty.type[:60]}'", help_)
        elif ground.facts.parameters is not None and (wrong := ground.facts.parameters(duty.type, duty.params)) is not None:
            key, message = wrong
            place = ground.key("obligations.yaml", name, *((key,) if key else ()))
            yield Hit(place, f"this gateway cannot fulfil '{name}': {message}", f"what '{duty.type}' takes stands in Duties")
