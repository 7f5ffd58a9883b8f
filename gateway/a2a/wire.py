"""Bytes to one strictly read A2A message and back (sans-I/O): the proto is the truth, and only what it holds is ever sent on.

ProtoJSON has two spellings for a field, numbers for enums and a last-one-wins rule: what any two readers could read
differently is refused here.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable
from typing import Any, TypeVar
from urllib.parse import unquote

import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor  # type: ignore[import-untyped]  # protobuf ships no stubs
from google.protobuf.json_format import Error, MessageToDict, ParseDict  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]

from gateway.a2a.errors import INVALID_REQUEST, PARSE_ERROR, RpcId, RpcRefused
from gateway.model import Arrival, Call
from gateway.reasons import Code

MAX_NODES = 50_000
"""Objects, lists and members of one request: reading a proto costs some microseconds each."""
MAX_ID = 256
_EXACT = 2**53
UNSAID_VERSION = "0.3"
_VERSION = "a2a-version"
_WELL_KNOWN = "google.protobuf."

ProtoT = TypeVar("ProtoT", bound=Message)


class UnreadableError(ValueError):
    """The text is not one message that every reader reads alike.  The message says what, without quoting it."""


class OversizedError(UnreadableError):
    """The text is deeper, or made of more pieces, than is read here."""


def load(body: bytes, *, depth: int, nodes: int = MAX_NODES) -> Any:
    """JSON as every reader reads it: UTF-8, no member twice, no NaN or infinity, at most `depth` levels and `nodes` nodes.

    Raises `UnreadableError`; of it `OversizedError` where only the size is wrong.
    """
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_members, parse_float=_finite, parse_constant=_not_a_number)
    except UnreadableError:
        raise
    except (ValueError, RecursionError) as error:
        raise UnreadableError(type(error).__name__) from None
    bound(value, depth, nodes)
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise UnreadableError("a member stands twice")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0.0:
        raise UnreadableError("a number is out of range")
    return number


def _not_a_number(text: str) -> float:
    raise UnreadableError(f"{text} is not JSON")


def bound(value: Any, depth: int, nodes: int) -> None:
    """`OversizedError` where plain JSON is deeper, or made of more pieces, than that."""
    level: list[Any] = [value]
    count = 1
    while level:
        children: list[Any] = []
        for container in level:
            if isinstance(container, dict):
                children += container.values()
            elif isinstance(container, list):
                children += container
        count += len(children)
        if count > nodes:
            raise OversizedError("nodes")
        level = [child for child in children if isinstance(child, dict | list)]
        depth -= 1
        if depth < 0:
            raise OversizedError("depth")


def envelope(arrival: Arrival, versions: Container[str], *, depth: int) -> tuple[RpcId, str, dict[str, Any], str]:
    """(id, method, params, version) of one JSON-RPC 2.0 request in one of the versions; `RpcRefused` for anything else."""
    if media_type(arrival.header("content-type") or "") not in {"application/json", "application/a2a+json"}:
        raise RpcRefused(Code.MALFORMED, "content type", rpc_code=INVALID_REQUEST)
    try:
        value = load(arrival.body, depth=depth)
    except OversizedError as error:
        raise RpcRefused(Code.TOO_LARGE, str(error)) from None
    except UnreadableError as error:
        raise RpcRefused(Code.MALFORMED, str(error), rpc_code=PARSE_ERROR) from None
    if not isinstance(value, dict):
        raise RpcRefused(Code.MALFORMED, "not one request object", rpc_code=INVALID_REQUEST)
    rpc_id = value.get("id")
    if not _is_id(rpc_id):
        raise RpcRefused(Code.MALFORMED, "id", rpc_code=INVALID_REQUEST)
    method = value.get("method")
    if value.get("jsonrpc") != "2.0" or not isinstance(method, str):
        raise RpcRefused(Code.MALFORMED, "jsonrpc or method", rpc_code=INVALID_REQUEST, rpc_id=rpc_id)
    version = version_of(arrival)
    if version not in versions:
        raise RpcRefused(Code.UNSUPPORTED_VERSION, rpc_id=rpc_id)
    params = value.get("params", {})
    if not isinstance(params, dict):
        raise RpcRefused(Code.INVALID_PARAMS, "params is not an object", rpc_id=rpc_id)
    return rpc_id, method, params, version


def peek_id(body: bytes, *, depth: int) -> RpcId:
    """The id of a request that has been answered by an error already; None where it cannot be read."""
    try:
        value = load(body, depth=depth)
    except UnreadableError:
        return None
    rpc_id = value.get("id") if isinstance(value, dict) else None
    return rpc_id if _is_id(rpc_id) else None


def _is_id(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_ID and value.isprintable()
    return isinstance(value, int) and not isinstance(value, bool) and -_EXACT < value < _EXACT


def version_of(arrival: Arrival) -> str:
    """`A2A-Version` by header or query, which is 0.3 where none is said (A2A 1.0 §3.6.2); "" where two different things are."""
    stated = [value for name, value in arrival.headers if name == _VERSION]
    for item in arrival.query.split("&") if arrival.query else ():
        name, _, value = item.partition("=")
        if unquote(name).lower() == _VERSION:
            stated.append(unquote(value))
    return (stated[0].strip() or UNSAID_VERSION) if len(set(stated)) == 1 else "" if stated else UNSAID_VERSION


def media_type(content_type: str) -> str:
    """The type itself, lower-case, without parameters."""
    return content_type.partition(";")[0].strip().lower()


def identifier(text: str) -> bool:
    """Whether this can be the id of a task or a context: 1 to 256 printable characters."""
    return 0 < len(text) <= MAX_ID and text.isprintable()


def to_proto(value: Any, into: ProtoT) -> ProtoT:
    """ProtoJSON to a proto, read in one way only; unknown members are dropped.

    Raises `UnreadableError` for both spellings of one field, an enum by number or by an unknown name, and what ProtoJSON refuses.
    """
    _one_reading(into.DESCRIPTOR, value)
    try:
        ParseDict(value, into, ignore_unknown_fields=True)
    except (Error, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UnreadableError(type(error).__name__) from None
    return into


def to_json(message: Message) -> dict[str, Any]:
    """A proto as ProtoJSON; numbers without a fraction are integers again, as they most likely came."""
    plain: dict[str, Any] = whole_numbers(MessageToDict(message))
    return plain


def result_of(message: Message) -> dict[str, Any]:
    """An answer as ProtoJSON, with the members that A2A wants to stand there also where they are empty."""
    said = to_json(message)
    if message.DESCRIPTOR.full_name == "google.protobuf.Empty":
        return {}
    empty = {field.json_name: [] if field.is_repeated else field.default_value for field in _wanted(message)}
    return empty | said


def _wanted(message: Message) -> Iterable[FieldDescriptor]:
    return message.DESCRIPTOR.fields if message.DESCRIPTOR.name == "ListTasksResponse" else ()


def params_of(call: Call) -> dict[str, Any]:
    """The params that are sent."""
    return to_json(call.message)


def dump(value: Any) -> bytes:
    """JSON text, UTF-8, without spaces."""
    return orjson.dumps(value)


def whole_numbers(value: Any) -> Any:
    """JSON in which numbers without a fraction are integers, as they most likely came: a proto's Struct has no integers."""
    if isinstance(value, dict):
        return {key: whole_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [whole_numbers(inner) for inner in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


_Names = dict[str, FieldDescriptor]
_names: dict[str, _Names] = {}  # by full name of a message; as many as there are message types


def _fields(descriptor: Descriptor) -> _Names:
    names = _names.get(descriptor.full_name)
    if names is None:
        names = {spelling: field for field in descriptor.fields for spelling in (field.json_name, field.name)}
        _names[descriptor.full_name] = names
    return names


def _one_reading(descriptor: Descriptor, value: Any) -> None:
    """Refuse what ParseDict would read in a way of its own; leave what it refuses to it."""
    if descriptor.full_name.startswith(_WELL_KNOWN):
        return
    if not isinstance(value, dict):  # of a text it would read each letter as the name of a member that it does not know
        raise UnreadableError("a message is not an object")
    names = _fields(descriptor)
    seen = set()
    for key, inner in value.items():
        field = names.get(key)
        if field is None:
            continue
        if field.number in seen:
            raise UnreadableError("a field stands in both its spellings")
        seen.add(field.number)
        for item in _items(field, inner):
            if field.enum_type is not None:
                if not isinstance(item, str) or item not in field.enum_type.values_by_name:
                    raise UnreadableError("an enum is not one of its names")
            elif (target := _target(field)) is not None:
                _one_reading(target, item)


def _items(field: FieldDescriptor, value: Any) -> Iterable[Any]:
    if value is None:
        return ()
    if _is_map(field):
        return value.values() if isinstance(value, dict) else ()
    if field.is_repeated:
        return value if isinstance(value, list) else ()
    return (value,)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _target(field: FieldDescriptor) -> Descriptor | None:
    """The message that stands in a field, or in the values of a map; None for scalars."""
    return field.message_type.fields_by_name["value"].message_type if _is_map(field) else field.message_type
