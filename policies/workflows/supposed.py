"""A decision beside a history that somebody tells: for tables of policy tests, where no call was ever made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from policies.bundle import Bundle
from policies.model import NOTHING, AccessRequest, Decision
from policies.workflows.flow import brings, exempt
from policies.workflows.judge import MICRO, Past, freed, judge, purses, shared, spent_by
from policies.workflows.model import Taint, Workflow, taints
from policies.workflows.ruling import Judged, decided, held_by, is_unknown, of_unknown, ruling_of
from policies.workflows.story import State, Step, Story
from policies.workflows.values import fields, sums, written

HERE, ELSEWHERE = "wf-here", "wf-elsewhere"


@dataclass(frozen=True, slots=True)
class Supposed:
    """A step of a told history.

    ago        seconds before the question.
    elsewhere  in another workflow, which is begun under no name.
    """

    resource: str
    subject: str
    actors: tuple[str, ...]
    ago: int
    arguments: Mapping[str, object] = field(default_factory=lambda: NOTHING)
    result: Mapping[str, object] = field(default_factory=lambda: NOTHING)
    state: State = State.OK
    elsewhere: bool = False


def decide_after(
    bundle: Bundle, request: AccessRequest, decision: Decision, definition: str, history: Iterable[Supposed]
) -> Decision:
    """What becomes of an engine's decision in a workflow that was begun under this name, after these steps."""
    if not decision.allowed or request.action == "list" or not (bundle.workflows or definition):
        return decision
    held = held_by(bundle.workflows.values(), request.tenant, request.resource, request.actors, definition)
    if is_unknown(held, definition):
        return of_unknown(decision)
    if not held:
        return decision
    told = list(history)
    steps = [(_workflow(one), _step(bundle, request, definition, number, one)) for number, one in enumerate(told)]
    actor = request.actors[-1] if request.actors else request.subject
    asked = _made("asked", request.resource, request.subject, actor, request.at, held, request.arguments or NOTHING)
    past = Past(
        Story(step for workflow, step in steps if workflow == HERE),
        {purse: spent_by(purse, steps) for each in held for purse in purses(each, asked, HERE)},
        {one: tuple(step for _, step in steps if _shares(each, one, step)) for each in held for one in shared(each, asked)},
        {(rule.id, label): step for rule in taints(held) for label in rule.after for step in _came(rule, label, asked, steps)},
        exempt(bundle, held, request, request.arguments or NOTHING),
    )
    return decided(decision, ruling_of(Judged(each, *judge(each, asked, past, HERE), freed(each, asked, past)) for each in held))


def _shares(workflow: Workflow, about: object, step: Step) -> bool:
    return workflow.name in step.held and about in set(shared(workflow, step))


def _came(rule: Taint, label: str, asked: Step, steps: Iterable[tuple[str, Step]]) -> tuple[Step, ...]:
    """The first step of the person's other workflows that brought a label, where a rule looks for it there."""
    since = asked.at - (rule.seconds or 0) * MICRO
    mine = [
        step
        for workflow, step in sorted(steps, key=lambda told: told[1].place)
        if rule.of == "person" and step.subject == asked.subject and step.at >= since and workflow != HERE
    ]
    return tuple(step for step in mine if label in step.labels and step.state is not State.UNSENT)[:1]


def _workflow(one: Supposed) -> str:
    return ELSEWHERE if one.elsewhere else HERE


def _step(bundle: Bundle, request: AccessRequest, definition: str, number: int, one: Supposed) -> Step:
    name = "" if one.elsewhere else definition
    held = held_by(bundle.workflows.values(), request.tenant, one.resource, one.actors, name)
    actor = one.actors[-1] if one.actors else one.subject
    at = request.at - one.ago * 1_000_000
    made = _made(f"step-{number:04}", one.resource, one.subject, actor, at, held, one.arguments, one.state, one.result)
    return replace(made, labels=brings(bundle, one.resource))


def _made(  # noqa: PLR0917  a step's parts, in their order
    name: str,
    resource: str,
    subject: str,
    actor: str,
    at: int,
    held: tuple[Workflow, ...],
    arguments: Mapping[str, object],
    state: State = State.RUNNING,
    result: Mapping[str, object] = NOTHING,
) -> Step:
    kept = [each.kept(resource) for each in held]
    marks = {name: written(arguments[name]) for names, _, _ in kept for name in names if name in arguments}
    return Step(
        id=name,
        resource=resource,
        actor=actor,
        subject=subject,
        at=at,
        held=frozenset(each.name for each in held),
        state=state,
        marks={name: mark for name, mark in marks.items() if mark is not None},
        sums=sums(arguments, {name for _, names, _ in kept for name in names}),
        results=fields([result], {name for _, _, names in kept for name in names}),
    )
