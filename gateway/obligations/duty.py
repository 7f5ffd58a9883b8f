"""The shape of a duty, and the two ways in which one ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from gateway.model import Permit, Refused
from gateway.reasons import Code
from policies.model import Obligation

Duty = Callable[[Permit, Obligation], Permit]
"""Takes a permit and one obligation; returns a permit that is narrower or equal, or raises `Refused`."""


def fulfilled(permit: Permit, obligation: Obligation, **changes: Any) -> Permit:
    """The permit with the obligation marked as taken care of."""
    return replace(permit, fulfilled=(*permit.fulfilled, obligation.name), **changes)


def impossible(permit: Permit, obligation: Obligation, why: str) -> Refused:
    """The refusal of a duty that cannot be fulfilled for this call."""
    return Refused(Code.DUTY_FAILED, f"{obligation.name}: {why}", decision=permit.decision)


def only(permit: Permit, obligation: Obligation, *known: str) -> Mapping[str, object]:
    """The obligation's parameters; one that this gateway does not know is a refusal, since ignoring it would weaken the duty."""
    unknown = sorted(set(obligation.params) - set(known))
    if unknown:
        raise impossible(permit, obligation, f"unknown parameter {unknown[0]}")
    return obligation.params
