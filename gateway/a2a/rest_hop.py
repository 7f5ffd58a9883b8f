"""The hop to an agent over HTTP+JSON: URLs are made of the operation and the message that was checked, of no path that came."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote, urlencode

from msgspec.structs import replace

from gateway.a2a.answers import AgentSaysNo, read_message, says_no
from gateway.a2a.grpc_status import as_error
from gateway.a2a.hop import RpcHop, said
from gateway.a2a.operations import OPERATIONS
from gateway.a2a.rest import ROUTES
from gateway.a2a.wire import UnreadableError, dump, load, to_json
from gateway.model import Call, Permit, UpstreamError
from gateway.upstream.client import HttpRequest

_ROUTES: Final = {route.method: route for route in ROUTES}
_FIELD: Final = re.compile(r"\{(\w+)\}")
_SLASH: Final = re.compile(r"[/\\]|%(?:25)*(?:2f|5c|2e)", re.IGNORECASE)
"""What somebody could take for the end of a segment, however often they decode."""


class RestHop(RpcHop):
    """By HTTP+JSON over HTTP/1.1, in 1.0."""

    def _request(self, permit: Permit, message: Any) -> HttpRequest:
        call = permit.call
        route, params = _ROUTES[call.method], to_json(message)
        path = _FIELD.sub(lambda found: _segment(params.pop(found[1], "")), route.template)
        base = self.peer.url.target.partition(b"?")[0].rstrip(b"/").decode()
        asked = {name: _text(params[name]) for name, _ in route.query if name in params}
        target = f"{base}{path}{'?' + urlencode(asked) if asked else ''}".encode()
        accept = b"text/event-stream, application/json" if OPERATIONS[call.method].streams else b"application/json"
        headers = ((b"accept", accept), *said(self.peer, permit, self._onward))
        body = dump(params) if route.body else b""
        return HttpRequest(
            replace(self.peer.url, target=target), body, headers, self._static[call.version], route.verbs[0].encode()
        )

    def _result(self, value: Any) -> Any:
        return value

    def _read(self, item: bytes, call: Call, status: int) -> Any:
        bounds, operation = self._bounds, OPERATIONS[call.method]
        try:
            value = load(item, depth=bounds.json_depth, nodes=bounds.nodes) if item else {}
        except UnreadableError as error:
            raise UpstreamError("protocol", str(error)) from None
        no = value.get("error") if isinstance(value, dict) else None
        if isinstance(no, dict):
            return _said_no(no, status)
        if status not in {200, 201, 204}:
            raise UpstreamError("status", str(status))
        return read_message(value, call, operation)


def _said_no(error: dict[str, Any], status: int) -> AgentSaysNo:
    """google.rpc.Status as JSON; `UpstreamError` where it says something of the way, and not of the call."""
    name, message, details = error.get("status"), error.get("message"), error.get("details")
    infos = [each for each in details if isinstance(each, dict)] if isinstance(details, list) else []
    told = as_error(str(name), message, infos) if isinstance(message, str) else None
    if told is None:
        raise UpstreamError("status", str(status))
    return says_no(told)


def _segment(value: object) -> str:
    """An id as one segment of a path, also to a server, or a proxy before it, that first decodes a path and then reads it."""
    text = str(value)
    if text in {"", ".", ".."} or _SLASH.search(text) is not None:
        raise UpstreamError("protocol", "an id that no path can carry")
    return quote(text, safe="")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
