"""`/mcp/{server}` as pure ASGI: frames a call, sends it down the road, writes what comes back.  It decides nothing."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import msgspec

from gateway.asgi import (
    DECISION_HEADER,
    WORKFLOW_HEADER,
    ClientGoneError,
    Disconnect,
    Headers,
    HostGuard,
    Receive,
    Scope,
    Send,
    Slots,
    fields_of,
    make_arrival,
    send_json,
    turned_away,
    whole_body,
)
from gateway.bodies import Bodies
from gateway.deadline import Within
from gateway.eventstream import HEARTBEAT_SECONDS, EventStream
from gateway.mcp import errors
from gateway.mcp.errors import Answer, RpcRefused
from gateway.mcp.hop import SESSION_HEADER
from gateway.mcp.lists import Could
from gateway.mcp.methods import LISTEN
from gateway.mcp.streams import STREAM
from gateway.mcp.wire import peek_id
from gateway.model import Arrival, Clock, Principal, Refused, Reply, UpstreamError, wall_clock
from gateway.pipeline import Stages, govern
from gateway.protected import challenge, step_up
from gateway.reasons import Code
from gateway.settings import Limits

ROOT = "/mcp/"
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


ENDS_ITSELF = 60.0
"""Seconds that a stream for notices has to end by itself, in good order, before it is cut."""
_WATCH_AFTER = 0.02
"""Seconds: most calls are over before anybody needs to watch whether their client is still there."""
_LATE = frozenset({Code.LEDGER_UNAVAILABLE, Code.INTERNAL_ERROR})  # may befall a call that was sent, and carry nothing of it


class McpEndpoint:
    """The MCP face of the gateway; `stages` are those of an `McpRoad`, `could` the same that its lists are made by.

    `scopes` are what tokens must have, for the challenge that strangers get.

    In the stateless era a client that hangs up cancels its call; in the era of handshakes the call goes on to its end.  A call
    that is silent for longer than `heartbeat` is answered by an event stream, which is not.
    """

    def __init__(
        self,
        stages: Stages,
        *,
        guard: HostGuard,
        limits: Limits,
        public_url: str,
        could: Could,
        scopes: tuple[str, ...] = (),
        slots: Slots | None = None,
        clock: Clock = wall_clock,
        heartbeat: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._in_force = stages, could
        self._guard = guard
        self._limits = limits
        self._public_url = public_url
        self._scopes = scopes
        self._slots = slots or Slots(limits.concurrent_calls)
        self._streams = Slots(limits.concurrent_streams)
        self._bodies = Bodies(limits.body_bytes, limits.concurrent_calls)
        self._clock = clock
        self._heartbeat = heartbeat

    def enforce(self, stages: Stages, could: Could) -> None:
        """Serve every call that arrives from now on by these; a call that has begun keeps its own to its end."""
        self._in_force = stages, could

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request.  What is refused before it is a call (host, size) is on record without its contents; load is not."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            headers, found = fields_of(scope)
            self._guard.check(found)
            arrival = self._arrival(scope, await self._bodies.read(receive, whole_body(scope)), headers, found)
            modern = errors.is_modern(arrival)
            standing = is_standing(arrival, modern=modern)
            with self._streams if standing else self._slots:
                work = self._serve(arrival, send, standing=standing, modern=modern)
                await (Disconnect().guard(receive, work, 0 if standing else _WATCH_AFTER) if standing or modern else work)
        except Refused as refusal:
            decision = await turned_away(scope, "mcp", self._clock, refusal, self._in_force[0].record_refusal)
            await _say(send, errors.refused(refusal, None, decision, knows=True, challenge=""), decision)
        except ClientGoneError:
            return

    def _arrival(self, scope: Scope, body: bytes, headers: Headers, found: Mapping[str, Sequence[str]]) -> Arrival:
        target = scope["path"].partition(ROOT)[2]
        if _SLUG.fullmatch(target) is None:
            target = ""  # no server can be called that, and the path is not repeated in an answer
        return make_arrival(scope, body, protocol="mcp", target=target, path="", clock=self._clock, headers=headers, found=found)

    async def _serve(self, arrival: Arrival, send: Send, *, standing: bool, modern: bool) -> None:
        stages, could = self._in_force
        workflow = ""
        async with EventStream(send, self._heartbeat) as stream:
            limits = self._limits
            seconds = limits.stream_seconds + ENDS_ITSELF if standing else limits.call_seconds
            begin = partial(_begin, stream, arrival) if may_wait(arrival, modern=modern) else None
            try:
                with Within(seconds, self._heartbeat, begin):
                    replies = govern(arrival, stages)
                    try:
                        async for reply in replies:
                            await _release(reply, arrival, stream, send)
                    finally:
                        await replies.aclose()
                return
            except Refused as refusal:
                workflow = refusal.principal.workflow if refusal.principal else ""
                answer = self._refused(refusal, arrival, could)
            except UpstreamError as error:
                answer = self._failed(error, arrival)
            except TimeoutError:
                answer = self._failed(UpstreamError("timeout"), arrival)
            if stream.started:
                if arrival.http_method == STREAM:
                    return  # no request of theirs is open: the stream ends, and its record says why
                await stream.event(answer.body, event="message")
            else:
                await _say(send, answer, arrival.id, workflow)

    async def inside(self, arrival: Arrival, authenticate: Callable[[Arrival], Awaitable[Principal]]) -> tuple[bytes, str]:
        """One call of code that the gateway itself runs: the same road, bounds and answers; `authenticate` knows who it is.

        The answer as it would be on the wire, b"" for a notification; and the session's id where one began.
        """
        stages, could = self._in_force
        if _SLUG.fullmatch(arrival.target) is None:
            arrival = msgspec.structs.replace(arrival, target="")
        body, session = b"", ""
        try:
            if len(arrival.body) > self._limits.body_bytes:
                raise Refused(Code.TOO_LARGE, "body")
            with self._slots, Within(self._limits.call_seconds):
                async with aclosing(govern(arrival, replace(stages, authenticate=authenticate))) as replies:
                    async for reply in replies:
                        if reply.is_final:
                            body = reply.body or b""
                            session = dict(reply.headers).get(SESSION_HEADER, "")
        except Refused as refusal:
            body = self._refused(refusal, arrival, could).body
        except UpstreamError as error:
            body = self._failed(error, arrival).body
        except TimeoutError:
            body = self._failed(UpstreamError("timeout"), arrival).body
        return body, session

    def _refused(self, refusal: Refused, arrival: Arrival, could: Could) -> Answer:
        principal = refusal.principal
        if principal is not None and refusal.call is None and refusal.code in _LATE and not isinstance(refusal, RpcRefused):
            refusal = RpcRefused(refusal.code, rpc_id=peek_id(arrival.body, self._limits.json_depth))
        knows = principal is not None and could(principal, arrival.target) and refusal.code is not Code.UNKNOWN_TARGET
        path = f"{ROOT}{arrival.target}"
        asked = challenge(self._public_url, path, self._scopes)
        step = partial(step_up, self._public_url, path)
        return errors.refused(refusal, arrival, arrival.id, knows=knows, challenge=asked, step=step)

    def _failed(self, error: UpstreamError, arrival: Arrival) -> Answer:
        rpc_id = peek_id(arrival.body, self._limits.json_depth)
        return errors.failed(error, arrival.id, server=arrival.target, rpc_id=rpc_id)


def _release(reply: Reply, arrival: Arrival, stream: EventStream, send: Send) -> Awaitable[None]:
    """One message to the client: a whole answer, or an event of a stream, which begins with the first that is not final.

    In the era of handshakes an answer that the upstream gave in a stream is one here too: clients can tell.
    """
    headers = ((DECISION_HEADER, arrival.id), *reply.headers)
    if reply.is_final and not stream.started and not reply.goes_on and not (reply.streamed and reply.status == 200):
        return send_json(send, reply.status, reply.body or b"", headers)
    return _within(stream, reply, arrival, headers)


async def _within(stream: EventStream, reply: Reply, arrival: Arrival, headers: Headers) -> None:
    if not stream.started:
        await stream.start(headers)
        if is_standing(arrival, modern=errors.is_modern(arrival)):
            await stream.comment()  # whoever waits for a stream sees that it stands
    if reply.body is not None:
        await stream.event(reply.body, event="message", id=reply.event, retry=reply.retry)
    elif reply.event or reply.retry:
        await stream.event(b"", id=reply.event, retry=reply.retry)


def is_standing(arrival: Arrival, *, modern: bool) -> bool:
    """Whether a stream for notices is asked for, which stands beside the calls; the header must say what the body says."""
    return arrival.http_method == STREAM or (modern and arrival.header("mcp-method") == LISTEN)


def may_wait(arrival: Arrival, *, modern: bool) -> bool:
    """Whether the answer may begin before it is there: it takes a stream, and its head has nothing more to say."""
    return (modern or arrival.header("mcp-session-id") is not None) and "text/event-stream" in (arrival.header("accept") or "")


def _begin(stream: EventStream, arrival: Arrival) -> None:
    stream.begin(((DECISION_HEADER, arrival.id),))


async def _say(send: Send, answer: Answer, decision: str, workflow: str = "") -> None:
    known = ((DECISION_HEADER, decision), *(((WORKFLOW_HEADER, workflow),) if workflow else ()))
    await send_json(send, answer.status, answer.body, (*known, *answer.headers))
