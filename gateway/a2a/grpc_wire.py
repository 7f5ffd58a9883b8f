"""A2A's gRPC binding to one strictly read message and back (sans-I/O): what protobuf encodes is read by way of ProtoJSON.

So it meets every check that the other bindings' messages meet, and the ledger holds one text for each message: ProtoJSON with
sorted members, without the fields that nobody knows.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import Error  # type: ignore[import-untyped]  # protobuf ships no stubs
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from gateway.a2a.cards import Card
from gateway.a2a.errors import PARSE_ERROR, SUPPORTED_VERSIONS, RpcRefused
from gateway.a2a.operations import OPERATIONS
from gateway.a2a.wire import MAX_NODES, OversizedError, UnreadableError, bound, load, to_json, to_proto, version_of
from gateway.model import Arrival
from gateway.reasons import Code

SERVICE: Final = "lf.a2a.v1.A2AService"
_CARD_DEPTH: Final = 64


def method_path(operation: str) -> str:
    """The gRPC path of an operation."""
    return f"/{SERVICE}/{operation}"


def plain(message: Message, *, depth: int, nodes: int = MAX_NODES) -> dict[str, Any]:
    """A message that was read from bytes as ProtoJSON, without unknown fields.  `UnreadableError` where there is none for it."""
    message.DiscardUnknownFields()
    try:
        value = to_json(message)
    except (Error, ValueError, TypeError, RecursionError) as error:  # NaN, a time that is none
        raise UnreadableError(type(error).__name__) from None
    bound(value, depth, nodes)
    return value


def read(arrival: Arrival, *, depth: int) -> tuple[str, dict[str, Any], bytes]:
    """(operation, params, params as canonical text) of one request in a served version; `RpcRefused` for anything else."""
    service, _, name = arrival.path.removeprefix("/").partition("/")
    operation = OPERATIONS.get(name) if service == SERVICE else None
    if operation is None:
        raise RpcRefused(Code.UNKNOWN_METHOD, "path")
    if version_of(arrival) not in SUPPORTED_VERSIONS:
        raise RpcRefused(Code.UNSUPPORTED_VERSION)
    message = operation.request()
    try:
        message.ParseFromString(arrival.body)
    except DecodeError:
        raise RpcRefused(Code.MALFORMED, "not the operation's message", rpc_code=PARSE_ERROR) from None
    try:
        params = plain(message, depth=depth)
    except OversizedError as error:
        raise RpcRefused(Code.TOO_LARGE, str(error)) from None
    except UnreadableError as error:
        raise RpcRefused(Code.INVALID_PARAMS, str(error)) from None
    return name, params, orjson.dumps(params, option=orjson.OPT_SORT_KEYS)


def answer(payload: Any) -> bytes:
    """What is sent for an answer or an event: the very message that was released."""
    if isinstance(payload, Card):
        payload = to_proto(load(payload.body, depth=_CARD_DEPTH), pb.AgentCard())
    encoded: bytes = payload.SerializeToString()
    return encoded
