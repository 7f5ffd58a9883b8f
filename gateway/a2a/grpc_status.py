"""gRPC's statuses: an error of HTTP+JSON, which is a google.rpc.Status already, in gRPC's codes; and an agent's as an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from google.protobuf.duration_pb2 import Duration  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no stubs
from google.rpc import code_pb2, status_pb2  # type: ignore[import-untyped]  # and neither does this
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo  # type: ignore[import-untyped]

from gateway.a2a import errors
from gateway.model import Refused, UpstreamError
from gateway.reasons import Code

STATUS_KEY: Final = "grpc-status-details-bin"
MAX_DETAILS: Final = 8
MESSAGE_BYTES: Final = 2048
DETAILS_BYTES: Final = 3584
"""Of the text of a status as it is sent, and of its ErrorInfos: clients lose a status, and with it its code, that has more than
8 KiB of metadata."""
_OTHERWISE: Final = {
    "METHOD_NOT_FOUND": "UNIMPLEMENTED",
    "TOO_LARGE": "RESOURCE_EXHAUSTED",
}
"""By reason: where gRPC has a code of its own for what HTTP says otherwise."""
_RPC_CODES: Final = {
    "INVALID_REQUEST": errors.INVALID_REQUEST,
    "METHOD_NOT_FOUND": errors.METHOD_NOT_FOUND,
    "INVALID_PARAMS": errors.INVALID_PARAMS,
    "INTERNAL_ERROR": errors.INTERNAL,
    "TASK_NOT_FOUND": errors.TASK_NOT_FOUND,
    "TASK_NOT_CANCELABLE": errors.TASK_NOT_CANCELABLE,
    "PUSH_NOTIFICATION_NOT_SUPPORTED": errors.PUSH_NOT_SUPPORTED,
    "UNSUPPORTED_OPERATION": errors.UNSUPPORTED_OPERATION,
    "CONTENT_TYPE_NOT_SUPPORTED": errors.CONTENT_TYPE_NOT_SUPPORTED,
    "INVALID_AGENT_RESPONSE": errors.INVALID_AGENT_RESPONSE,
    "EXTENDED_AGENT_CARD_NOT_CONFIGURED": errors.EXTENDED_CARD_NOT_CONFIGURED,
    "EXTENSION_SUPPORT_REQUIRED": errors.EXTENSION_REQUIRED,
    "VERSION_NOT_SUPPORTED": errors.VERSION_NOT_SUPPORTED,
}
_REASONS: Final = {code: reason for reason, code in _RPC_CODES.items()}
_BARE: Final = {
    "UNKNOWN": errors.INTERNAL,
    "INVALID_ARGUMENT": errors.INVALID_PARAMS,
    "NOT_FOUND": errors.TASK_NOT_FOUND,
    "FAILED_PRECONDITION": errors.UNSUPPORTED_OPERATION,
    "UNIMPLEMENTED": errors.METHOD_NOT_FOUND,
}
"""What an agent means that says a code and no A2A reason with it."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ends.

    code     gRPC's number; `message` the text beside it.
    details  a google.rpc.Status, for `grpc-status-details-bin`.
    trailing further trailing metadata.
    """

    code: int
    message: str
    details: bytes
    trailing: tuple[tuple[str, str], ...] = ()


def refused(refusal: Refused, decision: str) -> Status:
    """Of a refused call."""
    name = "RESOURCE_EXHAUSTED" if refusal.code is Code.OVERLOADED else ""
    return _status(errors.refused(refusal, decision, form="rest"), name)


def failed(error: UpstreamError, decision: str) -> Status:
    """Where the agent could not be reached, or did not answer as A2A demands."""
    return _status(errors.failed(error, decision, form="rest"))


def said(error: Mapping[str, Any]) -> Status:
    """Of an error that the agent said."""
    if "data" not in error and error["code"] in _REASONS:
        info = {"@type": errors.ERROR_INFO, "reason": _REASONS[error["code"]], "domain": errors.A2A_DOMAIN, "metadata": {}}
        error = {**error, "data": [info]}  # clients of gRPC tell A2A's errors by their reason alone
    status = errors.rest_status(error)
    return _status(errors.Answer(status, errors.rest_body(error, status)))


def _status(answer: errors.Answer, name: str = "") -> Status:
    error = orjson.loads(answer.body)["error"]
    details = error.get("details", ())
    infos = list(_fitting([each for each in details if each["@type"] == errors.ERROR_INFO]))
    message = _cut(error["message"])
    reason = infos[0].reason if infos else ""
    code = code_pb2.Code.Value(name or _OTHERWISE.get(reason, error["status"]))
    status = status_pb2.Status(code=code, message=message)
    for info in infos:
        status.details.add().Pack(info)
    for each in details:
        if each["@type"] == errors.RETRY_INFO:
            status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=int(each["retryDelay"].removesuffix("s")))))
    trailing = tuple((key.lower(), value) for key, value in answer.headers)
    return Status(code, message, status.SerializeToString(), trailing)


def _fitting(details: Sequence[Mapping[str, Any]]) -> Iterator[ErrorInfo]:
    """Of the details those that there is room for: of the first that is too large, what comes first in it."""
    room = DETAILS_BYTES
    for each in details:
        info, said = ErrorInfo(reason=each["reason"], domain=each["domain"]), dict(each["metadata"])
        info.metadata.update(said)
        while said and info.ByteSize() > room:
            del info.metadata[said.popitem()[0]]
        room -= info.ByteSize()
        if room < 0:
            return
        yield info


def _cut(text: str) -> str:
    """A text as long as there is room for it in the form that gRPC sends it in."""
    room = MESSAGE_BYTES
    for end, char in enumerate(text):
        room -= 1 if " " <= char <= "~" and char != "%" else 3 * len(char.encode())
        if room < 0:
            return text[:end]
    return text


def as_error(name: str, message: str, details: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """An agent's status as the JSON-RPC error that it stands for; None where it is none of A2A's, but says something of the way.

    name     of the code, as `NOT_FOUND`.
    details  that stood beside it, as JSON has them.
    """
    ours = (info.get("reason") for info in details if info.get("domain") == errors.A2A_DOMAIN)
    reason = next((str(each) for each in ours if each in _RPC_CODES), "")
    code = _RPC_CODES[reason] if reason else _BARE.get(name)
    if code is None:
        return None
    error: dict[str, Any] = {"code": code, "message": message if name != "UNKNOWN" else "Internal error"}
    if details:
        error["data"] = list(details)
    return error


def infos(details: bytes) -> list[dict[str, Any]]:
    """The ErrorInfos of a google.rpc.Status."""
    status = status_pb2.Status()
    found: list[dict[str, Any]] = []
    try:
        status.ParseFromString(details)
        for each in status.details[:MAX_DETAILS]:
            info = ErrorInfo()
            if each.Is(ErrorInfo.DESCRIPTOR) and each.Unpack(info):
                metadata = dict(info.metadata)
                found.append({"@type": errors.ERROR_INFO, "reason": info.reason, "domain": info.domain, "metadata": metadata})
    except DecodeError:  # an agent that cannot spell its details has a code all the same
        return []
    return found
