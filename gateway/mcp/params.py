"""The members of `params` that a method reads, held to their types; what has two readings is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from gateway.mcp.errors import INVALID_PARAMS, RpcId, RpcRefused
from gateway.mcp.methods import (
    CALL_TOOL,
    CANCELLED,
    COMPLETE,
    GET_PROMPT,
    LEVELS,
    PROGRESS,
    READ_RESOURCE,
    SET_LEVEL,
    SUBSCRIBE,
    UNSUBSCRIBE,
)  # fmt: skip
from gateway.mcp.normalise import PROMPT_REF
from gateway.mcp.strict import disguised
from gateway.reasons import Code

TEMPLATE_REF: Final = "ref/resource"
_LONGEST_NAME = 256
_LONGEST_URI = 2048
_REFS: Final = {PROMPT_REF: "name", TEMPLATE_REF: "uri"}
_REF: Final = frozenset({"type", "name", "uri"})
_ARGUMENT: Final = frozenset({"name", "value"})


def bad_params(what: str, rpc_id: RpcId, status: int = 0) -> NoReturn:
    """Refuse the call for one of its parameters."""
    raise RpcRefused(Code.INVALID_PARAMS, what, rpc_code=INVALID_PARAMS, rpc_id=rpc_id, status=status)


def checked(method: str, params: Mapping[str, Any], rpc_id: RpcId) -> str | None:
    """What the call names (a tool, a prompt, a resource), if anything; `RpcRefused` where a parameter does not fit."""
    check = _CHECKS.get(method)
    return None if check is None else check(params, rpc_id)


def _named(params: Mapping[str, Any], rpc_id: RpcId) -> str:
    """A tool or a prompt, and its arguments."""
    name, arguments = _name(params.get("name"), "name", rpc_id), params.get("arguments", {})
    if not isinstance(arguments, dict):
        bad_params("arguments", rpc_id)
    spelled = "\n".join(arguments)
    if spelled.casefold() != spelled and len(set(map(str.casefold, arguments))) != len(arguments):
        # a reader that ignores case would see another value than the policy did
        raise RpcRefused(Code.MALFORMED, "arguments that differ in case alone", rpc_id=rpc_id)
    return name


def _name(name: Any, what: str, rpc_id: RpcId) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        bad_params(what, rpc_id)
    return name


def _addressed(params: Mapping[str, Any], rpc_id: RpcId) -> str:
    return _uri(params.get("uri"), rpc_id)


def _uri(uri: Any, rpc_id: RpcId) -> str:
    if not isinstance(uri, str) or not 0 < len(uri) <= _LONGEST_URI or not uri.isprintable():
        bad_params("uri", rpc_id)
    return uri


def _completed(params: Mapping[str, Any], rpc_id: RpcId) -> None:
    ref, argument = params.get("ref"), params.get("argument")
    if not isinstance(ref, dict) or not isinstance(ref.get("type"), str) or ref["type"] not in _REFS:
        bad_params("ref", rpc_id)
    if not isinstance(argument, dict) or not all(isinstance(argument.get(key), str) for key in _ARGUMENT):
        bad_params("argument", rpc_id)
    if disguised(ref, _REF) or disguised(argument, _ARGUMENT) or _REF & ref.keys() != {"type", _REFS[ref["type"]]}:
        raise RpcRefused(Code.MALFORMED, "a reference with two readings", rpc_id=rpc_id)
    if ref["type"] == PROMPT_REF:
        _name(ref["name"], "ref.name", rpc_id)
    else:
        _uri(ref["uri"], rpc_id)


def _levelled(params: Mapping[str, Any], rpc_id: RpcId) -> None:
    if params.get("level") not in LEVELS:
        bad_params("level", rpc_id)


def _about(member: str) -> Callable[[Mapping[str, Any], RpcId], None]:
    """A notice about a request, by its id or its token: one that became a double on the way in would be about another one."""

    def check(params: Mapping[str, Any], rpc_id: RpcId) -> None:
        value = params.get(member)
        if not isinstance(value, str | int) or isinstance(value, bool):
            bad_params(member, rpc_id)

    return check


_CHECKS: Final[Mapping[str, Callable[[Mapping[str, Any], RpcId], str | None]]] = {
    CALL_TOOL: _named,
    GET_PROMPT: _named,
    READ_RESOURCE: _addressed,
    SUBSCRIBE: _addressed,
    UNSUBSCRIBE: _addressed,
    COMPLETE: _completed,
    SET_LEVEL: _levelled,
    CANCELLED: _about("requestId"),
    PROGRESS: _about("progressToken"),
}
