"""Contexts by two names (sans-I/O): the agent hears one that nobody can guess, its owner the word that they said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from a2a.types import a2a_pb2 as pb
from msgspec.structs import replace

from gateway.a2a.answers import AgentSaysNo
from gateway.model import Call

_ABOUT = ("task", "message", "status_update", "artifact_update")


def within(call: Call, said: str, context: str) -> Call:
    """The call as it goes on to its agent: with the context's id in place of the caller's word."""
    if said == context:
        return call
    sent = type(call.message)()
    sent.CopyFrom(call.message)
    holder = sent.message if isinstance(sent, pb.SendMessageRequest) else sent
    holder.context_id = context
    return replace(call, message=sent, context=context)


def contexts_in(answer: Any) -> frozenset[str]:
    """The ids of contexts that stand in an answer or an event."""
    return frozenset(holder.context_id for holder in holders_of(answer)) - {""}


def told(answer: Any, words: Mapping[str, str]) -> Any:
    """The answer, or event, with the caller's words in place of ids; what an agent says in texts and data is its own."""
    if not words:
        return answer
    if isinstance(answer, AgentSaysNo):
        return AgentSaysNo(_replaced(answer.error, words))
    renamed = type(answer)()
    renamed.CopyFrom(answer)
    for holder in holders_of(renamed):
        if holder.context_id in words:
            holder.context_id = words[holder.context_id]
    return renamed


def _replaced(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for context, word in words.items():
            value = value.replace(context, word)
        return value
    if isinstance(value, Mapping):
        return {key: _replaced(inner, words) for key, inner in value.items()}
    return [_replaced(inner, words) for inner in value] if isinstance(value, list) else value


def holders_of(answer: Any) -> Iterator[Any]:
    """Each part of an answer that has a `context_id`, and metadata: tasks, messages, events."""
    if isinstance(answer, pb.ListTasksResponse):
        for task in answer.tasks:
            yield from _in_task(task)
    elif isinstance(answer, pb.Task):
        yield from _in_task(answer)
    elif isinstance(answer, pb.SendMessageResponse | pb.StreamResponse):
        chosen = answer.WhichOneof("payload")
        if chosen in _ABOUT:
            yield from _in_event(getattr(answer, chosen))


def _in_event(event: Any) -> Iterable[Any]:
    if isinstance(event, pb.Task):
        return _in_task(event)
    return (event, *_spoken(event.status)) if isinstance(event, pb.TaskStatusUpdateEvent) else (event,)


def _in_task(task: pb.Task) -> Iterable[Any]:
    return (task, *_spoken(task.status), *task.history)


def _spoken(status: pb.TaskStatus) -> Iterable[pb.Message]:
    return (status.message,) if status.HasField("message") else ()
