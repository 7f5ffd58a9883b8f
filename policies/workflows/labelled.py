"""Labels that came in from other workflows, of steps that are all at hand: what the state store finds by its marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from policies.workflows.judge import MICRO
from policies.workflows.model import Taint, Workflow, taints
from policies.workflows.story import State, Step, Story


def came(
    held: Iterable[Workflow], asked: Step, workflow: str, story: Story, steps: Sequence[tuple[str, Step]]
) -> dict[tuple[str, str], Step]:
    """By rule and label the first step of another workflow of the person that brought the label to where the rule looks.

    `steps` are all that there are, each with its workflow; `story` those of this one.
    """
    rules = [rule for rule in taints(held) if rule.deny.covers(asked.resource)]
    if not rules:
        return {}
    joined = _joined(workflow, story, steps)
    others = [(name, step) for name, step in steps if name != workflow and step.subject == asked.subject]
    others.sort(key=lambda told: told[1].place)
    found = {}
    for rule in rules:
        for label in rule.after:
            source = next(
                (step for name, step in others if label in step.labels and _looks(rule, name, step, asked, joined)), None
            )
            if source is not None and story.bringing(label) is None:
                found[rule.id, label] = source
    return found


def _looks(rule: Taint, name: str, step: Step, asked: Step, joined: frozenset[str]) -> bool:
    if step.state is State.UNSENT:
        return False
    return name in joined if rule.of == "workflow" else step.at >= asked.at - (rule.seconds or 0) * MICRO


def _joined(workflow: str, story: Story, steps: Iterable[tuple[str, Step]]) -> frozenset[str]:
    """The workflows that share a conversation with this one, or with one that does."""
    pairs = [(name, other) for name, step in steps for other in step.joins]
    known, new = {workflow}, set(story.joins)
    while True:
        new |= {other for pair in pairs for other in pair if not known.isdisjoint(pair)}
        new -= known
        if not new:
            return frozenset(known - {workflow})
        known |= new
