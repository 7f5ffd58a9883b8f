"""A2A 0.3 as the messages of 1.0 (sans-I/O): what comes in 0.3 is read into the proto that is checked, and written from it.

0.3's own types read a member by either of two spellings, and tell what a thing is by what it has: what two readers could read
differently is refused here, and so is what the proto cannot carry, rather than lost on the way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from a2a.compat.v0_3 import conversions
from a2a.compat.v0_3 import types as old
from a2a.types import a2a_pb2 as pb
from google.protobuf import empty_pb2  # type: ignore[import-untyped]  # protobuf ships no stubs
from google.protobuf.json_format import Error  # type: ignore[import-untyped]
from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from gateway.a2a.wire import UNSAID_VERSION, UnreadableError, to_json, to_proto, whole_numbers

VERSION: Final = UNSAID_VERSION
METHODS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "message/send": "SendMessage",
        "message/stream": "SendStreamingMessage",
        "tasks/get": "GetTask",
        "tasks/cancel": "CancelTask",
        "tasks/resubscribe": "SubscribeToTask",
        "tasks/pushNotificationConfig/set": "CreateTaskPushNotificationConfig",
        "tasks/pushNotificationConfig/get": "GetTaskPushNotificationConfig",
        "tasks/pushNotificationConfig/list": "ListTaskPushNotificationConfigs",
        "tasks/pushNotificationConfig/delete": "DeleteTaskPushNotificationConfig",
        "agent/getAuthenticatedExtendedCard": "GetExtendedAgentCard",
    }
)
"""Its methods, and the operations that they are.  There is no ListTasks."""

_NAMES: Final[Mapping[str, str]] = MappingProxyType({operation: method for method, operation in METHODS.items()})
_OWN_WORDS: Final = frozenset({"metadata", "data"})
"""Members that hold what the speaker likes, in the speaker's own spelling."""
_CONTENT: Final = frozenset({"text", "file", "data"})
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_COMPAT: Final = "data_part_compat"
"""Under this key of its metadata the SDK keeps that a part's data was no object."""
_READING: Final = (Error, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


def read(method: str, params: Any) -> tuple[Any, bool]:
    """The request of one of `METHODS`, as a proto; and whether it leaves to the agent if it waits for its task.

    Raises `UnreadableError`.
    """
    operation = METHODS[method]
    if operation == "GetExtendedAgentCard":
        return pb.GetExtendedAgentCardRequest(), False
    try:
        _one_reading(params)
        request = _REQUESTS[operation](params)
    except UnreadableError:
        raise
    except _READING as error:
        raise UnreadableError(type(error).__name__) from None
    configuration = params.get("configuration") if operation.startswith("Send") else None
    return request, isinstance(configuration, dict) and configuration.get("blocking") is None


def written(operation: str, request: Any, *, leaves_waiting: bool) -> tuple[str, dict[str, Any]]:
    """(method, params) of a request that was read from 0.3."""
    if operation == "GetExtendedAgentCard":
        return _NAMES[operation], {}
    params: dict[str, Any] = _dumped(_PARAMS[operation](request))
    if leaves_waiting and "configuration" in params:
        del params["configuration"]["blocking"]
    return _NAMES[operation], params


def answer(operation: str, result: Any) -> tuple[Any, bool]:
    """An agent's result as the operation's answer message; and whether it says that it is the last event.

    Raises `UnreadableError`.
    """
    if operation == "DeleteTaskPushNotificationConfig":
        return empty_pb2.Empty(), False
    try:
        _one_reading(result)
        return _ANSWERS[operation](result), isinstance(result, dict) and result.get("final") is True
    except UnreadableError:
        raise
    except _READING as error:
        raise UnreadableError(type(error).__name__) from None


def news(value: Any) -> pb.StreamResponse:
    """A push notification: the bare task.  Raises `UnreadableError`."""
    return answer("SubscribeToTask", value if not isinstance(value, dict) else {"kind": "task"} | value)[0]  # type: ignore[no-any-return]


def result_of(message: Any, *, final: bool = False) -> Any:
    """An answer as 0.3 says it; `final`: of an event that tells a status, whether it is the last."""
    if isinstance(message, empty_pb2.Empty):
        return None
    if isinstance(message, pb.AgentCard):
        return card(message, to_json(message))
    if isinstance(message, pb.TaskPushNotificationConfig):
        return _dumped(conversions.to_compat_task_push_notification_config(message))
    if isinstance(message, pb.ListTaskPushNotificationConfigsResponse):
        return [_dumped(conversions.to_compat_task_push_notification_config(config)) for config in message.configs]
    said = message if isinstance(message, pb.Task) else getattr(message, message.WhichOneof("payload"))
    told = _dumped(_SAID[type(said)](said))
    if isinstance(said, pb.TaskStatusUpdateEvent):
        told["final"] = final
    return told


def news_of(event: pb.StreamResponse) -> Any:
    """A push notification as its clients expect it: a task, as far as the event tells of it; a message stays one."""
    kind = event.WhichOneof("payload")
    if kind == "status_update":
        update = event.status_update
        return result_of(pb.Task(id=update.task_id, context_id=update.context_id, status=update.status))
    if kind == "artifact_update":
        piece = event.artifact_update
        return result_of(pb.Task(id=piece.task_id, context_id=piece.context_id, artifacts=[piece.artifact]))
    return result_of(event)


def card(published: pb.AgentCard, said: dict[str, Any]) -> dict[str, Any]:
    """A card as 1.0 says it, with what readers of 0.3 look for beside, where an interface of 0.3 is among its own."""
    if not any(interface.protocol_version == VERSION for interface in published.supported_interfaces):
        return said
    beside = _dumped(conversions.to_compat_agent_card(published)) | {"protocolVersion": f"{VERSION}.0"}  # as 0.3 writes it
    schemes = {name: beside["securitySchemes"][name] | scheme for name, scheme in said.get("securitySchemes", {}).items()}
    merged: dict[str, Any] = beside | said | ({"securitySchemes": schemes} if schemes else {})
    return merged


def card_of(said: Any) -> pb.AgentCard:
    """An agent's card, of which 0.3 calls one member otherwise.  Raises `UnreadableError`."""
    found = to_proto(said, pb.AgentCard())
    if isinstance(said, dict) and said.get("supportsAuthenticatedExtendedCard") is True:
        found.capabilities.extended_agent_card = True
    return found


def addresses(said: Any) -> list[str]:
    """The addresses of an agent that stand in a card of 0.3."""
    further = said.get("additionalInterfaces")
    named = [said, *(further if isinstance(further, list) else ())]
    return [url for each in named if isinstance(each, dict) and isinstance(url := each.get("url"), str)]


def _one_reading(value: Any) -> None:
    """Refuse what two readers could read differently, in models of any kind."""
    if isinstance(value, list):
        for item in value:
            _one_reading(item)
    if not isinstance(value, dict):
        return
    names = [to_camel(key) if "_" in key else key for key in value]
    if len(set(names)) != len(names):
        raise UnreadableError("a member stands in both its spellings")
    for name, inner in zip(names, value.values(), strict=True):
        if name == "parts" and isinstance(inner, list):
            for part in inner:
                _one_content(part)
        if name not in _OWN_WORDS:
            _one_reading(inner)


def _one_content(part: Any) -> None:
    if not isinstance(part, dict):
        raise UnreadableError("a part is not an object")
    kind = part.get("kind")
    if part.keys() & _CONTENT != {kind}:
        raise UnreadableError("a part is not what it says, or not that alone")
    if kind == "file" and isinstance(file := part["file"], dict):
        if "bytes" in file and "uri" in file:
            raise UnreadableError("a file has its bytes and an address")
        if "bytes" in file and not (isinstance(file["bytes"], str) and _BASE64.fullmatch(file["bytes"])):
            raise UnreadableError("the bytes of a file are not base64")
    if kind == "data" and _COMPAT in (part.get("metadata") or ()):
        data = part["data"]
        if not isinstance(data, dict) or data.keys() != {"value"} or isinstance(data["value"], dict):
            raise UnreadableError(f"a part says {_COMPAT}, and is not of that form")


def _model(of: type[BaseModel], value: Any) -> Any:
    """A model, read without any conversion: a number is no text and a text no number."""
    return of.model_validate_json(json.dumps(value), strict=True)


def _send(params: Any) -> Any:
    model = _model(old.MessageSendParams, params)
    if model.configuration is not None and model.configuration.push_notification_config is not None:
        _one_scheme(model.configuration.push_notification_config)
    return conversions.to_core_send_message_request(old.SendMessageRequest(id=0, params=model))


def _get(params: Any) -> Any:
    model = _without_metadata(_model(old.TaskQueryParams, params))
    return conversions.to_core_get_task_request(old.GetTaskRequest(id=0, params=model))


def _cancel(params: Any) -> Any:
    model = _model(old.TaskIdParams, params)
    return conversions.to_core_cancel_task_request(old.CancelTaskRequest(id=0, params=model))


def _subscribe(params: Any) -> Any:
    return pb.SubscribeToTaskRequest(id=_without_metadata(_model(old.TaskIdParams, params)).id)


def _set_config(params: Any) -> Any:
    model = _model(old.TaskPushNotificationConfig, params)
    _one_scheme(model.push_notification_config)
    return conversions.to_core_task_push_notification_config(model)


def _get_config(params: Any) -> Any:
    """One that is asked for by its task alone has the task's id, as every SDK keeps it."""
    named = isinstance(params, dict) and not {"pushNotificationConfigId", "push_notification_config_id"}.isdisjoint(params)
    model = _without_metadata(_model(old.GetTaskPushNotificationConfigParams if named else old.TaskIdParams, params))
    name = model.push_notification_config_id if named else model.id
    return pb.GetTaskPushNotificationConfigRequest(task_id=model.id, id=name)


def _list_configs(params: Any) -> Any:
    model = _without_metadata(_model(old.ListTaskPushNotificationConfigParams, params))
    return pb.ListTaskPushNotificationConfigsRequest(task_id=model.id)


def _delete_config(params: Any) -> Any:
    model = _without_metadata(_model(old.DeleteTaskPushNotificationConfigParams, params))
    return pb.DeleteTaskPushNotificationConfigRequest(task_id=model.id, id=model.push_notification_config_id)


def _without_metadata(model: Any) -> Any:
    if model.metadata:
        raise UnreadableError("metadata of a question about a task cannot be carried")
    return model


def _one_scheme(config: old.PushNotificationConfig) -> None:
    if config.authentication is not None and len(config.authentication.schemes) > 1:
        raise UnreadableError("more than one authentication scheme cannot be carried")


_REQUESTS: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {
        "SendMessage": _send,
        "SendStreamingMessage": _send,
        "GetTask": _get,
        "CancelTask": _cancel,
        "SubscribeToTask": _subscribe,
        "CreateTaskPushNotificationConfig": _set_config,
        "GetTaskPushNotificationConfig": _get_config,
        "ListTaskPushNotificationConfigs": _list_configs,
        "DeleteTaskPushNotificationConfig": _delete_config,
    }
)
_PARAMS: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {
        "SendMessage": lambda request: conversions.to_compat_send_message_request(request, 0).params,
        "SendStreamingMessage": lambda request: conversions.to_compat_send_message_request(request, 0).params,
        "GetTask": lambda request: conversions.to_compat_get_task_request(request, 0).params,
        "CancelTask": lambda request: conversions.to_compat_cancel_task_request(request, 0).params,
        "SubscribeToTask": lambda request: old.TaskIdParams(id=request.id),
        "CreateTaskPushNotificationConfig": conversions.to_compat_task_push_notification_config,
        "GetTaskPushNotificationConfig": lambda request: old.GetTaskPushNotificationConfigParams(
            id=request.task_id, push_notification_config_id=request.id
        ),
        "ListTaskPushNotificationConfigs": lambda request: old.ListTaskPushNotificationConfigParams(id=request.task_id),
        "DeleteTaskPushNotificationConfig": lambda request: old.DeleteTaskPushNotificationConfigParams(
            id=request.task_id, push_notification_config_id=request.id
        ),
    }
)


def _task(value: Any) -> pb.Task:
    task: pb.Task = conversions.to_core_task(_model(old.Task, _timed(value)))
    return task


def _message(value: Any) -> pb.Message:
    message: pb.Message = conversions.to_core_message(_model(old.Message, value))
    return message


def _status_update(value: Any) -> Any:
    return conversions.to_core_task_status_update_event(_model(old.TaskStatusUpdateEvent, _timed(value)))


def _artifact_update(value: Any) -> Any:
    return conversions.to_core_task_artifact_update_event(_model(old.TaskArtifactUpdateEvent, value))


def _timed(value: Any) -> Any:
    """The same with a time that has its zone: 0.3 asks for ISO 8601, of which a proto reads less."""
    status = value.get("status") if isinstance(value, dict) else None
    if not isinstance(status, dict) or not isinstance(status.get("timestamp"), str):
        return value
    at = datetime.fromisoformat(status["timestamp"])
    at = at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return value | {"status": status | {"timestamp": at.isoformat()}}


_KINDS: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = MappingProxyType(
    {
        "task": ("task", _task),
        "message": ("message", _message),
        "status-update": ("status_update", _status_update),
        "artifact-update": ("artifact_update", _artifact_update),
    }
)


def _of_kind(value: Any, *kinds: str) -> dict[str, Any]:
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in kinds:
        raise UnreadableError("an answer of no kind that belongs here")
    name, reader = _KINDS[kind]
    return {name: reader(value)}


def _configs(value: Any) -> pb.ListTaskPushNotificationConfigsResponse:
    if not isinstance(value, list):
        raise UnreadableError("no list of configurations")
    return pb.ListTaskPushNotificationConfigsResponse(configs=[_config(item) for item in value])


def _config(value: Any) -> Any:
    return conversions.to_core_task_push_notification_config(_model(old.TaskPushNotificationConfig, value))


def _event(value: Any) -> pb.StreamResponse:
    return pb.StreamResponse(**_of_kind(value, *_KINDS))


_ANSWERS: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {
        "SendMessage": lambda value: pb.SendMessageResponse(**_of_kind(value, "task", "message")),
        "SendStreamingMessage": _event,
        "SubscribeToTask": _event,
        "GetTask": _task,
        "CancelTask": _task,
        "CreateTaskPushNotificationConfig": _config,
        "GetTaskPushNotificationConfig": _config,
        "ListTaskPushNotificationConfigs": _configs,
        "GetExtendedAgentCard": card_of,
    }
)
_SAID: Final[Mapping[type[Any], Callable[[Any], BaseModel]]] = MappingProxyType(
    {
        pb.Task: conversions.to_compat_task,
        pb.Message: conversions.to_compat_message,
        pb.TaskStatusUpdateEvent: conversions.to_compat_task_status_update_event,
        pb.TaskArtifactUpdateEvent: conversions.to_compat_task_artifact_update_event,
    }
)


def _dumped(model: Any) -> Any:
    return whole_numbers(model.model_dump(mode="json", by_alias=True, exclude_none=True))
