"""The A2A operations that are served, a row each.  What has no row is not served; a new operation is a new row."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from a2a.types import a2a_pb2 as pb
from google.protobuf import empty_pb2  # type: ignore[import-untyped]  # protobuf ships no stubs

from gateway.a2a.errors import RpcRefused
from gateway.a2a.wire import identifier
from gateway.reasons import Code
from gateway.state.approvals import Parked

CARD: Final = "GetAgentCard"
"""Our word for the GET of an agent's card, which has no method name of its own."""
CARD_PATH: Final = "/.well-known/agent-card.json"
MAX_REFERENCES: Final = 32
MAX_PAGE: Final = 100
MAX_HISTORY: Final = 1000
"""Messages of a task's history in one answer, where the caller asks for more."""
LIST_TASKS: Final = "ListTasks"
EXTENDED_CARD: Final = "GetExtendedAgentCard"
LIST_AGENTS: Final = "ListAgents"
"""Our word for the GET of the directory, which is not A2A's."""
DIRECTORY_PATHS: Final = frozenset({"/a2a", "/a2a/"})

_IDENTITIES: Final = frozenset({"actorchain", "txntoken", "authorization"})
_SPEAKERS: Final = ("bailiwick", "securepassport")


@dataclass(frozen=True, slots=True)
class Named:
    """Tasks and context by their ids at one agent, as a request or an answer names them; "" where it names no context."""

    tasks: tuple[str, ...] = ()
    context: str = ""


class Mentioned(NamedTuple):
    """Further tasks and contexts, of which an answer says something without being about them."""

    tasks: tuple[str, ...]
    contexts: tuple[str, ...]


class Asked(NamedTuple):
    """What the stages keep of a request beside its message.

    extensions      that are active in this call.
    leaves_waiting  0.3: it says nothing of whether the agent shall wait for its task.
    waiting         the parked message that it is about, where it names a task of the gateway's own.
    """

    extensions: tuple[str, ...] = ()
    leaves_waiting: bool = False
    waiting: Parked | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    request   makes the empty request message; `answer` the empty result.
    prepare   makes the request fit to be sent on, in place; raises `RpcRefused` for what it must not ask for.
    names     what the request names, and must be the caller's.
    streams   whether the answer is a stream of events.
    about     the one task that the answer must be about; None where the request names none.
    reads     nothing changes at the agent: a task that failed is told, it is not this call that failed.
    """

    method: str
    request: Callable[[], Any]
    answer: Callable[[], Any]
    prepare: Callable[[Any], None]
    names: Callable[[Any], Named]
    streams: bool = False
    about: Callable[[Any], str] | None = None
    reads: bool = False


def _prepare_send(request: Any) -> None:
    request.tenant = ""
    if not request.HasField("message"):
        raise RpcRefused(Code.INVALID_PARAMS, "message is missing")
    message = request.message
    if not identifier(message.message_id) or not message.parts:
        raise RpcRefused(Code.INVALID_PARAMS, "messageId or parts")
    ids = (message.task_id, message.context_id, *message.reference_task_ids)
    if len(ids) > MAX_REFERENCES or not all(identifier(text) for text in ids[:2] if text):
        raise RpcRefused(Code.INVALID_PARAMS, "ids")
    if not all(identifier(text) for text in message.reference_task_ids):
        raise RpcRefused(Code.INVALID_PARAMS, "referenceTaskIds")
    _cap_history(request.configuration)
    if request.configuration.HasField("task_push_notification_config"):
        config = request.configuration.task_push_notification_config
        config.tenant, config.task_id = "", ""
        if not config.url or (config.id and not identifier(config.id)):
            raise RpcRefused(Code.INVALID_PARAMS, "push configuration")
    for metadata in (request.metadata, message.metadata, *(part.metadata for part in message.parts)):
        _strip(metadata)


def _cap_history(request: Any) -> None:
    if not request.HasField("history_length"):
        return
    if request.history_length < 0:
        raise RpcRefused(Code.INVALID_PARAMS, "historyLength")
    request.history_length = min(request.history_length, MAX_HISTORY)


def _strip(metadata: Any) -> None:
    """Drop what could pass for the gateway's word on who calls: identity comes by the delegation token alone."""
    for key in [key for key in metadata.fields if _claims_identity(key)]:
        del metadata.fields[key]


def _claims_identity(key: str) -> bool:
    folded = "".join(char for char in unicodedata.normalize("NFKC", key).casefold() if char.isalnum())
    return folded in _IDENTITIES or any(word in folded for word in _SPEAKERS)


def _prepare_task(request: Any) -> None:
    request.tenant = ""
    if not identifier(request.id):
        raise RpcRefused(Code.INVALID_PARAMS, "id")


def _prepare_get(request: Any) -> None:
    _prepare_task(request)
    _cap_history(request)


def _prepare_list(request: Any) -> None:
    request.tenant = ""
    if request.HasField("page_size") and not 1 <= request.page_size <= MAX_PAGE:
        raise RpcRefused(Code.INVALID_PARAMS, "pageSize")
    _cap_history(request)
    if request.context_id and not identifier(request.context_id):
        raise RpcRefused(Code.INVALID_PARAMS, "contextId")


def _prepare_cancel(request: Any) -> None:
    _prepare_task(request)
    _strip(request.metadata)


def _prepare_config(request: Any) -> None:
    request.tenant = ""
    if not identifier(request.task_id) or not request.url or (request.id and not identifier(request.id)):
        raise RpcRefused(Code.INVALID_PARAMS, "taskId, url or id")


def _prepare_configs(request: Any) -> None:
    request.tenant = ""
    if not identifier(request.task_id) or not identifier(getattr(request, "id", "all")):
        raise RpcRefused(Code.INVALID_PARAMS, "taskId or id")


def _prepare_extended(request: Any) -> None:
    request.tenant = ""


def _named_in_send(request: Any) -> Named:
    message = request.message
    tasks = ((message.task_id,) if message.task_id else ()) + tuple(message.reference_task_ids)
    return Named(tuple(dict.fromkeys(tasks)), message.context_id)


def _named_by_id(request: Any) -> Named:
    return Named((request.id,))


def _named_by_task(request: Any) -> Named:
    return Named((request.task_id,))


def _nothing(_request: Any) -> Named:
    return Named()


def _id_of(request: Any) -> str:
    return str(request.id)


def webhook_in(request: Any) -> pb.TaskPushNotificationConfig | None:
    """The push notification configuration that a request carries, itself or beside a message."""
    if isinstance(request, pb.TaskPushNotificationConfig):
        return request
    if isinstance(request, pb.SendMessageRequest) and request.configuration.HasField("task_push_notification_config"):
        return request.configuration.task_push_notification_config
    return None


def named_in_answer(answer: Any) -> Named:
    """What an answer or an event names: its task and its context."""
    if isinstance(answer, pb.Task):
        return Named((answer.id,) if answer.id else (), answer.context_id)
    if not isinstance(answer, pb.SendMessageResponse | pb.StreamResponse):
        return Named()
    chosen = getattr(answer, answer.WhichOneof("payload"))
    if isinstance(chosen, pb.Task):
        return named_in_answer(chosen)
    return Named((chosen.task_id,) if chosen.task_id else (), chosen.context_id)


def mentioned_in(answer: Any) -> Mentioned:
    """What else the messages in an answer or an event mention, beside its own task and context."""
    tasks: set[str] = set()
    contexts: set[str] = set()
    for about, messages in _messages(answer):
        for message in messages:
            tasks |= {message.task_id, *message.reference_task_ids} - {"", *about.tasks}
            contexts |= {message.context_id} - {"", about.context}
    return Mentioned(tuple(sorted(tasks)), tuple(sorted(contexts)))


def _messages(answer: Any) -> Iterator[tuple[Named, Iterable[pb.Message]]]:
    if isinstance(answer, pb.ListTasksResponse):
        for task in answer.tasks:
            yield from _messages(task)
    elif isinstance(answer, pb.Task):
        yield named_in_answer(answer), (answer.status.message, *answer.history)
    elif isinstance(answer, pb.SendMessageResponse | pb.StreamResponse):
        kind = answer.WhichOneof("payload")
        if kind == "task":
            yield from _messages(answer.task)
        elif kind == "status_update":
            yield named_in_answer(answer), (answer.status_update.status.message,)
        elif kind == "message":
            yield named_in_answer(answer), (answer.message,)


OPERATIONS: Final[Mapping[str, Operation]] = MappingProxyType(
    {
        row.method: row
        for row in (
            Operation("SendMessage", pb.SendMessageRequest, pb.SendMessageResponse, _prepare_send, _named_in_send),
            Operation(
                "SendStreamingMessage", pb.SendMessageRequest, pb.StreamResponse, _prepare_send, _named_in_send, streams=True
            ),
            Operation("GetTask", pb.GetTaskRequest, pb.Task, _prepare_get, _named_by_id, about=_id_of, reads=True),
            Operation(LIST_TASKS, pb.ListTasksRequest, pb.ListTasksResponse, _prepare_list, _nothing, reads=True),
            Operation("CancelTask", pb.CancelTaskRequest, pb.Task, _prepare_cancel, _named_by_id, about=_id_of),
            Operation(
                "SubscribeToTask",
                pb.SubscribeToTaskRequest,
                pb.StreamResponse,
                _prepare_task,
                _named_by_id,
                streams=True,
                about=_id_of,
                reads=True,
            ),
            Operation(
                "CreateTaskPushNotificationConfig",
                pb.TaskPushNotificationConfig,
                pb.TaskPushNotificationConfig,
                _prepare_config,
                _named_by_task,
            ),
            Operation(
                "GetTaskPushNotificationConfig",
                pb.GetTaskPushNotificationConfigRequest,
                pb.TaskPushNotificationConfig,
                _prepare_configs,
                _named_by_task,
                reads=True,
            ),
            Operation(
                "ListTaskPushNotificationConfigs",
                pb.ListTaskPushNotificationConfigsRequest,
                pb.ListTaskPushNotificationConfigsResponse,
                _prepare_configs,
                _named_by_task,
                reads=True,
            ),
            Operation(
                "DeleteTaskPushNotificationConfig",
                pb.DeleteTaskPushNotificationConfigRequest,
                empty_pb2.Empty,
                _prepare_configs,
                _named_by_task,
            ),
            Operation(EXTENDED_CARD, pb.GetExtendedAgentCardRequest, pb.AgentCard, _prepare_extended, _nothing, reads=True),
        )
    }
)
