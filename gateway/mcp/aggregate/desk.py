"""What each method of the aggregate does: answered here, asked of all servers, or carried to the one that it names.

What has no row is unknown here.  A name that leads nowhere goes down the road all the same, to be refused there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.mcp.aggregate import bridge, merge
from gateway.mcp.aggregate.caller import ASKED, Caller, Leg, Way, sent
from gateway.mcp.aggregate.fan import Fan
from gateway.mcp.aggregate.held import Held
from gateway.mcp.aggregate.levels import Levels
from gateway.mcp.aggregate.naming import Names
from gateway.mcp.aggregate.questions import Dialogue, Questions, UnansweredError, unanswered
from gateway.mcp.aggregate.repeated import Repeated
from gateway.mcp.aggregate.resuming import Events, resumed, whole
from gateway.mcp.aggregate.running import Cancelled, Running
from gateway.mcp.aggregate.standing import STATELESS, Standings, cancelled
from gateway.mcp.aggregate.streams import Streams
from gateway.mcp.aggregate.subscribing import Subscribing
from gateway.mcp.aggregate.where import ROUTED, Place, Where
from gateway.mcp.errors import ApprovalAsked, RpcRefused
from gateway.mcp.methods import (
    CALL_TOOL,
    CANCELLED,
    DISCOVER,
    INITIALIZE,
    LEGACY,
    LIST_PROMPTS,
    LIST_RESOURCES,
    LIST_TEMPLATES,
    LIST_TOOLS,
    LISTEN,
    METHODS,
    MODERN,
    PING,
    SET_LEVEL,
    SUBSCRIBE,
    UNSUBSCRIBE,
)  # fmt: skip
from gateway.mcp.streams import END, STREAM
from gateway.model import Call, Reply, UpstreamError
from gateway.reasons import Code

SERVED: Final = (*MODERN, *LEGACY[:3])
"""Revisions; 2024-11-05 is another transport."""
LISTS: Final[Mapping[str, tuple[str, str]]] = {
    LIST_TOOLS: ("tools", "name"),
    LIST_PROMPTS: ("prompts", "name"),
    LIST_RESOURCES: ("resources", "uri"),
    LIST_TEMPLATES: ("resourceTemplates", "uriTemplate"),
}
"""Member and key of every list."""
_CANCELLED_CODE: Final = -32800


@dataclass(frozen=True, slots=True)
class Said:
    """One message to the client; None is an empty answer.  `event` is the id at which it can resume after it."""

    message: dict[str, Any] | None
    is_final: bool = True
    status: int = 200
    event: str = ""


class Desk:
    """Serves one request after another, many at once."""

    def __init__(  # noqa: PLR0917  its parts
        self,
        standings: Standings,
        fan: Fan,
        names: Names,
        where: Where,
        streams: Streams,
        questions: Questions,
        held: Held,
        subscribing: Subscribing,
        events: Events,
    ) -> None:
        self._standings = standings
        self._fan = fan
        self._names = names
        self._where = where
        self._streams = streams
        self._questions = questions
        self._held = held
        self._running = Running()
        self._repeated = Repeated(standings, fan)
        self._levels = Levels()
        self._subscribing = subscribing
        self._events = events
        self._here: Mapping[str, Callable[[Caller], Awaitable[dict[str, Any]]]] = {
            INITIALIZE: self._initialized,
            DISCOVER: self._discovered,
            PING: _nothing,
            SET_LEVEL: self._levelled,
            **dict.fromkeys(LISTS, self._listed),
        }

    def check(self, call: Call) -> None:
        """`RpcRefused` for what is not served here, before anybody is asked anything."""
        if call.direction == "answer":
            return
        row = METHODS.get(call.method)
        if call.rpc_id is None:
            known = call.method in {STREAM, END} or (row is not None and row.notification)
        else:
            known = call.method in self._here or call.method in ROUTED or call.method == LISTEN
        if not known:
            raise RpcRefused(Code.UNKNOWN_METHOD, call.method, rpc_id=call.rpc_id)
        if call.method in LISTS and "cursor" in call.message["params"]:  # every list is one page: it is none of ours
            raise RpcRefused(Code.INVALID_PARAMS, "cursor", rpc_id=call.rpc_id)

    async def serve(self, caller: Caller, leg: Leg) -> AsyncGenerator[Said, None]:
        """Every message to the client, the last one final.  `leg` is where a refusal or a failure happened."""
        call = caller.call
        if call.method in {LISTEN, STREAM}:
            async with aclosing(self._streamed(caller, leg)) as messages:
                async for said in messages:
                    yield said
            return
        if call.method == END:
            await self._subscribing.end(caller)
            yield Said(None)
            return
        if call.rpc_id is None:
            if call.direction == "answer":
                await self._questions.answer(caller, leg)
            elif call.method == CANCELLED:
                await self._cancel(caller)
            yield Said(None, status=202)
            return
        if call.method in {SUBSCRIBE, UNSUBSCRIBE}:
            yield Said({"jsonrpc": "2.0", "id": call.rpc_id, "result": dict(await self._subscribing.serve(caller, leg))})
            return
        here = self._here.get(call.method)
        if here is not None:
            result = merge.ours(await here(caller), call.method, modern=caller.modern)
            yield Said({"jsonrpc": "2.0", "id": call.rpc_id, "result": result})
            return
        try:
            with self._running.entered(caller, leg):
                async with aclosing(self._carried(caller, leg)) as messages:
                    async for said in messages:
                        yield said
        except Cancelled:
            error = {"code": _CANCELLED_CODE, "message": "Request cancelled"}
            yield Said({"jsonrpc": "2.0", "id": call.rpc_id, "error": error})

    async def _streamed(self, caller: Caller, leg: Leg) -> AsyncGenerator[Said, None]:
        """A stream for notices, or the rest of an answer."""
        rest = self._events.opened(caller) if caller.call.method == STREAM else None
        if rest is not None:
            async with aclosing(self._rest(*rest, leg)) as messages:
                async for said in messages:
                    yield said
            return
        async with aclosing(self._streams.open(caller)) as notices:
            async for notice in notices:
                yield Said(notice, is_final=notice is not None and "result" in notice)
        if caller.call.method == STREAM:
            yield Said(None)

    async def _initialized(self, caller: Caller) -> dict[str, Any]:
        version = caller.call.version
        chosen = version if version in SERVED else LEGACY[0]
        return {"protocolVersion": chosen, "serverInfo": merge.SERVER_INFO, **await self._offered(caller)}

    async def _discovered(self, caller: Caller) -> dict[str, Any]:
        return {"supportedVersions": list(SERVED), **await self._offered(caller)}

    async def _offered(self, caller: Caller) -> dict[str, Any]:
        gathered = await self._fan.every(caller, lambda leg: self._standings.offer(caller, leg))
        return merge.offered(gathered, modern=caller.modern)

    async def _levelled(self, caller: Caller) -> dict[str, Any]:
        self._levels.set(caller, caller.call.message["params"]["level"])
        return {}

    async def _listed(self, caller: Caller) -> dict[str, Any]:
        member, key = LISTS[caller.call.method]
        gathered = await self._fan.lists(caller, caller.call.method, member, key)
        return merge.named(gathered, member, self._names) if key == "name" else merge.plain(gathered, member)

    async def _carried(self, caller: Caller, leg: Leg) -> AsyncGenerator[Said, None]:
        """What the one server says, in the client's era and under the client's id."""
        place = await self._where.of(caller, leg)
        if not caller.modern and place.params.keys() & ASKED:  # it can make no call again, whatever it says
            place = replace(place, params={key: value for key, value in place.params.items() if key not in ASKED})
        leg.server, leg.level = place.server, self._levels.of(caller)
        with self._questions.during(caller, leg) as dialogue:
            try:
                async with aclosing(self._asked(caller, leg, place, dialogue)) as messages:
                    async for said in messages:
                        yield said
            except UnansweredError as error:
                for notice in dialogue.taken_back():
                    yield Said(notice, is_final=False)
                yield Said(await unanswered(caller, leg, str(error)))

    async def _asked(self, caller: Caller, leg: Leg, place: Place, dialogue: Dialogue) -> AsyncGenerator[Said, None]:
        """The same; a call whose result asks for more is made again, with what the client says to it."""
        params = place.params
        while True:
            final: tuple[dict[str, Any], Way] | None = None
            async with aclosing(_put(caller, self._replies(caller, leg, place))) as replies:
                async for reply, way in replies:
                    event = self._events.id(caller, leg, way, reply)
                    if reply.is_final:
                        final = reply.payload, way
                    elif (notice := self._passed(caller, dialogue, reply.payload, way)) is not None or event:
                        yield Said(notice, is_final=False, event=event)
            if final is None:
                raise UpstreamError("closed", "no answer")  # pragma: no cover  as in `Fan`
            payload, way = final
            if not bridge.asks(payload, modern=caller.modern):
                break
            for question in dialogue.asked(payload["result"]):
                yield Said(question, is_final=False)
            more, caller = await dialogue.answers()
            leg.again += 1
            place = replace(place, params={**params, **more})
        self._where.links.note(caller.whose, place.server, payload.get("result", {}))
        message, status = bridge.answered(payload, caller.call, modern=caller.modern, upstream_modern=way.modern)
        yield Said(message, status=status, event=event)

    async def _rest(self, caller: Caller, server: str, way: Way, event: str, leg: Leg) -> AsyncGenerator[Said, None]:
        """What follows an event of an answer that began before, perhaps at another replica."""
        leg.server = server
        with self._questions.during(caller, leg) as dialogue:
            async with aclosing(whole(caller, leg, way, resumed(caller, leg, way, event), event)) as replies:
                async for reply in replies:
                    event = self._events.id(caller, leg, way, reply)
                    if not reply.is_final:
                        yield Said(self._passed(caller, dialogue, reply.payload, way), is_final=False, event=event)
                        continue
                    self._where.links.note(caller.whose, server, reply.payload.get("result", {}))
                    message, _ = bridge.answered(reply.payload, caller.call, modern=False, upstream_modern=False)
                    yield Said(message, event=event)

    def _passed(self, caller: Caller, dialogue: Dialogue, payload: dict[str, Any] | None, way: Way) -> dict[str, Any] | None:
        """A message on the way to the final one, as far as it is for this client."""
        if payload is None or not bridge.passes(payload, caller.call, modern=caller.modern):
            return None
        return dialogue.relayed(payload, way) if self._levels.passes(caller, payload) else None

    def _replies(self, caller: Caller, leg: Leg, place: Place) -> AsyncGenerator[tuple[Reply, Way], None]:
        """The road to the server.

        What the caller could never do is refused there before the server is asked even how it speaks: so nobody learns of
        a server, by its faults or by its pace, who may not know of it.
        """
        if place.may and caller.call.method == CALL_TOOL and not caller.modern:
            return self._repeated.carry(caller, leg, place)
        if place.may and caller.modern and self._held.is_mine(caller, place.server):
            return self._held.resumed(caller, leg)
        if place.may:
            replies = self._standings.carry(caller, leg, caller.call.method, place.params)
            waits = caller.modern and caller.asks and not self._standings.is_stateless(place.server)
            return self._held.begun(caller, leg, replies) if waits else replies
        return _unasked(caller, leg, place.params)

    async def _cancel(self, caller: Caller) -> None:
        """The client's notice, told to the server in its own words: a notice in a session, a hang-up without one."""
        request = self._running.of(caller, caller.call)
        if request is not None:
            await cancelled(caller, request.leg, caller.call.message["params"])
            request.cancel()


async def _put(caller: Caller, replies: AsyncGenerator[tuple[Reply, Way], None]) -> AsyncGenerator[tuple[Reply, Way], None]:
    """The same; a form of the gateway's own is put to a client of handshakes as a stateless server's would be."""
    try:
        async with aclosing(replies):
            async for each in replies:
                yield each
    except ApprovalAsked as refusal:
        result = None if caller.modern else refusal.asking()
        if result is None:
            raise
        yield Reply({"result": result}, is_final=True), STATELESS


async def _unasked(caller: Caller, leg: Leg, params: Mapping[str, Any]) -> AsyncGenerator[tuple[Reply, Way], None]:
    async with aclosing(sent(caller, leg, STATELESS, caller.call.method, params, caller.call.rpc_id)) as replies:
        async for reply in replies:
            yield reply, STATELESS


async def _nothing(_caller: Caller) -> dict[str, Any]:
    return {}
