"""`/a2a-callback/{id}` as pure ASGI: an agent's news of a task, for whoever wanted it.  It decides nothing.

An unknown id, a wrong secret and a task that is another's are answered alike.
"""

from __future__ import annotations

import re

from a2a.types import a2a_pb2 as pb
from msgspec.structs import replace

from gateway.a2a import tracing, v03
from gateway.a2a.deliveries import Deliveries, News
from gateway.a2a.operations import named_in_answer
from gateway.a2a.push import PATH, Found, Push
from gateway.a2a.wire import UnreadableError, identifier, load, media_type, to_proto
from gateway.asgi import (
    ClientGoneError,
    HostGuard,
    Receive,
    Scope,
    Send,
    fields_of,
    make_arrival,
    send_json,
    turned_away,
    whole_body,
)
from gateway.bodies import Bodies
from gateway.model import Arrival, Clock, Refused, UpstreamError
from gateway.pipeline import Stages
from gateway.reasons import Code
from gateway.settings import Limits

_NAME = re.compile(r"[A-Za-z0-9_-]{32}")
_SECRET = re.compile(r"(?:Bearer )?([A-Za-z0-9_-]{43})")
_SHOWN = ("authorization", "x-a2a-notification-token")
"""Where agents show the callback's secret: those of 0.3 in the second alone."""
_STATUS = {Code.TOO_LARGE: 413, Code.OVERLOADED: 503, Code.MALFORMED: 400, Code.BAD_ORIGIN: 403}


class CallbackEndpoint:
    """Takes news, and acknowledges it once it waits for its webhook."""

    def __init__(  # noqa: PLR0917  made once
        self, push: Push, deliveries: Deliveries, guard: HostGuard, limits: Limits, stages: Stages, clock: Clock
    ) -> None:
        self._push = push
        self._deliveries = deliveries
        self._guard = guard
        self._limits = limits
        self._record = stages.record_refusal
        self._bodies = Bodies(limits.body_bytes, limits.concurrent_calls)
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            headers, found_headers = fields_of(scope)
            self._guard.check(found_headers)
            body = await self._bodies.read(receive, whole_body(scope))
            arrival = make_arrival(
                scope, body, protocol="a2a", target="", path="", clock=self._clock, headers=headers, found=found_headers
            )
            await self._take(arrival, scope["path"].removeprefix(PATH))
        except Refused as refusal:
            await turned_away(scope, "a2a", self._clock, refusal, self._record)
            status = _STATUS.get(refusal.code, 404)
            await send_json(send, status, b'{"title":"refused"}')
        except ClientGoneError:
            return
        else:
            await send_json(send, 200, b"{}")

    async def _take(self, arrival: Arrival, name: str) -> None:
        shown = _SECRET.fullmatch(arrival.header(_SHOWN[0]) or arrival.header(_SHOWN[1]) or "")
        if arrival.http_method != "POST" or _NAME.fullmatch(name) is None or shown is None:
            raise Refused(Code.NO_CREDENTIAL, "not a callback")
        found = await self._push.called(name, shown[1])
        if found is None:
            raise Refused(Code.INVALID_CREDENTIAL, "no such callback, or not its secret")
        event = self._event(arrival, found.known.version)
        named = named_in_answer(event)
        (task,) = named.tasks if len(named.tasks) == 1 else ("",)
        if not identifier(task) or found.row.task_id not in {"", task}:
            raise Refused(Code.NOT_OWNER, "news of another task")
        if not found.row.task_id:
            await self._push.bind(found.row.callback, task)
        self._deliveries.put(News(_of(arrival, found), event, found))

    def _event(self, arrival: Arrival, version: str) -> pb.StreamResponse:
        """A StreamResponse, or a bare task, as some agents send; in 0.3 with 0.3's words, if it is what it was asked for in."""
        if media_type(arrival.header("content-type") or "") not in {"application/json", "application/a2a+json"}:
            raise Refused(Code.MALFORMED, "content type")
        try:
            value = load(arrival.body, depth=self._limits.json_depth)
            bare = isinstance(value, dict) and "id" in value and "status" in value
            if bare and version == v03.VERSION:
                event = v03.news(value)
            else:
                event = to_proto({"task": value} if bare else value, pb.StreamResponse())
        except (UnreadableError, UpstreamError) as error:
            raise Refused(Code.MALFORMED, str(error)) from None
        if event.WhichOneof("payload") is None:
            raise Refused(Code.MALFORMED, "empty")
        return event


def _of(arrival: Arrival, found: Found) -> Arrival:
    """The arrival as that of the agent's news, under the trace of the call that asked for it; without the agent's secret."""
    kept = tuple((name, value) for name, value in arrival.headers if name not in _SHOWN)
    trace = tracing.continued(found.known.trace, arrival.trace)
    return replace(arrival, target=found.row.agent, headers=kept, found={}, trace=trace)
