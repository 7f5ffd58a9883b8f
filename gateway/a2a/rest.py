"""A2A's HTTP+JSON binding to one strictly read message (sans-I/O): path, query and body are parts of one proto, each said once.

The operation is that of the route, never of the raw path; a query parameter that no route names is dropped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from gateway.a2a.errors import INVALID_REQUEST, PARSE_ERROR, SUPPORTED_VERSIONS, RpcRefused
from gateway.a2a.wire import OversizedError, UnreadableError, load, media_type, version_of
from gateway.model import Arrival
from gateway.reasons import Code

PREFIX: Final = "/rest"
MEDIA_TYPE: Final = "application/a2a+json"
_ID = r"(?P<{}>[^/:]{{1,256}}(?::[^/:]+)*?)"
_MAX_QUERY: Final = 16


@dataclass(frozen=True, slots=True)
class Route:
    """One route: `path` names the message's fields in its groups, `query` those that may stand in the query, with their type.

    template  the same path, with those fields' names in braces.
    """

    verbs: tuple[str, ...]
    template: str
    path: re.Pattern[str]
    method: str
    query: tuple[tuple[str, type], ...] = ()
    body: bool = False


def _route(verbs: str, path: str, method: str, query: tuple[tuple[str, type], ...] = (), *, body: bool = False) -> Route:
    pattern = re.sub(r"\{(\w+)\}", lambda found: _ID.format(found[1]), path)
    return Route(tuple(verbs.split("|")), path, re.compile(pattern), method, query, body)


_LISTED: Final = (
    ("contextId", str), ("status", str), ("pageSize", int), ("pageToken", str), ("historyLength", int),
    ("statusTimestampAfter", str), ("includeArtifacts", bool),
)  # fmt: skip
_CONFIGS: Final = "/tasks/{taskId}/pushNotificationConfigs"
ROUTES: Final = (
    _route("POST", "/message:send", "SendMessage", body=True),
    _route("POST", "/message:stream", "SendStreamingMessage", body=True),
    _route("POST", "/tasks/{id}:cancel", "CancelTask", body=True),
    _route("GET|POST", "/tasks/{id}:subscribe", "SubscribeToTask"),  # the specification and its proto name a verb each
    _route("GET", "/tasks/{id}", "GetTask", (("historyLength", int),)),
    _route("GET", "/tasks", "ListTasks", _LISTED),
    _route("POST", _CONFIGS, "CreateTaskPushNotificationConfig", body=True),
    _route("GET", _CONFIGS, "ListTaskPushNotificationConfigs", (("pageSize", int), ("pageToken", str))),
    _route("GET", _CONFIGS + "/{id}", "GetTaskPushNotificationConfig"),
    _route("DELETE", _CONFIGS + "/{id}", "DeleteTaskPushNotificationConfig"),
    _route("GET", "/extendedAgentCard", "GetExtendedAgentCard"),
)


def is_rest(path: str) -> bool:
    """Whether what follows the agent in a path is this binding's."""
    return path == PREFIX or path.startswith(PREFIX + "/")


def read(arrival: Arrival, *, depth: int) -> tuple[str, dict[str, Any]]:
    """(operation, params as ProtoJSON) of one request in a version that is served; `RpcRefused` for anything else."""
    path = arrival.path.removeprefix(PREFIX)
    found = [(route, match) for route in ROUTES if (match := route.path.fullmatch(path)) is not None]
    if not found:
        raise RpcRefused(Code.UNKNOWN_METHOD, "path", status=404)
    matching = [(route, match) for route, match in found if arrival.http_method in route.verbs]
    if not matching:
        verbs = dict.fromkeys(verb for route, _ in found for verb in route.verbs)
        raise RpcRefused(Code.UNKNOWN_METHOD, arrival.http_method[:16], status=405, allow=", ".join(verbs))
    if version_of(arrival) not in SUPPORTED_VERSIONS:
        raise RpcRefused(Code.UNSUPPORTED_VERSION)
    route, match = matching[0]
    params = _body(arrival, depth) if route.body else {}
    named = match.groupdict()
    for name, said in named.items():
        if any(params.pop(spelling) != said for spelling in _spelled(name) & params.keys()):
            raise RpcRefused(Code.INVALID_PARAMS, "the body says another id than the path")
    return route.method, params | _query(arrival, route) | named


def _body(arrival: Arrival, depth: int) -> dict[str, Any]:
    if not arrival.body and arrival.path.endswith(":cancel"):
        return {}  # there is nothing that it must say
    if media_type(arrival.header("content-type") or "") not in {"application/json", MEDIA_TYPE}:
        raise RpcRefused(Code.MALFORMED, "content type", rpc_code=INVALID_REQUEST, status=415)
    try:
        value = load(arrival.body, depth=depth)
    except OversizedError as error:
        raise RpcRefused(Code.TOO_LARGE, str(error)) from None
    except UnreadableError as error:
        raise RpcRefused(Code.MALFORMED, str(error), rpc_code=PARSE_ERROR) from None
    if not isinstance(value, dict):
        raise RpcRefused(Code.MALFORMED, "the body is not an object", rpc_code=INVALID_REQUEST)
    return value


def _query(arrival: Arrival, route: Route) -> dict[str, Any]:
    """The parameters that the route names; one that stands twice, or is not of its type, is refused."""
    try:
        pairs = parse_qsl(arrival.query, keep_blank_values=True, strict_parsing=bool(arrival.query), max_num_fields=_MAX_QUERY)
    except ValueError:
        raise RpcRefused(Code.INVALID_PARAMS, "query") from None
    kinds, said = dict(route.query), {}
    for name, text in pairs:
        if name in said:
            raise RpcRefused(Code.INVALID_PARAMS, "a parameter stands twice")
        if name in kinds:
            said[name] = _typed(text, kinds[name])
    return said


def _typed(text: str, kind: type) -> Any:
    if kind is bool:
        if text not in {"true", "false"}:
            raise RpcRefused(Code.INVALID_PARAMS, "a parameter is not true or false")
        return text == "true"
    if kind is int:
        if not re.fullmatch(r"-?[0-9]{1,9}", text):
            raise RpcRefused(Code.INVALID_PARAMS, "a parameter is not a number")
        return int(text)
    return text


def _spelled(name: str) -> set[str]:
    """Both spellings that ProtoJSON has for a field."""
    return {name, re.sub(r"([A-Z])", lambda found: f"_{found[1].lower()}", name)}
