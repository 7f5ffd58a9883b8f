"""A workflow as the API and the command line show it, in one shape.  Names and numbers that rules name, no other argument."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from gateway.state.standing import Listed, Seen
from policies.model import Objection
from policies.workflows.standing import Left, Next
from policies.workflows.story import State, Step


def listed(found: Listed) -> dict[str, Any]:
    """One of a list."""
    return {
        "tenant": found.tenant,
        "workflow": found.workflow,
        "subject": found.subject,
        "steps": found.steps,
        "running": found.running,
        "open": found.open,
        "approvals": found.waiting,
    }


def shown(found: Seen) -> dict[str, Any]:
    """Everything of one: its steps, what may come next, and what it waits for."""
    return {
        "workflow": found.workflow,
        "tenant": found.tenant,
        "subject": found.subject,
        "definitions": [
            {"name": each.name, "digest": each.digest, "mode": "shadow" if each.shadow else "enforce"}
            for each in found.definitions
        ],
        "unknown_definitions": list(found.gone),
        "steps": [plain(step) for step in found.steps],
        "next": [_next(each) for each in found.ahead],
        "anything_else": None if found.rest is None else _next(found.rest),
        "waits_for": {
            "approvals": [
                {"id": row.id, "resource": row.resource, "asked": _time(row.created_at), "expires": _time(row.expires_at)}
                for row in found.parked
            ],
            "running": _going(found.steps, State.RUNNING),
            "open": _going(found.steps, State.OPEN),
            "tasks": [{"agent": agent, "task": task} for agent, task in found.tasks],
        },
    }


def plain(step: Step) -> dict[str, object]:
    """One step."""
    return {
        "id": step.id,
        "at": step.at,
        "state": step.state.value,
        "resource": step.resource,
        "actor": step.actor,
        "subject": step.subject,
        "held": sorted(step.held),
        "sums": {name: str(number) for name, number in step.sums.items()},
        "results": {name: value if isinstance(value, str | bool) else str(value) for name, value in step.results.items()},
        "labels": list(step.labels),
    }


def _next(found: Next) -> dict[str, Any]:
    said: dict[str, Any] = {
        "step": found.resource,
        "state": "ready" if found.ready else "blocked",
        "blocked_by": [_objection(each) for each in found.refused],
        "watched": [_objection(each) for each in found.watched],
        "when": list(found.when),
        "left": [_left(each) for each in found.left],
    }
    if not found.resource:
        del said["step"]
    return said


def _objection(found: Objection) -> dict[str, Any]:
    return {"rule": found.match.rule, "reason": found.reason.value, "missing": list(found.missing), "cure": found.cure}


def _left(found: Left) -> dict[str, Any]:
    said: dict[str, Any] = {"rule": found.rule, "per": list(found.per)}
    said |= {"agent": found.agent} if found.agent else {}
    said |= {"count": found.count} if found.count is not None else {}
    return said | ({"sum": found.sum, "total": f"{found.total:f}"} if found.total is not None else {})


def _going(steps: Iterable[Step], state: State) -> list[dict[str, str]]:
    return [{"id": step.id, "resource": step.resource, "actor": step.actor} for step in steps if step.state is state]


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).isoformat(timespec="seconds")
