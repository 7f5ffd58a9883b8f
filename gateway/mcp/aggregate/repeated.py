"""Arguments that a stateless tool has headers repeat (SEP-2243), for clients of handshakes, which know no such headers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from gateway.mcp.aggregate.caller import Caller, Leg, Way
from gateway.mcp.aggregate.fan import Fan
from gateway.mcp.aggregate.standing import Standings
from gateway.mcp.aggregate.where import Place
from gateway.mcp.errors import HEADER_MISMATCH
from gateway.mcp.methods import LIST_TOOLS
from gateway.mcp.repeated import Repeats, repeats, written
from gateway.model import Refused, Reply
from gateway.reasons import Code

MOST: Final = 4096


class Repeated:
    """Writes them from the tool's definition as its mount shows it to the caller: asked for where the call was refused for its
    headers, which is before it was carried out, and remembered.
    """

    def __init__(self, standings: Standings, fan: Fan, most: int = MOST) -> None:
        self._standings = standings
        self._fan = fan
        self._most = most
        self._known: dict[tuple[str, str], Repeats] = {}

    async def carry(self, caller: Caller, leg: Leg, place: Place) -> AsyncGenerator[tuple[Reply, Way], None]:
        """As `Standings.carry`."""
        method, key = caller.call.method, (place.server, str(place.params["name"]))
        for again in (True, False):
            leg.lines = written(self._known.get(key, ()), caller.call.arguments or {})
            try:
                async with aclosing(self._standings.carry(caller, leg, method, place.params)) as replies:
                    async for reply, way in replies:
                        if again and way.modern and reply.is_final and _mismatch(reply):
                            break
                        yield reply, way
                    else:
                        return
            except Refused as refusal:
                if not again or refusal.code is not Code.HEADER_MISMATCH:
                    raise
            await self._learn(caller, key)

    async def _learn(self, caller: Caller, key: tuple[str, str]) -> None:
        listed = await self._fan.one_list(caller, Leg(key[0]), LIST_TOOLS, "tools", "name")
        schemas = [tool.get("inputSchema") for tool in listed.items if tool["name"] == key[1]]
        if len(self._known) >= self._most:
            self._known.clear()
        self._known[key] = (repeats(schemas[0]) if schemas else None) or ()


def _mismatch(reply: Reply) -> bool:
    error = reply.payload.get("error")
    return error is not None and error["code"] == HEADER_MISMATCH
