"""The stages of the road that are MCP's own: parse, normalise, forward, filter."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from msgspec.structs import replace

from gateway.asgi import WORKFLOW_HEADER, child_traceparent
from gateway.mcp import lists
from gateway.mcp.answers import body_reply, event_reply, not_asked_for
from gateway.mcp.errors import RpcRefused
from gateway.mcp.methods import (
    CALL_TOOL,
    CANCELLED,
    DISCOVER,
    INITIALIZE,
    LIST_RESOURCES,
    LIST_TEMPLATES,
    LIST_TOOLS,
    MODERN,
    PING,
    READ_RESOURCE,
    RESOURCES,
)  # fmt: skip
from gateway.mcp.normalise import normalise
from gateway.mcp.opaque import with_opened, with_sealed
from gateway.mcp.sealed import Sealed
from gateway.mcp.session import Sessions, valid_upstream_id
from gateway.mcp.strict import dumps
from gateway.mcp.wire import PARAM_PREFIX, encoded, onward, read
from gateway.model import Arrival, Call, Intent, Permit, Principal, Refused, Reply, UpstreamError
from gateway.reasons import Code
from gateway.upstream.client import HeaderBlock, HttpRequest, HttpResponse, Upstreams, header_block
from gateway.upstream.credentials import Rejected, no_other
from gateway.upstream.events import EventParser
from gateway.upstream.registry import McpTarget
from policies import uri as uris
from policies.model import AccessRequest

Redact = Callable[[Any, frozenset[str]], Any]
"""A tool's result without the values of these fields; raises `Refused` where that cannot be done."""

SESSION_HEADER = "Mcp-Session-Id"
WITHHELD = "[withheld by policy]"


class Upstream(Protocol):
    """A server that is not spoken to by HTTP: a child process, or the gateway itself."""

    def forward(self, intent: Intent) -> AsyncGenerator[Reply, None]:
        """Messages for this call, the last one final; `headers` of a reply may hold the upstream's raw session id."""


class McpRoad:
    """Fills `Stages` for MCP: `parse`, `normalise`, `forward`, `filter`.

    sealed    seals what travels with clients: session ids, cursors and the like.
    others    by server id: those that are not HTTP.
    could     decides what a list shows (`lists.asking`).
    redact    blanks fields in a tool's result.
    rejected  is told of a credential that an upstream does not take, and may have another.
    """

    def __init__(
        self,
        *,
        targets: Mapping[str, McpTarget],
        upstreams: Upstreams,
        sealed: Sealed,
        could: lists.Could,
        redact: Redact,
        others: Mapping[str, Upstream] | None = None,
        json_depth: int = 64,
        response_bytes: int = 32 * 1024 * 1024,
        rejected: Rejected = no_other,
    ) -> None:
        """ValueError for a target that nothing here can speak to."""
        self._targets = dict(targets)
        self._upstreams = upstreams
        self._sealed = sealed
        self._sessions = Sessions(sealed)
        self._could = could
        self._redact = redact
        self._others = dict(others or {})
        self._json_depth = json_depth
        self._response_bytes = response_bytes
        self._rejected = rejected
        self._static: dict[tuple[str, str], HeaderBlock] = {}
        for target in self._targets.values():
            if target.url is None and target.id not in self._others:
                raise ValueError(f"mcp.{target.id}: nothing here speaks to it")

    def judged_by(self, could: lists.Could) -> McpRoad:
        """The same road, on which `could` decides what a list shows."""
        other = copy.copy(self)
        other._could = could
        return other

    def parse(self, arrival: Arrival, principal: Principal) -> Call:
        """One strictly read call, its session unsealed; `RpcRefused` otherwise, last of all for a server that is not there."""
        call = read(arrival, self._json_depth)
        sealed = arrival.header("mcp-session-id")
        if sealed is not None and call.version not in MODERN and call.method != INITIALIZE:
            try:
                session = self._sessions.open(sealed, server=arrival.target, principal=principal)
            except RpcRefused as refusal:
                refusal.rpc_id = call.rpc_id
                raise
            call = replace(call, session=session.upstream, opens=session.opens)
        target = self._targets.get(arrival.target)
        if target is None:
            raise RpcRefused(Code.UNKNOWN_TARGET, rpc_id=call.rpc_id)
        if call.method in RESOURCES and target.kind != "builtin":
            raise RpcRefused(Code.UNKNOWN_METHOD, call.method, rpc_id=call.rpc_id)
        call = with_opened(call, principal, self._sealed)
        return call if call.method != READ_RESOURCE else _with_uri(call)

    def normalise(self, call: Call, principal: Principal) -> AccessRequest:
        """The question that policy is asked."""
        return normalise(call, principal)

    async def forward(self, intent: Intent) -> AsyncGenerator[Reply, None]:
        """The hop to the server.  Ends with the answer to this very call, or raises `UpstreamError`."""
        call = intent.permit.call
        here = answered_here(call)
        if here is not None:
            yield here
            return
        other = self._others.get(call.target)
        if other is not None:
            replies = other.forward(intent)
        else:
            response = await self._sent(intent.permit)
            kind = _kind(response)
            if call.rpc_id is None or response.status != 200 or kind != b"text/event-stream":
                yield await self._whole(response, kind, call)
                return
            replies = self._events(response, call)
        try:
            async with aclosing(replies):
                async for reply in replies:
                    if reply.is_final or not intent.permit.redact:
                        yield reply  # what is said on the way cannot be searched for the fields that must not be seen
        except Refused as refusal:
            raise _whose(refusal, intent) from None

    def filter(self, reply: Reply, intent: Intent) -> Reply:
        """The bytes that are released.  Lists and capabilities shrink, results lose what a duty takes from them."""
        permit = intent.permit
        call, payload = permit.call, reply.payload
        headers: tuple[tuple[str, str], ...] = ((WORKFLOW_HEADER, permit.principal.workflow),)
        if payload is None:
            return replace(reply, headers=headers)
        for name, value in reply.headers:
            if name == SESSION_HEADER and call.method == INITIALIZE:
                headers += ((name, self._sessions.seal(value, server=call.target, principal=permit.principal, opens=call.opens)),)
        if reply.is_final:
            if "result" in payload:
                reply = self._narrowed(reply, intent)
            elif permit.redact:
                said = {"code": payload["error"]["code"], "message": WITHHELD}
                reply = replace(reply, payload={**payload, "error": said})
        return Reply(reply.payload, reply.is_final, dumps(reply.payload), reply.status, headers, reply.failed)

    def _narrowed(self, reply: Reply, intent: Intent) -> Reply:
        permit = intent.permit
        call = permit.call
        result = reply.payload["result"]
        if call.method == CALL_TOOL:
            reply = not_asked_for(reply, call)
            if permit.redact:
                try:
                    narrowed = self._redact(reply.payload["result"], permit.redact)
                except Refused as refusal:
                    raise _whose(refusal, intent) from None
                reply = replace(reply, payload={**reply.payload, "result": narrowed})
            return reply
        if call.method == LIST_TOOLS:
            modern = call.version in MODERN
            result = lists.visible_tools(result, server=call.target, principal=permit.principal, could=self._could, modern=modern)
        elif call.method == LIST_RESOURCES:
            modern = call.version in MODERN
            result = lists.visible_resources(
                result, server=call.target, principal=permit.principal, could=self._could, modern=modern
            )
        elif call.method == LIST_TEMPLATES:
            result = lists.cached(result, modern=call.version in MODERN)
        elif call.method == INITIALIZE:
            result = lists.initialized(result, ours=self._targets[call.target].kind == "builtin")
        elif call.method == DISCOVER:
            result = lists.discovered(result, ours=self._targets[call.target].kind == "builtin")
        elif call.method == READ_RESOURCE:
            if permit.redact:
                raise _whose(Refused(Code.DUTY_FAILED, "a file cannot be searched for what must not be seen"), intent)
            result = lists.cached(result, modern=call.version in MODERN)
        return replace(reply, payload={**reply.payload, "result": with_sealed(result, permit, self._sealed)})

    async def _whole(self, response: HttpResponse, kind: bytes, call: Call) -> Reply:
        """The answer, where it comes in one piece."""
        try:
            if call.rpc_id is None:
                if response.status not in {200, 202, 204}:
                    raise UpstreamError("status", str(response.status))
                await response.read(self._response_bytes)
                return Reply(None, is_final=True, status=202)
            if kind != b"application/json":
                raise UpstreamError("protocol" if response.status == 200 else "status", str(response.status))
            body = await response.read(self._response_bytes)
            return _with_session(body_reply(body, call, response.status), response)
        finally:
            await response.aclose()

    async def _events(self, response: HttpResponse, call: Call) -> AsyncGenerator[Reply, None]:
        """The messages of an event stream that concern this call, to the answer."""
        parser = EventParser(self._response_bytes)
        try:
            async with aclosing(response.chunks()) as chunks:
                async for chunk in chunks:
                    for data in parser.feed(chunk):
                        reply = event_reply(data, call)
                        if reply is None:
                            continue
                        if reply.is_final:
                            response.leave()
                            yield _with_session(reply, response)
                            return
                        yield reply
        finally:
            await response.aclose()
        raise UpstreamError("closed", "the stream ended before the answer")

    def _versioned(self, target: McpTarget, version: str) -> HeaderBlock:
        """The header lines that every request to this server in this version of the protocol has; versions are a closed list."""
        block = self._static.get((target.id, version))
        if block is None:
            line = header_block([(b"mcp-protocol-version", version.encode())])
            block = self._static[target.id, version] = HeaderBlock(target.static + line)
        return block

    async def _sent(self, permit: Permit) -> HttpResponse:
        """The answer's head.  A credential that is not taken is forgotten; what may be asked twice is, with another one."""
        request = self._request(permit)
        response = await self._upstreams.send(request)
        if response.status == 401:
            other = await self._rejected(permit, again=request.replay)
            if other is not None:
                await response.aclose()
                return await self._upstreams.send(self._request(other))
        return response

    def _request(self, permit: Permit) -> HttpRequest:
        """Made anew from what was checked: of the client's headers only checked `Mcp-Param-*` go on."""
        call = permit.call
        target = self._targets[call.target]
        if target.url is None:
            raise UpstreamError("connect", "the server has no URL")
        sent = onward(call)
        parent = child_traceparent(call.trace) if call.rpc_id is None else sent["params"]["_meta"]["traceparent"]
        headers = [(b"traceparent", parent.encode()), *permit.credentials]
        if call.trace.state:
            headers.append((b"tracestate", call.trace.state.encode()))
        static = target.static if call.method == INITIALIZE else self._versioned(target, call.version)
        if call.version in MODERN:
            headers.append((b"mcp-method", call.method.encode()))
            if call.name is not None:
                headers.append((b"mcp-name", encoded(call.name).encode()))
            headers += [
                (name.encode(), value.strip(" \t").encode("latin-1"))
                for name, value in call.arrival.headers
                if name.startswith(PARAM_PREFIX)
            ]
        elif call.session is not None:
            headers.append((b"mcp-session-id", call.session.encode()))
        again = call.method in {LIST_TOOLS, DISCOVER}
        return HttpRequest(target.url, dumps(sent), tuple(headers), static, replay=again)


def _whose(refusal: Refused, intent: Intent) -> Refused:
    """A refusal that comes late, told as one of this call."""
    refusal.call = refusal.call or intent.permit.call
    refusal.principal = refusal.principal or intent.permit.principal
    return refusal


def answered_here(call: Call) -> Reply | None:
    """`ping` concerns this hop alone; a cancellation of the stateless era is the hang-up, and the notice of it is dropped."""
    if call.method == PING:
        return Reply({"jsonrpc": "2.0", "id": call.rpc_id, "result": {}}, is_final=True)
    if call.method == CANCELLED and call.version in MODERN:
        return Reply(None, is_final=True, status=202)
    return None


def _with_uri(call: Call) -> Call:
    """The call with the resource's one form, which is also what policy is asked about."""
    uri = call.message["params"].get("uri")
    form = (uri if uris.is_canonical(uri) else uris.canonical(uri)) if isinstance(uri, str) else None
    if form is None:
        raise RpcRefused(Code.INVALID_PARAMS, "uri", rpc_id=call.rpc_id)
    message = {**call.message, "params": {**call.message["params"], "uri": form}}
    return replace(call, message=message)


def _kind(response: HttpResponse) -> bytes:
    return (response.header(b"content-type") or b"").partition(b";")[0].strip().lower()


def _with_session(reply: Reply, response: HttpResponse) -> Reply:
    raw = (response.header(b"mcp-session-id") or b"").decode("latin-1")
    if not reply.is_final or not raw:
        return reply
    if not valid_upstream_id(raw):
        raise UpstreamError("protocol", "session id")
    return replace(reply, headers=((SESSION_HEADER, raw),))
