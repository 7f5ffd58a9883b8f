"""Labels beyond one workflow: of workflows that share a conversation, and of everything that is one person's.

A step is found by digests among `workflow_marks`.  What another workflow read counts as soon as it is committed there, and it is
committed before its call is sent: so before anybody could carry its answer over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import Connection, select

from gateway.model import Refused
from gateway.reasons import Code
from gateway.state.history_rows import MARKS, STEPS, insert, step_of
from policies.workflows.judge import MICRO
from policies.workflows.model import Taint
from policies.workflows.story import State, Step, Story

MOST_JOINED: Final = 500
"""Workflows that share conversations: with more, what came into them cannot be told, and the call is refused."""


def mark(connection: Connection, step: Step, others: Iterable[str], tenant: str) -> None:
    """Make a step findable: by its labels, by the workflows that it joins, and by other marks."""
    marks = [*others, *(_label(tenant, step.subject, label) for label in step.labels), *map(_join, step.joins)]
    if marks:
        insert(connection, MARKS, [{"mark": each, "call": step.id} for each in marks])


def came(  # noqa: PLR0917  what is asked, in its order
    connection: Connection, tenant: str, workflow: str, step: Step, story: Story, rules: Sequence[Taint]
) -> dict[tuple[str, str], Step]:
    """By rule and label the first step of another workflow that brought the label to where the rule looks."""
    found: dict[tuple[str, str], Step] = {}
    joined: frozenset[str] | None = None
    for rule in rules:
        for label in rule.after:
            if story.bringing(label) is not None:
                continue
            if rule.of == "workflow" and joined is None:
                joined = _joined(connection, tenant, workflow, story)
            source = _first(connection, tenant, step, label, rule, joined or frozenset())
            if source is not None:
                found[rule.id, label] = source
    return found


def _first(  # noqa: PLR0917  as above
    connection: Connection, tenant: str, step: Step, label: str, rule: Taint, joined: frozenset[str]
) -> Step | None:
    if rule.of == "workflow" and not joined:
        return None
    c = STEPS.c
    marked = select(MARKS.c.call).where(MARKS.c.mark == _label(tenant, step.subject, label))
    where = [c.call.in_(marked), c.call != step.id, c.state != State.UNSENT.value]
    if rule.of == "workflow":
        where.append(c.workflow.in_(joined))
    else:
        where.append(c.at >= step.at - (rule.seconds or 0) * MICRO)
    row = connection.execute(select(STEPS).where(*where).order_by(c.at, c.call).limit(1)).one_or_none()
    return None if row is None else step_of(row)


def _joined(connection: Connection, tenant: str, workflow: str, story: Story) -> frozenset[str]:
    """The workflows that share a conversation with this one, or with one that does."""
    known = {workflow}
    new = set(story.joins) | _joining(connection, tenant, known)
    while new := new - known:
        known |= new
        if len(known) > MOST_JOINED:
            raise Refused(Code.OVERLOADED, f"more than {MOST_JOINED} workflows share conversations")
        new = _joining(connection, tenant, new) | _joined_by(connection, tenant, new)
    return frozenset(known - {workflow})


def _joining(connection: Connection, tenant: str, workflows: set[str]) -> set[str]:
    marked = select(MARKS.c.call).where(MARKS.c.mark.in_([_join(each) for each in workflows]))
    return set(connection.scalars(select(STEPS.c.workflow).where(STEPS.c.tenant == tenant, STEPS.c.call.in_(marked))))


def _joined_by(connection: Connection, tenant: str, workflows: set[str]) -> set[str]:
    mine = select(STEPS.c.call).where(STEPS.c.tenant == tenant, STEPS.c.workflow.in_(workflows))
    marks = connection.scalars(select(MARKS.c.mark).where(MARKS.c.call.in_(mine), MARKS.c.mark.like("join:%")))
    return {each.removeprefix("join:") for each in marks}


def _join(workflow: str) -> str:
    return f"join:{workflow}"


def _label(tenant: str, subject: str, label: str) -> str:
    return hashlib.sha256(json.dumps(["label", tenant, subject, label], separators=(",", ":")).encode()).hexdigest()
