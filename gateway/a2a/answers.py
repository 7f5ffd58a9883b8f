"""What an agent answered, read as strictly as a request (sans-I/O): a result that is a proto, or an error of bounded shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from a2a.types import a2a_pb2 as pb
from google.protobuf import empty_pb2  # type: ignore[import-untyped]  # protobuf ships no stubs

from gateway.a2a import v03
from gateway.a2a.errors import ERROR_INFO, TASK_NOT_FOUND, task_not_found
from gateway.a2a.operations import Named, Operation, named_in_answer
from gateway.a2a.wire import UnreadableError, identifier, load, to_proto
from gateway.model import Call, UpstreamError

MAX_MESSAGE = 1000
MAX_DETAILS = 8
_TERMINAL = frozenset(
    {
        pb.TaskState.TASK_STATE_COMPLETED,
        pb.TaskState.TASK_STATE_FAILED,
        pb.TaskState.TASK_STATE_CANCELED,
        pb.TaskState.TASK_STATE_REJECTED,
    }
)
_TASKLESS = (pb.TaskPushNotificationConfig, pb.ListTaskPushNotificationConfigsResponse, pb.AgentCard, empty_pb2.Empty)
_FAILED = frozenset({pb.TaskState.TASK_STATE_FAILED, pb.TaskState.TASK_STATE_REJECTED})
_INTERRUPTED = frozenset({pb.TaskState.TASK_STATE_INPUT_REQUIRED, pb.TaskState.TASK_STATE_AUTH_REQUIRED})


@dataclass(frozen=True, slots=True)
class AgentSaysNo:
    """A JSON-RPC error by the agent: code, message and typed details, nothing else of what it sent."""

    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LastWord:
    """An event of which its agent says that it is the last one (0.3)."""

    event: Any


def read_answer(data: bytes, call: Call, operation: Operation, *, depth: int, nodes: int) -> Any:
    """The operation's answer message, of the last event a `LastWord`; or `AgentSaysNo`.

    `UpstreamError("protocol")` for what is not one JSON-RPC response to this very request with a whole answer in it.
    """
    try:
        value = load(data, depth=depth, nodes=nodes)
        if isinstance(value, dict) and operation.answer is empty_pb2.Empty and "error" not in value:
            value.setdefault("result")  # the SDK's agents leave out a result of 0.3 that is null
        if not isinstance(value, dict) or value.get("jsonrpc") != "2.0" or ("result" in value) == ("error" in value):
            raise UnreadableError("not one JSON-RPC response")
        if "error" in value and value.get("id") is None:
            return AgentSaysNo(_error(value["error"]))  # the agent could not tell which request it was
        if value.get("id") != call.arrival.id:
            raise UnreadableError("an answer to another request")
        if "error" in value:
            return AgentSaysNo(_error(value["error"]))
        result = value["result"]
        last = False
        if call.version == v03.VERSION:
            answer, last = v03.answer(operation.method, result)
        else:
            answer = to_proto({} if result is None and operation.answer is empty_pb2.Empty else result, operation.answer())
        _check(answer, call, operation)
    except UnreadableError as error:
        raise UpstreamError("protocol", str(error)) from None
    return LastWord(answer) if last else answer


def read_message(told: Any, call: Call, operation: Operation) -> Any:
    """The operation's answer message of ProtoJSON that stands for itself; `UpstreamError("protocol")` for what is none."""
    try:
        answer = to_proto(told, operation.answer())
        _check(answer, call, operation)
    except UnreadableError as error:
        raise UpstreamError("protocol", str(error)) from None
    return answer


def says_no(error: Any) -> AgentSaysNo:
    """The agent's error of JSON that stands for itself; `UpstreamError("protocol")` for what is none."""
    try:
        return AgentSaysNo(_error(error))
    except UnreadableError as found:
        raise UpstreamError("protocol", str(found)) from None


def pause_of(event: Any) -> Literal["terminal", "interrupted"] | None:
    """Whether the task of an event has come to its end, waits for its person, or goes on (None)."""
    state = _state(event)
    if state in _TERMINAL:
        return "terminal"
    return "interrupted" if state in _INTERRUPTED else None


def says_failed(answer: Any) -> bool:
    """Whether the task of an answer or event failed or was rejected."""
    return _state(answer) in _FAILED


def _state(answer: Any) -> int:
    if isinstance(answer, (*_TASKLESS, pb.ListTasksResponse)):
        return 0
    chosen = answer.WhichOneof("payload") if not isinstance(answer, pb.Task) else None
    if chosen in {"task", "status_update"}:
        answer = getattr(answer, chosen)
    elif not isinstance(answer, pb.Task):
        return 0
    state: int = answer.status.state
    return state


def _check(answer: Any, call: Call, operation: Operation) -> None:
    if isinstance(answer, _TASKLESS):
        return
    if isinstance(answer, pb.ListTasksResponse):
        for task in answer.tasks:
            if not identifier(task.id) or (task.context_id and not identifier(task.context_id)):
                raise UnreadableError("a task whose id cannot be kept")
        return
    chosen: Any = answer
    if not isinstance(answer, pb.Task):
        kind = answer.WhichOneof("payload")
        if kind is None:
            raise UnreadableError("an empty answer")
        chosen = getattr(answer, kind)
    named: Named = named_in_answer(answer)
    if not all(identifier(text) for text in (*named.tasks, named.context) if text):
        raise UnreadableError("an id that cannot be kept")
    if not isinstance(chosen, pb.Message) and not named.tasks:
        raise UnreadableError("a task without an id")
    if operation.about is not None and named.tasks and named.tasks != (operation.about(call.message),):
        raise UnreadableError("another task than was asked for")


def _error(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UnreadableError("error is not an object")
    code, message = value.get("code"), value.get("message")
    if not isinstance(code, int) or isinstance(code, bool) or abs(code) >= 2**31 or not isinstance(message, str):
        raise UnreadableError("error without code or message")
    if code == TASK_NOT_FOUND:
        return task_not_found()
    error: dict[str, Any] = {"code": code, "message": _clean(message, MAX_MESSAGE)}
    data = value.get("data")
    details = [info for item in data[:MAX_DETAILS] if (info := _detail(item))] if isinstance(data, list) else []
    if details:
        error["data"] = details
    return error


def _detail(item: Any) -> Mapping[str, Any] | None:
    """An ErrorInfo with short texts; other details may say more than the gateway can answer for."""
    if not isinstance(item, dict) or item.get("@type") != ERROR_INFO:
        return None
    reason, domain, metadata = item.get("reason"), item.get("domain"), item.get("metadata", {})
    if not isinstance(reason, str) or not isinstance(domain, str) or not isinstance(metadata, dict):
        return None
    short = {_clean(key, 64): _clean(text, 256) for key, text in list(metadata.items())[:16] if isinstance(text, str)}
    return {"@type": ERROR_INFO, "reason": _clean(reason, 64), "domain": _clean(domain, 256), "metadata": short}


def _clean(text: str, limit: int) -> str:
    """Short and printable: no control characters for a terminal, no lone surrogates for a reader."""
    return "".join(char if char.isprintable() else " " for char in text[:limit])
