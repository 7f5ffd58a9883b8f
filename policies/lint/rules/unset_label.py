"""Labels that rules look for, and nothing has."""

from __future__ import annotations

from collections.abc import Iterator

from policies.finding import suggest
from policies.lint.ground import Ground, Hit, Severity
from policies.workflows.model import Steps, Taint, Workflow

SEVERITY: Severity = "error"


def find(ground: Ground) -> Iterator[Hit]:
    """A `taint` rule looks for a label that nothing in its workflow's tenants has.

    It never refuses anything. The label is misspelt, in the rule or in `tools.yaml`, or nobody has labelled the tools yet.

    Label what the rule is about, or take the rule out.
    """
    bundle = ground.bundle
    for workflow in bundle.workflows.values():
        for rule in (each for each in workflow.rules if isinstance(each, Taint)):
            wanted = [*rule.after, *rule.deny.text.split(" or ")]
            for label in dict.fromkeys(wanted):
                if not _exists(bundle.labels.objects(label), workflow, ground):
                    place = (rule.source.file, rule.source.line, rule.source.column)
                    help_ = suggest(label, bundle.labels.known) or "label what the rule is about in tools.yaml"
                    yield Hit(place, f"nothing has the label '{label}': '{rule.id}' never refuses anything", help_)


def _exists(objects: Steps, workflow: Workflow, ground: Ground) -> bool:
    """Tools have tenants; whatever else there is may be anywhere."""
    tools = [ground.bundle.tools.get(name) for name in objects.names]
    return bool(objects.beginnings) or any(tool is None or tool.tenants & workflow.tenants for tool in tools)
