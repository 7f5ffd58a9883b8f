"""The streams for notices that clients hold open at the aggregate: `subscriptions/listen`, and GET in the era of handshakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, Final

from gateway.mcp.aggregate.caller import Caller, UnroutedError
from gateway.mcp.aggregate.fan import Fan
from gateway.mcp.aggregate.listening import Listening, Wanted
from gateway.mcp.aggregate.sessions import Known, Note
from gateway.mcp.aggregate.standing import Standings
from gateway.mcp.aggregate.where import Where
from gateway.mcp.errors import INVALID_PARAMS
from gateway.mcp.lists import Could
from gateway.mcp.methods import LISTEN, SUBSCRIPTION_KEY
from gateway.mcp.streams import STREAM
from gateway.mcp.subscriptions import ACKNOWLEDGED, CHANGED
from gateway.model import Call, Refused
from gateway.pipeline import Stages
from gateway.reasons import Code

_MOST: Final = 1000


class Streams:
    """Opens them, and holds every open one against the policy of its time.

    seconds  how long one may stand; patience: how long each server has to begin its part.
    """

    def __init__(self, standings: Standings, fan: Fan, where: Where, known: Known, *, seconds: float, patience: float) -> None:
        self._standings = standings
        self._known = known
        self._looking: asyncio.Task[None] | None = None
        self._fan = fan
        self._where = where
        self._seconds = seconds
        self._patience = patience
        self._open: dict[Listening, Caller] = {}

    def __len__(self) -> int:
        return len(self._open)

    def enforce(self, stages: Stages, could: Could) -> None:
        """From now on by these: servers come and go, and whoever listens is told that lists changed."""
        for listening, caller in list(self._open.items()):
            now = replace(caller, stages=replace(stages, authenticate=caller.stages.authenticate), could=could)
            self._open[listening] = now
            listening.judged(now, self._fan.reachable(now))

    async def open(self, caller: Caller) -> AsyncGenerator[dict[str, Any] | None, None]:
        """Every message of the stream, in the client's words; None: that it stands.  In the stateless era the last one is the
        result, which ends it in good order.
        """
        rpc_id = caller.call.rpc_id
        wanted = await self._wanted(caller) if caller.call.method == LISTEN else Wanted(uris=_by_server(await self._note(caller)))
        listening = Listening(self._standings, caller, wanted, self._patience)
        self._open[listening] = caller
        loop = asyncio.get_running_loop()
        until = loop.time() + min(self._seconds, max(caller.principal.ends - caller.clock() / 1_000_000, 0))
        try:
            async with aclosing(listening.messages(self._fan.reachable(caller), until)) as messages:
                async for message in messages:
                    if rpc_id is not None and "honoured" in message:
                        message = {"method": ACKNOWLEDGED, "params": {"notifications": message["honoured"]}}  # noqa: PLW2901
                    yield None if "honoured" in message else _marked(message, rpc_id)
        finally:
            del self._open[listening]
        if rpc_id is not None:
            result = {"resultType": "complete", "_meta": {SUBSCRIPTION_KEY: rpc_id}}
            yield {"jsonrpc": "2.0", "id": rpc_id, "result": result}

    async def follow(self, caller: Caller, note: Note) -> None:
        """What this session subscribed to has changed, or it is over: its streams here go by that from now on."""
        for listening, whose in list(self._open.items()):
            if whose.call.method == STREAM and whose.session is not None and whose.session == caller.session:
                await _followed(listening, note)

    def look(self) -> None:
        """Something may have changed at another replica: the streams of sessions go by what is known now."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def aclose(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        for listening, caller in list(self._open.items()):
            if caller.call.method == STREAM and caller.session is not None:
                with suppress(Refused):  # of the store: at the next change
                    note = await self._note(caller)
                    await _followed(listening, note)
                    if note.over:
                        await self._standings.end(caller)

    async def _note(self, caller: Caller) -> Note:
        session = caller.call.arrival.header("mcp-session-id")
        return Note() if session is None else await self._known.of(session, caller.principal)

    async def _wanted(self, caller: Caller) -> Wanted:
        """What is asked for, by the servers that have it; what none has, or two have, is not honoured."""
        asked = caller.call.message["params"].get("notifications")
        if not isinstance(asked, dict):
            raise _bad(caller.call, "notifications")
        uris, tasks = asked.get("resourceSubscriptions", []), asked.get("taskIds", [])
        if not _texts(uris) or not _texts(tasks):
            raise _bad(caller.call, "resourceSubscriptions or taskIds")
        kinds = frozenset(kind for kind in CHANGED.values() if asked.get(kind) is True)
        mine: dict[str, list[str]] = {}
        for text in tasks:
            server = self._where.of_task(caller, text)
            if server:
                mine.setdefault(server, []).append(text)
        found = await self._where.of_all(caller, uris) if uris else {}
        return Wanted(
            kinds, {server: tuple(each) for server, each in found.items()}, {s: tuple(each) for s, each in mine.items()}
        )


async def _followed(listening: Listening, note: Note) -> None:
    if note.over:
        listening.end()
    else:
        await listening.want(_by_server(note))


def _by_server(note: Note) -> dict[str, tuple[str, ...]]:
    return {server: note.of(server) for server, _ in note.uris}


def _marked(message: Mapping[str, Any], rpc_id: str | int | None) -> dict[str, Any]:
    """A frame of a client's stream: under the client's own id, whatever the servers' streams are called."""
    params = message["params"]
    meta = {key: value for key, value in params.get("_meta", {}).items() if key != SUBSCRIPTION_KEY}
    if rpc_id is not None:
        meta[SUBSCRIPTION_KEY] = rpc_id
    bare = {key: value for key, value in params.items() if key != "_meta"}
    return {"jsonrpc": "2.0", "method": message["method"], "params": bare | ({"_meta": meta} if meta else {})}


def _texts(value: object) -> bool:
    return isinstance(value, list) and len(value) <= _MOST and all(isinstance(each, str) for each in value)


def _bad(call: Call, what: str) -> UnroutedError:
    return UnroutedError(Code.INVALID_PARAMS, what, rpc_code=INVALID_PARAMS, rpc_id=call.rpc_id)
