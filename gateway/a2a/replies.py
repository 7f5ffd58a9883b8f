"""An answer in the binding in which it was asked for: JSON-RPC's result, HTTP+JSON's body, gRPC's message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from a2a.types import a2a_pb2 as pb
from msgspec.structs import replace

from gateway.a2a import errors, v03
from gateway.a2a.answers import AgentSaysNo
from gateway.a2a.rest import is_rest
from gateway.a2a.wire import dump, result_of, to_proto
from gateway.model import Call, Reply
from gateway.receipts import with_metadata


def formatted(reply: Reply, call: Call, receipt: Mapping[str, object] | None) -> Reply:
    """A reply with the bytes that are released, in the binding of the call."""
    if call.arrival.binding == "grpc":
        return grpc_reply(reply, receipt)
    if is_rest(call.arrival.path):
        return rest_reply(reply, receipt)
    of_old = call.version == v03.VERSION
    if isinstance(reply.payload, AgentSaysNo):
        said = {"error": errors.as_old(reply.payload.error) if of_old else reply.payload.error}
    else:
        said = {"result": result(reply, receipt, of_old=of_old)}
    return replace(reply, body=dump({"jsonrpc": "2.0", "id": call.rpc_id, **said}))


def result(reply: Reply, receipt: Mapping[str, object] | None, *, of_old: bool = False) -> Any:
    """The answer's JSON; of the answers that have metadata, with the caller's receipt there."""
    answer = reply.payload
    said = v03.result_of(answer, final=reply.is_final) if of_old else result_of(answer)
    if isinstance(said, dict):
        whole = "kind" in said if of_old else isinstance(answer, pb.Task | pb.Message)
        with_metadata(said, receipt, whole=whole, looked=reply.looked is not None)
    return said


def rest_reply(reply: Reply, receipt: Mapping[str, object] | None) -> Reply:
    """The body and status of a reply in HTTP+JSON."""
    if isinstance(reply.payload, AgentSaysNo):
        status = errors.rest_status(reply.payload.error)
        return replace(reply, body=errors.rest_body(reply.payload.error, status), status=status)
    return replace(reply, body=dump(result(reply, receipt)))


def grpc_reply(reply: Reply, receipt: Mapping[str, object] | None) -> Reply:
    """The message that is released, and for the record what HTTP+JSON would say."""
    if isinstance(reply.payload, AgentSaysNo):
        return rest_reply(reply, receipt)
    said = result(reply, receipt)
    return replace(reply, body=dump(said), payload=to_proto(said, type(reply.payload)()))
