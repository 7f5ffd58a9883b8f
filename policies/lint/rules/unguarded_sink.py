"""Ways out that no rule guards."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity
from policies.workflows.model import taints

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """Something has a label `sink:…`, and no `taint` rule denies that label after anything.

    Whoever labelled it saw that data can leave there. Nothing comes of it: whatever an agent has read may be sent.

    Write the rule in `workflows/` (one in `mode: shadow` counts), or take the label off.
    """
    guarded = {label for rule in taints(ground.bundle.workflows.values()) for label in rule.deny.text.split(" or ")}
    known = ground.bundle.labels
    for name, labels in (*known.named.items(), *((f"{start}*", labels) for start, labels in known.beginning.items())):
        for label in labels:
            if label.startswith("sink:") and label not in guarded:
                place = ground.key("tools.yaml", "tools" if name in ground.bundle.tools else "labels", name)
                yield Hit(place, f"'{name}' has the label '{label}', and no rule denies it", "write a taint rule that denies it")
