"""Subscriptions and ends of sessions at `/mcp`: decided and on record as at a mount, and kept for every replica.

No server is told of a subscription before there is a stream on which it could say something; then it is told on each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from gateway.mcp.aggregate.caller import Caller, Leg, UnroutedError, Way, sent
from gateway.mcp.aggregate.merge import subscribes
from gateway.mcp.aggregate.sessions import Known, ending, subscribing, unsubscribing
from gateway.mcp.aggregate.standing import Standings, final
from gateway.mcp.aggregate.streams import Streams
from gateway.mcp.aggregate.where import Place, Where
from gateway.mcp.methods import LEGACY, SUBSCRIBE
from gateway.model import Intent, Reply
from gateway.reasons import Code
from policies import uri as uris

HANDSHAKE: Final = Way(modern=False, version=LEGACY[0])


class Subscribing:
    """Serves `resources/subscribe`, `resources/unsubscribe` and DELETE."""

    def __init__(self, standings: Standings, where: Where, streams: Streams, known: Known) -> None:
        self._standings = standings
        self._where = where
        self._streams = streams
        self._known = known

    async def serve(self, caller: Caller, leg: Leg) -> Mapping[str, Any]:
        """The result: by now every open stream of the session goes by it; refusals are those of the road."""
        call, session = caller.call, self._session(caller)
        place = await self._place(caller, leg, session)
        leg.server, uri = place.server, str(place.params["uri"])
        how = (subscribing if call.method == SUBSCRIBE else unsubscribing)(place.server, uri)

        async def kept(intent: Intent) -> Reply:
            await self._streams.follow(caller, await self._known.change(session, caller.principal, how))
            return Reply({"jsonrpc": "2.0", "id": intent.permit.call.rpc_id, "result": {}}, is_final=True)

        if place.may:
            caller = replace(caller, stages=replace(caller.stages, forward=kept))
        reply = await final(sent(caller, leg, HANDSHAKE, call.method, place.params, call.rpc_id))
        result: Mapping[str, Any] = reply.payload["result"]
        return result

    async def end(self, caller: Caller) -> None:
        """The session is over, on every replica; its streams here end, and so do sessions at servers that were its alone."""
        note = await self._known.change(self._session(caller), caller.principal, ending)
        await self._streams.follow(caller, note)
        await self._standings.end(caller)

    async def _place(self, caller: Caller, leg: Leg, session: str) -> Place:
        call, params = caller.call, caller.call.message["params"]
        if call.method != SUBSCRIBE:
            form = uris.form_of(params["uri"])
            for server, uri in (await self._known.of(session, caller.principal)).uris:
                if uris.form_of(uri) == form is not None:
                    return Place(server, params, may=True)
        place = await self._where.of(caller, leg)
        if place.may and not subscribes(await self._standings.offer(caller, Leg(place.server))):
            raise UnroutedError(Code.UNKNOWN_METHOD, "the server has no subscriptions", rpc_id=call.rpc_id)
        return place

    @staticmethod
    def _session(caller: Caller) -> str:
        session = caller.call.arrival.header("mcp-session-id")
        if session is None:
            raise UnroutedError(Code.UNKNOWN_SESSION, "no session", rpc_id=caller.call.rpc_id, status=400)
        return session
