"""The hop to a server by HTTP: one request made anew from what was checked, and the messages that answer it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from msgspec.structs import replace

from gateway.asgi import child_traceparent
from gateway.mcp.answers import body_reply, event_reply
from gateway.mcp.methods import INITIALIZE, METHODS, MODERN
from gateway.mcp.repeated import encoded
from gateway.mcp.session import valid_upstream_id
from gateway.mcp.strict import dumps
from gateway.mcp.wire import onward
from gateway.model import Call, Permit, Reply, UpstreamError
from gateway.upstream.client import HeaderBlock, HttpRequest, HttpResponse, Upstreams, header_block
from gateway.upstream.credentials import Rejected, no_other
from gateway.upstream.events import EventParser
from gateway.upstream.registry import McpTarget

SESSION_HEADER = "Mcp-Session-Id"


class HttpHop:
    """Speaks to the servers that have a URL.  `rejected` is told of a credential that one does not take, and may have another."""

    def __init__(
        self, targets: Mapping[str, McpTarget], upstreams: Upstreams, response_bytes: int, rejected: Rejected = no_other
    ) -> None:
        self._targets = targets
        self._upstreams = upstreams
        self._response_bytes = response_bytes
        self._rejected = rejected
        self._static: dict[tuple[str, str], HeaderBlock] = {}

    async def forward(self, permit: Permit) -> AsyncGenerator[Reply, None]:
        """Ends with the answer to this very call, or raises `UpstreamError`."""
        call = permit.call
        response = await self._sent(permit)
        kind = _kind(response)
        if call.rpc_id is None or response.status != 200 or kind != b"text/event-stream":
            yield await self._whole(response, kind, call)
            return
        async with aclosing(self._events(response, call)) as replies:
            async for reply in replies:
                yield reply

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
            headers += [(name.encode(), value.encode("latin-1")) for name, value in call.repeated]
        elif call.session is not None:
            headers.append((b"mcp-session-id", call.session.encode()))
        return HttpRequest(target.url, dumps(sent), tuple(headers), static, replay=METHODS[call.method].again)


def _kind(response: HttpResponse) -> bytes:
    return (response.header(b"content-type") or b"").partition(b";")[0].strip().lower()


def _with_session(reply: Reply, response: HttpResponse) -> Reply:
    raw = (response.header(b"mcp-session-id") or b"").decode("latin-1")
    if not reply.is_final or not raw:
        return reply
    if not valid_upstream_id(raw):
        raise UpstreamError("protocol", "session id")
    return replace(reply, headers=((SESSION_HEADER, raw),))
