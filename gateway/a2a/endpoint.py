"""`/a2a/{agent}` as pure ASGI: frames a call, sends it down the road, writes what comes back.  It decides nothing."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing

from a2a.types import a2a_pb2 as pb

from gateway.a2a import errors, v03
from gateway.a2a.answers import AgentSaysNo
from gateway.a2a.errors import Answer, Form
from gateway.a2a.rest import MEDIA_TYPE, is_rest
from gateway.a2a.waiting import served
from gateway.a2a.wire import peek_id, version_of
from gateway.asgi import (
    DECISION_HEADER,
    WORKFLOW_HEADER,
    ClientGoneError,
    Disconnect,
    HostGuard,
    Receive,
    Scope,
    Seat,
    Send,
    Slots,
    fields_of,
    make_arrival,
    send_json,
    turned_away,
    whole_body,
)
from gateway.bodies import Bodies
from gateway.eventstream import HEARTBEAT_SECONDS, EventStream
from gateway.model import Arrival, Clock, Refused, Reply, UpstreamError, wall_clock
from gateway.pipeline import Stages
from gateway.settings import Limits

_ROOT = "/a2a/"
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class A2aEndpoint:
    """The A2A face of the gateway; `stages` are those of an `A2aRoad`.

    A client that hangs up closes the stream from its agent; the agent's task goes on, and belongs to its person as before.
    """

    def __init__(
        self,
        stages: Stages,
        *,
        guard: HostGuard,
        limits: Limits,
        slots: Slots | None = None,
        clock: Clock = wall_clock,
        heartbeat: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._stages = stages
        self._guard = guard
        self._limits = limits
        self._slots = slots or Slots(limits.concurrent_calls)
        self._streams = Slots(limits.concurrent_streams)
        self._bodies = Bodies(limits.body_bytes, limits.concurrent_calls)
        self._clock = clock
        self._heartbeat = heartbeat

    @property
    def stages(self) -> Stages:
        """Those by which calls are served now."""
        return self._stages

    def enforce(self, stages: Stages) -> None:
        """Serve every call that arrives from now on by these; a call that has begun keeps its own to its end."""
        self._stages = stages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request.  What is refused before it is a call (host, size) is on record without its contents; load is not."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            arrival = await self._arrive(scope, receive)
            with Seat(self._slots, self._streams) as seat:
                await Disconnect().guard(receive, self._serve(arrival, send, seat))
        except Refused as refusal:
            form = _form(scope["method"], _rest(scope["path"])[1])
            decision = await turned_away(scope, "a2a", self._clock, refusal, self._stages.record_refusal)
            await _say(
                send,
                errors.refused(refusal, decision, form=form),
                decision,
            )
        except ClientGoneError:
            return

    async def _arrive(self, scope: Scope, receive: Receive) -> Arrival:
        headers, found = fields_of(scope)
        self._guard.check(found)
        target, path = _rest(scope["path"])
        if _SLUG.fullmatch(target) is None:
            target = ""  # no agent can be called that, and the record of a stranger's call does not repeat it
        body = await self._bodies.read(receive, whole_body(scope))
        return make_arrival(
            scope, body, protocol="a2a", target=target, path=path, clock=self._clock, headers=headers, found=found
        )

    async def _serve(self, arrival: Arrival, send: Send, seat: Seat) -> None:
        form = _form(arrival.http_method, arrival.path)
        if form == "rpc" and _is_old(arrival):
            form = "old"
        workflow = ""
        async with EventStream(send, self._heartbeat) as stream:
            try:
                begun, standing = asyncio.get_running_loop().time(), False
                async with (
                    asyncio.timeout(self._limits.call_seconds) as limit,
                    aclosing(served(arrival, self._stages)) as replies,
                ):
                    async for reply in replies:
                        if not standing and not reply.is_final:
                            seat.stands()
                        await _release(reply, arrival, stream, send)
                        if stream.started and not standing:
                            standing = True
                            limit.reschedule(begun + self._limits.stream_seconds)
                return
            except Refused as refusal:
                workflow = refusal.principal.workflow if refusal.principal else ""
                rpc_id = refusal.call.rpc_id if refusal.call else None
                answer = errors.refused(refusal, arrival.id, rpc_id=rpc_id, form=form)
            except UpstreamError as error:
                answer = self._failed(error, arrival, form=form)
            except TimeoutError:
                answer = self._failed(UpstreamError("timeout"), arrival, form=form)
            if stream.started:  # the status is out already: the news comes as the SDKs expect it
                await stream.event(answer.body, event=_error_event(arrival))
            else:
                await _say(send, answer, arrival.id, workflow)

    def _failed(self, error: UpstreamError, arrival: Arrival, *, form: Form) -> Answer:
        rpc_id = peek_id(arrival.body, depth=self._limits.json_depth) if form in {"rpc", "old"} else None
        return errors.failed(error, arrival.id, rpc_id=rpc_id, form=form)


def _rest(path: str) -> tuple[str, str]:
    """The agent that a path names, and what follows it: "" for both forms of the agent's own URL."""
    target, slash, rest = path.partition(_ROOT)[2].partition("/")
    return target, slash + rest if rest else ""


def _form(verb: str, path: str) -> Form:
    """How errors are said to whoever asked so."""
    return "rest" if is_rest(path) else "rpc" if verb == "POST" else "plain"


def _is_old(arrival: Arrival) -> bool:
    return version_of(arrival) == v03.VERSION


def _error_event(arrival: Arrival) -> str:
    """The name of an error's event: clients of 0.3 read errors in events without a name."""
    return "error" if not _is_old(arrival) else ""


async def _release(reply: Reply, arrival: Arrival, stream: EventStream, send: Send) -> None:
    """One message to the client: a whole answer, or an event of a stream, which begins with the first."""
    headers = ((DECISION_HEADER, arrival.id), *reply.headers)
    if not stream.started:
        if reply.is_final and not isinstance(reply.payload, pb.StreamResponse):
            kind = MEDIA_TYPE if reply.status == 200 and is_rest(arrival.path) else "application/json"
            await send_json(send, reply.status, reply.body or b"", headers, kind)
            return
        await stream.start(headers)
    if reply.body is not None:  # None: the stream ends after what has been sent
        await stream.event(reply.body, event=_error_event(arrival) if isinstance(reply.payload, AgentSaysNo) else "")


async def _say(send: Send, answer: Answer, decision: str, workflow: str = "") -> None:
    known = ((DECISION_HEADER, decision), *(((WORKFLOW_HEADER, workflow),) if workflow else ()))
    await send_json(send, answer.status, answer.body, (*known, *answer.headers))
