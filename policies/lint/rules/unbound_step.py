"""Steps that a workflow guards for some callers alone."""

from __future__ import annotations

from collections.abc import Iterator

from policies.lint.ground import Ground, Hit, Severity
from policies.workflows.model import Before, Budget, Distinct, Once, Rule, Steps, Within, Workflow

SEVERITY: Severity = "warning"


def find(ground: Ground) -> Iterator[Hit]:
    """A workflow says which calls belong to it, and a step that it guards is bound for some agents alone.

    Whoever reaches the tool through other agents, without beginning the workflow by its name, is held to nothing.

    Add the tool to `binds`. Where the workflow is meant for those alone that begin it by name, `binds: []` says so, and nothing
    is reported.
    """
    for workflow in ground.bundle.workflows.values():
        if not workflow.binds or workflow.shadow:
            continue
        for rule in workflow.rules:
            for steps in _guarded(rule):
                if "" not in steps.beginnings and not _bound(workflow, steps):
                    place = (rule.source.file, rule.source.line, rule.source.column)
                    message = f"'{steps.text}' is guarded by '{rule.id}', and not among what is bound whoever calls it"
                    yield Hit(place, message, f"add '{{tool: {steps.text}}}' to binds")


def _guarded(rule: Rule) -> Iterator[Steps]:
    match rule:
        case Before() | Within() | Once() | Budget():
            yield rule.tool
        case Distinct():
            yield from rule.steps


def _bound(workflow: Workflow, steps: Steps) -> bool:
    return any(bind.agent is None and bind.tool is not None and steps.within(bind.tool) for bind in workflow.binds)
