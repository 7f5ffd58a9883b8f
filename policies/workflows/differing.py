"""What of workflow files and labels differs between two bundles.  Whatever goes or changes may let through what was refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass

from policies.bundle import Bundle
from policies.changes import Named, named
from policies.expression import Expression, spaced
from policies.model import Source


def compared(before: Bundle, after: Bundle) -> tuple[Named, Named, bool]:
    """Rules of workflows by their ids, labels as `erp.read: source:confidential`; whether something may be let through now."""
    rules, labels = named(_rules(before), _rules(after)), named(_labels(before), _labels(after))
    return rules, labels, bool(rules.removed or rules.changed or labels.removed)


def _rules(bundle: Bundle) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, workflow in bundle.workflows.items():
        found[name] = _said((sorted(workflow.tenants), workflow.shadow, workflow.binds))
        found |= {rule.id: _said(rule) for rule in workflow.rules}
    return found


def _labels(bundle: Bundle) -> dict[str, object]:
    known = bundle.labels
    starred = {f"{start}*": labels for start, labels in known.beginning.items()}
    return {f"{name}: {label}": True for name, labels in (*known.named.items(), *starred.items()) for label in labels}


def _said(value: object) -> object:
    """What a rule says, wherever it stands."""
    if isinstance(value, Source):
        return None
    if isinstance(value, Expression):
        return spaced(value.text)
    if is_dataclass(value):
        return [type(value).__name__, *(_said(getattr(value, each.name)) for each in fields(value))]
    if isinstance(value, Mapping):
        return {key: _said(each) for key, each in value.items()}
    if isinstance(value, frozenset):
        return sorted(map(repr, value))
    return [_said(each) for each in value] if isinstance(value, list | tuple) else value
