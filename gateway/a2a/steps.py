"""A2A messages as steps of a workflow, and what agents' answers say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]

from gateway.model import Call, Reply
from gateway.workflows.steps import Ended, Heard
from policies.model import NOTHING

_STEPS: Final = frozenset({"SendMessage", "SendStreamingMessage"})
_ENDED: Final[Mapping[int, Ended]] = {pb.TaskState.TASK_STATE_COMPLETED: Ended.DONE}


class A2aSteps:
    """See `gateway.workflows.steps.Reader`."""

    def is_step(self, call: Call) -> bool:
        """A message; a look at tasks is none."""
        return call.method in _STEPS

    def arguments(self, call: Call) -> Mapping[str, object]:
        """The one data part that is an object; none where a message has several: nobody could say which of them counts."""
        found = list(_objects(call.message.message.parts))
        return found[0] if len(found) == 1 else NOTHING

    def heard(self, reply: Reply) -> Heard:
        """A message is an end; a task is one when it is completed."""
        answer = reply.payload
        if isinstance(answer, pb.SendMessageResponse | pb.StreamResponse):
            kind = answer.WhichOneof("payload")
            answer = getattr(answer, kind) if kind is not None else None
        if isinstance(answer, pb.Message):
            return Heard(Ended.DONE, tuple(_objects(answer.parts)))
        if isinstance(answer, pb.TaskArtifactUpdateEvent):
            return Heard(None, tuple(_objects(answer.artifact.parts)))
        if isinstance(answer, pb.Task | pb.TaskStatusUpdateEvent):
            parts = [*answer.status.message.parts]
            parts += [part for artifact in answer.artifacts for part in artifact.parts] if isinstance(answer, pb.Task) else []
            return Heard(_ENDED.get(answer.status.state, Ended.OPEN), tuple(_objects(parts)))
        return Heard()


def _objects(parts: Iterable[Any]) -> Iterable[Mapping[str, object]]:
    for part in parts:
        if part.HasField("data"):
            said = MessageToDict(part.data)
            if isinstance(said, dict):
                yield said
