"""`/mcp` as pure ASGI: one MCP server made of all that the caller may use.  It speaks the protocol itself and decides nothing.

Whatever it asks of a server is a call of its own on the one road (`caller.py`); what a caller sees here is what the mounts show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as with_stages
from functools import partial

from msgspec.structs import replace

from gateway.asgi import (
    DECISION_HEADER,
    WORKFLOW_HEADER,
    ClientGoneError,
    Disconnect,
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
from gateway.mcp.aggregate.caller import Caller, Leg, UnroutedError
from gateway.mcp.aggregate.desk import Desk, Said
from gateway.mcp.aggregate.elsewhere import Elsewhere
from gateway.mcp.aggregate.fan import PATIENCE, Fan
from gateway.mcp.aggregate.held import Held
from gateway.mcp.aggregate.naming import Names
from gateway.mcp.aggregate.questions import Questions
from gateway.mcp.aggregate.resuming import Events
from gateway.mcp.aggregate.sessions import Known
from gateway.mcp.aggregate.standing import Standings
from gateway.mcp.aggregate.streams import Streams
from gateway.mcp.aggregate.subscribing import Subscribing
from gateway.mcp.aggregate.where import Where
from gateway.mcp.endpoint import ENDS_ITSELF, is_standing, may_wait
from gateway.mcp.errors import Answer, RpcRefused
from gateway.mcp.hop import SESSION_HEADER
from gateway.mcp.lists import Could
from gateway.mcp.methods import INITIALIZE
from gateway.mcp.questions import declared
from gateway.mcp.sealed import Sealed
from gateway.mcp.session import Sessions
from gateway.mcp.streams import END, STREAM
from gateway.mcp.streams import read as read_stream
from gateway.mcp.strict import dumps
from gateway.mcp.wire import read
from gateway.model import Arrival, Call, Clock, Principal, Refused, UpstreamError, wall_clock
from gateway.pipeline import Stages
from gateway.protected import challenge, step_up
from gateway.reasons import Code
from gateway.settings import Limits
from gateway.settings_outbound import Era

PATHS = frozenset({"/mcp", "/mcp/"})
_WATCH_AFTER = 0.02
_WHOEVER_ASKS = frozenset(
    {
        Code.NO_CREDENTIAL,
        Code.INVALID_CREDENTIAL,
        Code.REVOKED,
        Code.SCOPE_REQUIRED,
        Code.LEDGER_UNAVAILABLE,
        Code.OVERLOADED,
        Code.INTERNAL_ERROR,
    }
)
"""Refusals that say nothing of what was asked for."""
_OURS = ""
"""In the place of a server's id, in a session's seal: no server is called so."""


class Aggregate:
    """The endpoint.  `stages`, `could` and `sealed` are the mounts' own.

    eras      by server: every one that may be in it, and how it is spoken to.
    patience  seconds that a server has for its part of a list.
    elsewhere how answers go from one replica to another, where there are several.
    known     what replicas know of sessions.
    """

    def __init__(
        self,
        stages: Stages,
        *,
        eras: Mapping[str, Era],
        guard: HostGuard,
        limits: Limits,
        public_url: str,
        could: Could,
        sealed: Sealed,
        known: Known,
        scopes: tuple[str, ...] = (),
        slots: Slots | None = None,
        clock: Clock = wall_clock,
        heartbeat: float = HEARTBEAT_SECONDS,
        patience: float = PATIENCE,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """ValueError where two servers could not be told apart by their names here."""
        self._in_force = stages, could
        self._guard = guard
        self._limits = limits
        self._sessions = Sessions(sealed)
        self._slots = slots or Slots(limits.concurrent_calls)
        self._streams = Slots(limits.concurrent_streams)
        self._bodies = Bodies(limits.body_bytes, limits.concurrent_calls)
        self._clock = clock
        self._heartbeat = heartbeat
        self._challenge = challenge(public_url, "/mcp", scopes)
        self._step = partial(step_up, public_url, "/mcp")
        self._standings = Standings(eras)
        fan, names = Fan(self._standings, eras, patience), Names(eras)
        where = Where(fan, names, sealed, f"{public_url.rstrip('/')}/mcp/")
        self._known = known
        self._open = Streams(self._standings, fan, where, known, seconds=limits.stream_seconds, patience=patience)
        self._held = Held(sealed, stages, could, elsewhere, limits.call_seconds)
        self._questions = Questions(sealed, stages, could, elsewhere)
        subscribing = Subscribing(self._standings, where, self._open, known)
        self._desk = Desk(
            self._standings, fan, names, where, self._open, self._questions, self._held, subscribing, Events(sealed)
        )

    async def aclose(self) -> None:
        """End what waits for a client's answer."""
        await self._held.aclose()
        await self._questions.aclose()
        await self._open.aclose()

    def look(self) -> None:
        """Another replica says that something of sessions has changed."""
        self._known.forget()
        self._open.look()

    def enforce(self, stages: Stages, could: Could) -> None:
        """Serve every call that arrives from now on by these; a call that has begun keeps its own to its end."""
        self._in_force = stages, could
        self._standings.forget_offers()
        self._open.enforce(stages, could)
        self._questions.in_force = self._held.in_force = stages, could

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request; what is refused before it is a call (host, size) is on record without its contents."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            headers, found = fields_of(scope)
            self._guard.check(found)
            body = await self._bodies.read(receive, whole_body(scope))
            arrival = make_arrival(
                scope, body, protocol="mcp", target="", path="", clock=self._clock, headers=headers, found=found
            )  # fmt: skip
            modern = errors.is_modern(arrival)
            standing = is_standing(arrival, modern=modern)
            with self._streams if standing else self._slots:
                work = self._serve(arrival, send, standing=standing, modern=modern)
                await (Disconnect().guard(receive, work, 0 if standing else _WATCH_AFTER) if standing or modern else work)
        except Refused as refusal:
            decision = await turned_away(scope, "mcp", self._clock, refusal, self._in_force[0].record_refusal)
            answer = errors.refused(refusal, None, decision, knows=True, challenge="")
            await _say(send, answer, decision)
        except ClientGoneError:
            return

    async def _serve(self, arrival: Arrival, send: Send, *, standing: bool, modern: bool) -> None:
        (stages, could), limits = self._in_force, self._limits
        try:
            caller = await self._admitted(arrival, stages, could)
        except Refused as refusal:
            workflow = refusal.principal.workflow if refusal.principal else ""
            answer = errors.refused(refusal, arrival, arrival.id, knows=True, challenge=self._challenge, step=self._step)
            await _say(send, answer, arrival.id, workflow)
            return
        leg = Leg("")
        seconds = limits.stream_seconds + ENDS_ITSELF if standing else limits.call_seconds
        async with EventStream(send, self._heartbeat) as stream:
            begin = partial(stream.begin, ((WORKFLOW_HEADER, caller.principal.workflow),))
            try:
                with Within(seconds, self._heartbeat, begin if may_wait(arrival, modern=modern) else None):
                    await self._answer(caller, leg, stream, send)
                return
            except UnroutedError as refusal:
                refusal.call, refusal.principal = caller.call, caller.principal
                leg.id = arrival.id
                await _recorded(arrival, refusal, stages)
                answer = errors.refused(refusal, arrival, arrival.id, knows=True, challenge=self._challenge, step=self._step)
            except Refused as refusal:
                answer = self._refused(refusal, caller, leg)
            except UpstreamError as error:
                answer = errors.failed(error, leg.id, server=leg.server, rpc_id=caller.call.rpc_id)
            except TimeoutError:
                answer = errors.failed(UpstreamError("timeout"), leg.id, server=leg.server, rpc_id=caller.call.rpc_id)
            if stream.started:
                if arrival.http_method == STREAM:
                    return  # no request of theirs is open: the stream ends, and its record says why
                await stream.event(answer.body, event="message")
            else:
                await _say(send, answer, leg.id, caller.principal.workflow)

    async def _admitted(self, arrival: Arrival, stages: Stages, could: Could) -> Caller:
        """Who calls, and what is asked: authenticated and strictly read as on the road, a refusal on record."""
        principal: Principal | None = None
        try:
            principal = await stages.authenticate(arrival)
            call = self._read(arrival, principal)
            await self._alive(call, principal)
            self._desk.check(call)
        except Refused as refusal:
            refusal.principal = refusal.principal or principal
            await _recorded(arrival, refusal, stages)
            raise
        known = principal

        async def authenticated(_arrival: Arrival) -> Principal:
            return known

        inner = with_stages(stages, authenticate=authenticated)
        return Caller(call, principal, inner, could, self._clock, errors.is_modern(arrival))

    def _read(self, arrival: Arrival, principal: Principal) -> Call:
        call = read_stream(arrival) if arrival.http_method in {STREAM, END} else read(arrival, self._limits.json_depth)
        sealed = arrival.header("mcp-session-id")
        if sealed is None or errors.is_modern(arrival) or call.method == INITIALIZE:
            return call
        try:
            session = self._sessions.open(sealed, server=_OURS, principal=principal)
        except RpcRefused as refusal:
            refusal.rpc_id = call.rpc_id
            raise
        return replace(call, opens=session.opens, declared=session.declared)

    async def _alive(self, call: Call, principal: Principal) -> None:
        """`RpcRefused` where the session that the client names was ended, at whichever replica."""
        session = None if errors.is_modern(call.arrival) or call.method == INITIALIZE else call.arrival.header("mcp-session-id")
        if session is not None and (await self._known.of(session, principal)).over:
            raise RpcRefused(Code.UNKNOWN_SESSION, "ended", rpc_id=call.rpc_id)

    async def _answer(self, caller: Caller, leg: Leg, stream: EventStream, send: Send) -> None:
        """Everything that is said to the client, as it comes."""
        call = caller.call
        async for said in self._desk.serve(caller, leg):
            headers = [(WORKFLOW_HEADER, caller.principal.workflow)]
            if leg.id:
                headers.append((DECISION_HEADER, leg.id))
            if call.method == INITIALIZE:
                headers.append((SESSION_HEADER, self._session(caller)))
            await _release(said, headers, stream, send)

    def _session(self, caller: Caller) -> str:
        """A session, which the client keeps for us: what it said of itself."""
        call = caller.call
        says = declared(call.declares)
        return self._sessions.seal(call.version, server=_OURS, principal=caller.principal, opens=call.opens, declared=says)

    def _refused(self, refusal: Refused, caller: Caller, leg: Leg) -> Answer:
        """A refusal of the road, told of the call as the client made it; nothing of a server that it may not know of."""
        call = caller.call
        if refusal.code not in _WHOEVER_ASKS and not (caller.could(caller.principal, leg.server) and leg.server):
            receipt, refusal = refusal.receipt, Refused(Code.UNKNOWN_TARGET)
            refusal.receipt = receipt  # of the record of why
        refusal.call = call
        return errors.refused(
            refusal, call.arrival, leg.id or call.arrival.id, knows=True, challenge=self._challenge, step=self._step
        )


async def _recorded(arrival: Arrival, refusal: Refused, stages: Stages) -> None:
    stages.observe(arrival, refusal, None)
    await stages.record_refusal(arrival, refusal)


async def _release(said: Said, headers: list[tuple[str, str]], stream: EventStream, send: Send) -> None:
    body = b"" if said.message is None else dumps(said.message)
    if not stream.started:
        if said.is_final and not said.event:
            await send_json(send, said.status, body, headers)
            return
        await stream.start(headers)
    if said.message is not None:
        await stream.event(body, event="message", id=said.event)
    elif said.event:
        await stream.event(b"", id=said.event)
    elif not said.is_final:
        await stream.comment()  # whoever waits for a stream sees that it stands


async def _say(send: Send, answer: Answer, decision: str, workflow: str = "") -> None:
    known = ((DECISION_HEADER, decision),) if decision else ()
    known = (*known, (WORKFLOW_HEADER, workflow)) if workflow else known
    await send_json(send, answer.status, answer.body, (*known, *answer.headers))
