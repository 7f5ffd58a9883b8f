"""A2A messages as steps of a workflow, and what agents' answers say."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, Final

from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]

from gateway.a2a.deliveries import METHOD as NEWS
from gateway.a2a.operations import LIST_TASKS, OPERATIONS, Named
from gateway.a2a.tasks import ContextOwners, TaskOwners
from gateway.model import Call, Permit, Principal, Reply
from gateway.workflows.hearing import Ended, Heard
from policies.model import NOTHING

_STEPS: Final = frozenset({"SendMessage", "SendStreamingMessage"})
_LOOKS: Final = frozenset({"GetTask", LIST_TASKS, "CancelTask", "SubscribeToTask", NEWS})
_ENDED: Final[Mapping[int, Ended]] = {
    pb.TaskState.TASK_STATE_COMPLETED: Ended.DONE,
    pb.TaskState.TASK_STATE_FAILED: Ended.FAILED,
    pb.TaskState.TASK_STATE_REJECTED: Ended.FAILED,
    pb.TaskState.TASK_STATE_CANCELED: Ended.FAILED,
}


class A2aSteps:
    """See `gateway.workflows.hearing.Reader`."""

    def __init__(self, tasks: TaskOwners, contexts: ContextOwners, own: Container[str] = ()) -> None:
        """Where it is known which workflow began a task or a context; own: the agents at which a new word means a new context."""
        self._tasks = tasks
        self._contexts = contexts
        self._own = own

    def is_step(self, call: Call) -> bool:
        """A message; a look at tasks is none."""
        return call.method in _STEPS

    def looks(self, call: Call) -> bool:
        """Whatever names a task or a context."""
        named = self._named(call)
        return bool(named.tasks or named.context)

    def follows(self, call: Call) -> bool:
        """A look at a task, news of one, and a message that goes on with one."""
        return call.method in _LOOKS or (call.method in _STEPS and bool(call.message.message.task_id))

    async def joins(self, call: Call, principal: Principal) -> tuple[str, ...]:
        """Those that began the tasks and the context that it names: what they read the agent may tell here, and back.

        A new word gets its meaning here: of two workflows that begin by the same one at once, the later knows of the earlier.
        """
        named, whose = self._named(call), (principal.tenant, principal.subject)
        owners = [await self._tasks.asked(call.target, task, *whose) for task in named.tasks]
        if named.context and call.target in self._own:
            word = (principal.subject, principal.tenant, principal.workflow, call.arrival.at)
            owners.append(await self._contexts.name(call.target, named.context, *word))
        elif named.context:
            owners.append(await self._contexts.meant(call.target, named.context, *whose))
        mine = [owner for owner in owners if owner is not None and owner.is_for(principal.tenant, principal.subject)]
        return tuple(sorted({owner.workflow for owner in mine if owner.workflow != principal.workflow}))

    def shows(self, _call: Call, resource: str) -> tuple[str, ...]:
        """What the agent itself has."""
        return (resource,)

    def _named(self, call: Call) -> Named:
        operation = OPERATIONS.get(call.method)
        return Named() if operation is None or call.message is None else operation.names(call.message)

    def arguments(self, call: Call) -> Mapping[str, object]:
        """The one data part that is an object; none where a message has several: nobody could say which of them counts."""
        if not self.is_step(call):
            return NOTHING
        found = list(_objects(call.message.message.parts))
        return found[0] if len(found) == 1 else NOTHING

    def says(self, call: Call) -> tuple[Heard, ...]:
        """News of a task says what an event of a stream says."""
        return _heard(call.message) if call.method == NEWS else ()

    def heard(self, reply: Reply, permit: Permit) -> tuple[Heard, ...]:
        """A message is an end; a task is one when it is completed, or will not be.

        What an agent lists without artifacts shows no results.
        """
        answer = reply.payload
        if isinstance(answer, pb.ListTasksResponse):
            whole = bool(permit.call.message.include_artifacts)
            return tuple(_of(task, whole=whole) for task in answer.tasks)
        return _heard(answer)


def _heard(answer: Any) -> tuple[Heard, ...]:
    if isinstance(answer, pb.SendMessageResponse | pb.StreamResponse):
        kind = answer.WhichOneof("payload")
        answer = getattr(answer, kind) if kind is not None else None
    if isinstance(answer, pb.Message):
        return (Heard(Ended.DONE, tuple(_objects(answer.parts))),)
    if isinstance(answer, pb.TaskArtifactUpdateEvent):
        return (Heard(None, tuple(_objects(answer.artifact.parts)), answer.task_id, whole=False),)
    if isinstance(answer, pb.TaskStatusUpdateEvent):
        ended = _ENDED.get(answer.status.state, Ended.OPEN)
        return (Heard(ended, tuple(_objects(answer.status.message.parts)), answer.task_id, whole=False),)
    return (_of(answer),) if isinstance(answer, pb.Task) else ()


def _of(task: pb.Task, *, whole: bool = True) -> Heard:
    parts = [*task.status.message.parts, *(part for artifact in task.artifacts for part in artifact.parts)]
    return Heard(_ENDED.get(task.status.state, Ended.OPEN), tuple(_objects(parts)), task.id, whole=whole)


def _objects(parts: Iterable[Any]) -> Iterable[Mapping[str, object]]:
    for part in parts:
        if part.HasField("data"):
            said = MessageToDict(part.data)
            if isinstance(said, dict):
                yield said
