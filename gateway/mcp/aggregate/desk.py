"""What each method of the aggregate does: answered here, asked of all servers, or carried to the one that it names.

A row for each; what has none is unknown here.  A name that leads nowhere goes down the road all the same, to be refused there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from gateway.mcp.aggregate import bridge, merge
from gateway.mcp.aggregate.caller import Caller, Leg, Way, sent
from gateway.mcp.aggregate.fan import Fan
from gateway.mcp.aggregate.naming import Names
from gateway.mcp.aggregate.standing import Standings
from gateway.mcp.errors import RpcRefused
from gateway.mcp.methods import CALL_TOOL, CANCELLED, DISCOVER, INITIALIZE, INITIALIZED, LEGACY, LIST_TOOLS, MODERN, PING
from gateway.model import Call, Reply
from gateway.reasons import Code

SERVED: Final = (*MODERN, *LEGACY[:3])
"""Revisions; 2024-11-05 is another transport."""
_STATELESS: Final = Way(modern=True, version=MODERN[0])


@dataclass(frozen=True, slots=True)
class Said:
    """One message to the client; None is an empty answer."""

    message: dict[str, Any] | None
    is_final: bool = True
    status: int = 200


class Desk:
    """Serves one request after another, many at once."""

    def __init__(self, standings: Standings, fan: Fan, names: Names) -> None:
        self._standings = standings
        self._fan = fan
        self._names = names
        self._here: Mapping[str, Callable[[Caller], Awaitable[dict[str, Any]]]] = {
            INITIALIZE: self._initialized,
            DISCOVER: self._discovered,
            PING: _nothing,
            LIST_TOOLS: self._tools,
        }

    def check(self, call: Call) -> None:
        """`RpcRefused` for what is not served here, before anybody is asked anything."""
        if call.rpc_id is None:
            known = call.method in {INITIALIZED, CANCELLED}
        else:
            known = call.method in self._here or call.method == CALL_TOOL
        if not known:
            raise RpcRefused(Code.UNKNOWN_METHOD, call.method, rpc_id=call.rpc_id)
        if call.method == LIST_TOOLS and "cursor" in call.message["params"]:  # every list is one page: it is none of ours
            raise RpcRefused(Code.INVALID_PARAMS, "cursor", rpc_id=call.rpc_id)

    async def serve(self, caller: Caller, leg: Leg) -> AsyncGenerator[Said, None]:
        """Every message to the client, the last one final.  `leg` is where a refusal or a failure happened."""
        call = caller.call
        if call.rpc_id is None:
            yield Said(None, status=202)
            return
        here = self._here.get(call.method)
        if here is not None:
            result = merge.ours(await here(caller), call.method, modern=caller.modern)
            yield Said({"jsonrpc": "2.0", "id": call.rpc_id, "result": result})
        else:
            async with aclosing(self._called(caller, leg)) as messages:
                async for said in messages:
                    yield said

    async def _initialized(self, caller: Caller) -> dict[str, Any]:
        version = caller.call.version
        offered = merge.offered(await self._fan.every(caller, lambda leg: self._standings.offer(caller, leg)))
        chosen = version if version in SERVED else LEGACY[0]
        return {"protocolVersion": chosen, "serverInfo": merge.SERVER_INFO, **offered}

    async def _discovered(self, caller: Caller) -> dict[str, Any]:
        offered = merge.offered(await self._fan.every(caller, lambda leg: self._standings.offer(caller, leg)))
        return {"supportedVersions": list(SERVED), **offered}

    async def _tools(self, caller: Caller) -> dict[str, Any]:
        return merge.named(await self._fan.lists(caller, LIST_TOOLS, "tools", "name"), "tools", self._names)

    async def _called(self, caller: Caller, leg: Leg) -> AsyncGenerator[Said, None]:
        shown = caller.call.name or ""
        leg.server, own = await self._found(caller, shown, leg, LIST_TOOLS, "tools")
        params = {**caller.call.message["params"], "name": own or shown}
        may = bool(leg.server) and caller.could(caller.principal, f"{leg.server}.{own}")
        async with aclosing(self._carried(caller, leg, params, may=may)) as messages:
            async for said in messages:
                yield said

    async def _found(self, caller: Caller, shown: str, leg: Leg, method: str, member: str) -> tuple[str, str]:
        """(server, own name) of what is shown so; ("", "") where nothing is."""
        server, own = self._names.server(shown), self._names.name(shown)
        if own or not self._names.digested(shown) or not caller.could(caller.principal, server):
            return (server, own) if own else ("", "")
        leg.server = server  # whose list is needed
        listed = await self._fan.one_list(caller, server, method, member, "name")
        own = self._names.of(server, (item["name"] for item in listed.items)).get(shown, "")
        return (server, own) if own else ("", "")

    async def _carried(self, caller: Caller, leg: Leg, params: Mapping[str, Any], *, may: bool) -> AsyncGenerator[Said, None]:
        """What the one server says, in the client's era and under the client's id.

        What the caller could never do is refused on the road before the server is asked even how it speaks: so nobody learns of
        a server, by its faults or by its pace, who may not know of it.
        """
        call = caller.call
        carried = self._standings.carry(caller, leg, call.method, params) if may else _unasked(caller, leg, params)
        async with aclosing(carried) as replies:
            async for reply, way in replies:
                if reply.is_final:
                    message, status = bridge.answered(reply.payload, call, modern=caller.modern, upstream_modern=way.modern)
                    yield Said(message, status=status)
                elif bridge.passes(reply.payload, call, modern=caller.modern):
                    yield Said(reply.payload, is_final=False)


async def _unasked(caller: Caller, leg: Leg, params: Mapping[str, Any]) -> AsyncGenerator[tuple[Reply, Way], None]:
    async with aclosing(sent(caller, leg, _STATELESS, caller.call.method, params, caller.call.rpc_id)) as replies:
        async for reply in replies:
            yield reply, _STATELESS


async def _nothing(_caller: Caller) -> dict[str, Any]:
    return {}
