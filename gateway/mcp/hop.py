"""The hop to a server by HTTP: one request made anew from what was checked, and the messages that answer it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from msgspec.structs import replace

from gateway.asgi import child_traceparent
from gateway.mcp.answers import body_reply, event_reply
from gateway.mcp.methods import INITIALIZE, LEGACY, LISTEN, METHODS, MODERN
from gateway.mcp.repeated import encoded
from gateway.mcp.session import valid_upstream_id
from gateway.mcp.streams import END, STREAM
from gateway.mcp.strict import dumps
from gateway.mcp.wire import onward
from gateway.model import Call, Permit, Reply, Said, UpstreamError
from gateway.upstream.client import HeaderBlock, HttpRequest, HttpResponse, Upstreams, header_block
from gateway.upstream.credentials import Rejected, no_other
from gateway.upstream.events import EventParser
from gateway.upstream.registry import McpTarget

SESSION_HEADER = "Mcp-Session-Id"
_BODILESS = frozenset({STREAM, END})
_TAKEN = frozenset({200, 202, 204})


class HttpHop:
    """Speaks to the servers that have a URL.  `rejected` is told of a credential that one does not take, and may have another."""

    def __init__(
        self,
        targets: Mapping[str, McpTarget],
        upstreams: Upstreams,
        response_bytes: int,
        rejected: Rejected = no_other,
        beside: Upstreams | None = None,
    ) -> None:
        """`beside` has connections of its own for streams that stand and for what must not wait behind calls: answers, ends."""
        self._targets = targets
        self._upstreams = upstreams
        self._beside = beside or upstreams
        self._response_bytes = response_bytes
        self._rejected = rejected
        self._static: dict[tuple[str, str], HeaderBlock] = {}

    async def forward(self, permit: Permit) -> Said:
        """The answer to this very call, or what ends with it; else `UpstreamError`."""
        call = permit.call
        response = await self._sent(permit)
        kind = _kind(response)
        if call.rpc_id is None or response.status != 200 or kind != b"text/event-stream":
            return await self._whole(response, kind, call)
        return self._events(response, call)

    async def stream(self, permit: Permit) -> AsyncGenerator[Reply, None]:
        """A stream that stands, or the rest of an answer: begins with an empty message once it stands; may end without a word."""
        call = permit.call
        response = await self._sent(permit)
        kind = _kind(response)
        if response.status != 200 or kind != b"text/event-stream":
            yield await self._no_stream(response, kind, call)
            return
        yield Reply(None, is_final=False)
        async with aclosing(self._events(response, call)) as replies:
            async for reply in replies:
                yield reply

    async def tell(self, permit: Permit, message: Mapping[str, object]) -> None:
        """Bring the upstream a response: the client's, or the gateway's own to a question that it did not put."""
        response = await self._beside.send(self._request(permit, dumps(message)))
        try:
            if response.status not in _TAKEN:
                raise UpstreamError("status", str(response.status))
            await response.read(self._response_bytes)
        finally:
            await response.aclose()

    async def end(self, permit: Permit) -> Reply:
        """End the session; whether it may be ended is the upstream's to say."""
        response = await self._sent(permit)
        try:
            await response.read(self._response_bytes)
        finally:
            await response.aclose()
        if response.status in _TAKEN:
            return Reply(None, is_final=True, status=200)
        return _refusing(response)

    async def _no_stream(self, response: HttpResponse, kind: bytes, call: Call) -> Reply:
        """Why there is no stream, as far as it concerns the client."""
        try:
            if call.rpc_id is not None and kind == b"application/json" and call.method not in _BODILESS:
                return body_reply(await response.read(self._response_bytes), call, response.status)
            return _refusing(response)
        finally:
            await response.aclose()

    async def _whole(self, response: HttpResponse, kind: bytes, call: Call) -> Reply:
        """The answer, where it comes in one piece."""
        try:
            if call.rpc_id is None:
                if response.status not in _TAKEN:
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
        resumable = False
        try:
            async with aclosing(response.chunks()) as chunks:
                async for chunk in chunks:
                    for event in parser.events(chunk):
                        reply = event_reply(event, call)
                        if reply is None:
                            continue
                        if reply.is_final:
                            response.leave()
                            reply = _with_session(reply, response)
                            yield replace(reply, streamed=True) if call.version in LEGACY else reply
                            return
                        resumable = resumable or bool(reply.event)
                        yield reply
        finally:
            await response.aclose()
        if call.method != STREAM and not (resumable and call.version in LEGACY):
            raise UpstreamError("closed", "the stream ended before the answer")
        yield Reply(None, is_final=True, goes_on=call.method != STREAM)

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
        upstreams = self._beside if _apart(permit.call) else self._upstreams
        response = await upstreams.send(request)
        if response.status == 401:
            other = await self._rejected(permit, again=request.replay)
            if other is not None:
                await response.aclose()
                return await upstreams.send(self._request(other))
        return response

    def _request(self, permit: Permit, body: bytes | None = None) -> HttpRequest:
        """Made anew from what was checked: of the client's headers only checked `Mcp-Param-*` go on."""
        call = permit.call
        target = self._targets[call.target]
        if target.url is None:
            raise UpstreamError("connect", "the server has no URL")
        bodiless = call.method in _BODILESS or call.direction == "resume"
        parent = child_traceparent(call.trace)
        if body is None:
            body = b"" if bodiless else dumps(onward(call, parent))
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
        if bodiless and not body:
            if call.resumes:
                headers.append((b"last-event-id", call.resumes.encode()))
            method = b"DELETE" if call.method == END else b"GET"
            return HttpRequest(target.url, b"", tuple(headers), static, method=method, replay=method == b"GET")
        row = METHODS.get(call.method)
        return HttpRequest(target.url, body, tuple(headers), static, replay=row is not None and row.again)


def _apart(call: Call) -> bool:
    """Whether it stands for long, or must not wait behind calls that may wait for it."""
    return call.rpc_id is None or call.method == LISTEN or call.direction != ""


def _refusing(response: HttpResponse) -> Reply:
    """A status that says what the protocol says by it; of any other one nothing is passed on."""
    status = response.status
    if status not in {400, 404, 405, 406, 409}:
        raise UpstreamError("status" if status != 200 else "protocol", str(status))
    headers = (("Allow", "POST"),) if status == 405 else ()
    return Reply(None, is_final=True, status=status, headers=headers, failed=True)


def _kind(response: HttpResponse) -> bytes:
    kind = response.header(b"content-type") or b""
    return kind if kind == b"application/json" else kind.partition(b";")[0].strip().lower()


def _with_session(reply: Reply, response: HttpResponse) -> Reply:
    line = response.header(b"mcp-session-id")
    if not line or not reply.is_final:
        return reply
    raw = line.decode("latin-1")
    if not valid_upstream_id(raw):
        raise UpstreamError("protocol", "session id")
    return replace(reply, headers=((SESSION_HEADER, raw),))
