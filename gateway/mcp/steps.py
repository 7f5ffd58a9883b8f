"""MCP calls as steps of a workflow: tools, resources and prompts, and what their answers say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from gateway.mcp.methods import CALL_TOOL, GET_PROMPT, LISTEN, READ_RESOURCE
from gateway.mcp.normalise import TASK_ACTIONS
from gateway.mcp.sealed import Sealed
from gateway.mcp.subscriptions import TASKS, Filter
from gateway.mcp.tasks import Task, opened
from gateway.model import Call, Permit, Principal, Reply
from gateway.workflows.hearing import Ended, Heard
from policies.model import NOTHING

_STEPS: Final = frozenset({CALL_TOOL, READ_RESOURCE, GET_PROMPT})
_ENDED: Final = {"complete": Ended.DONE, "input_required": Ended.ASKED}
_STATUS: Final = {"completed": Ended.DONE, "failed": Ended.FAILED, "cancelled": Ended.FAILED}
"""What a task's status says; every other that it goes on."""


class McpSteps:
    """See `gateway.workflows.hearing.Reader`."""

    def __init__(self, sealed: Sealed) -> None:
        """What seals the ids of tasks."""
        self._sealed = sealed

    def is_step(self, call: Call) -> bool:
        """A call, a reading, a prompt; not the rest of an answer, nor an answer to a question."""
        return call.method in _STEPS and not call.direction

    def looks(self, call: Call) -> bool:
        """Whatever is about a task."""
        return bool(_tasks(call))

    def follows(self, call: Call) -> bool:
        """The same: its answer, or what is heard of it, may say how it ended."""
        return bool(_tasks(call))

    async def joins(self, call: Call, principal: Principal) -> tuple[str, ...]:
        """Those that began the tasks: what a tool was given there may be in what it answers here."""
        return tuple(sorted({task.workflow for task in _tasks(call)} - {"", principal.workflow}))

    def shows(self, call: Call, resource: str) -> tuple[str, ...]:
        """What the tools of tasks have."""
        return tuple(f"{call.target}.{task.tool}" for task in _tasks(call)) or (resource,)

    def arguments(self, call: Call) -> Mapping[str, object]:
        """A tool's own."""
        return call.arguments or NOTHING

    def says(self, _call: Call) -> tuple[Heard, ...]:
        """Nothing: what it asks for is answered."""
        return ()

    def heard(self, reply: Reply, permit: Permit) -> tuple[Heard, ...]:
        """What a result says, or what a task says of itself: in the answer to a look at it, and in a notice."""
        payload, call = reply.payload, permit.call
        if not isinstance(payload, dict):
            return ()
        if isinstance(call.kept, Filter):
            said = payload.get("params") if payload.get("method") == TASKS else None
            ids = {task.sealed: task.id for task in call.kept.tasks.values()}
            task = ids.get(str(said.get("taskId"))) if isinstance(said, dict) else None
            return (_of_task(said, task),) if isinstance(said, dict) and task is not None else ()
        result = payload.get("result") if reply.is_final else None
        if not isinstance(result, dict):
            return ()
        if isinstance(call.kept, Task):
            mine = result.get("taskId", call.kept.id) in {call.kept.id, call.kept.sealed}
            return (_of_task(result, call.kept.id),) if mine and "status" in result else ()
        return (self._of_result(result, permit),)

    def _of_result(self, result: Mapping[str, object], permit: Permit) -> Heard:
        ended = _ENDED.get(str(result.get("resultType", "complete")), Ended.OPEN)
        if ended is Ended.DONE and isinstance(result.get("task"), dict):
            ended = Ended.OPEN  # 2025-11-25: a task was made
        if result.get("resultType") != "task":
            return Heard(ended, _objects(result))
        task = opened(result.get("taskId"), permit.call.target, permit.principal, self._sealed).id  # sealed a moment ago
        return Heard(Ended.FAILED if _STATUS.get(str(result.get("status"))) is Ended.FAILED else Ended.OPEN, (), task)


def _tasks(call: Call) -> tuple[Task, ...]:
    """Those that a call is about."""
    if call.kept is None:
        return ()
    if call.method in TASK_ACTIONS and isinstance(call.kept, Task):
        return (call.kept,)
    return tuple(call.kept.tasks.values()) if call.method == LISTEN and isinstance(call.kept, Filter) else ()


def _of_task(said: Mapping[str, object], task: str) -> Heard:
    """How a task ended; one that is completed with an error of its tool's failed."""
    ended, result = _STATUS.get(str(said.get("status")), Ended.OPEN), said.get("result")
    if ended is not Ended.DONE or not isinstance(result, dict):
        return Heard(ended, (), task, whole=False)
    if result.get("isError") is True:
        return Heard(Ended.FAILED, (), task)
    return Heard(ended, _objects(result), task)


def _objects(result: Mapping[str, object]) -> tuple[Mapping[str, object], ...]:
    """A result's structured content; where it has none, its texts that are JSON objects."""
    structured = result.get("structuredContent")
    return (structured,) if isinstance(structured, dict) else _texts(result.get("content"))


def _texts(content: object) -> tuple[Mapping[str, object], ...]:
    found = []
    for block in content if isinstance(content, list) else ():
        text = block.get("text") if isinstance(block, dict) and block.get("type") == "text" else None
        if isinstance(text, str) and text.lstrip()[:1] == "{":
            try:
                said = orjson.loads(text)
            except orjson.JSONDecodeError:
                continue
            if isinstance(said, dict):
                found.append(said)
    return tuple(found)
