"""How each server is spoken to: its era, found by asking and kept, and the sessions that are held open for callers.

Sessions belong to one principal at one server and to this process: another replica opens its own.  A client that can be asked has
one of its own, so that a question reaches whose call it belongs to; clients without sessions share one, if they can be asked the
same.  Nothing here decides; a session's id is sealed by the mount and opens for its principal alone.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from itertools import count
from typing import Any

from gateway.mcp.aggregate.caller import Caller, Leg, Way, answering, sent, without_body
from gateway.mcp.aggregate.resuming import whole
from gateway.mcp.errors import INVALID_REQUEST, METHOD_NOT_FOUND, UNSUPPORTED_VERSION
from gateway.mcp.hop import SESSION_HEADER
from gateway.mcp.methods import CANCELLED, DISCOVER, INITIALIZE, INITIALIZED, LEGACY, MODERN
from gateway.mcp.questions import declaring
from gateway.mcp.streams import END
from gateway.model import Refused, Reply, UpstreamError
from gateway.reasons import Code
from gateway.settings_outbound import Era
from policies.model import NOTHING

ERA_SECONDS = 3600.0
"""How long a server counts as one of the era of handshakes before it is asked anew: it may have learned."""
SESSION_SECONDS = 600.0
"""How long a session that nobody uses is kept."""
_END_SECONDS = 1.0
USERS = 256
"""Clients' sessions that are told apart of those that share one at a server; with more it lasts its own time."""
STANDINGS = 4096
"""Sessions and offers that are kept at once; the one unused longest makes room."""
_NOT_TAKEN = frozenset({"400", "404", "405", "406", "415"})
"""What a server of handshakes says in HTTP to a stateless request, where it says nothing in JSON-RPC."""
_US = {"name": "bailiwick", "version": "1"}
STATELESS = Way(modern=True, version=MODERN[0])
"""How every server of the stateless era is spoken to."""


class _Standing:
    """What is known of one server for one principal."""

    __slots__ = ("lock", "numbers", "until", "users", "way")

    def __init__(self) -> None:
        self.users: set[object] = set()  # the clients' own sessions for which it is held; None: somebody's who has none
        self.lock = asyncio.Lock()
        self.way: Way | None = None
        self.until = 0.0
        self.numbers = count(1)  # of requests in a session: its clients' own ids may be alike


class Standings:
    """Eras of all servers, and sessions of all callers, as far as this process knows them."""

    def __init__(self, eras: Mapping[str, Era], *, most: int = STANDINGS) -> None:
        """`eras` as configured, by server."""
        self._fixed = {server: era for server, era in eras.items() if era != "auto"}
        self._found: dict[str, tuple[bool, float]] = {}
        self._held: OrderedDict[tuple[object, ...], _Standing] = OrderedDict()
        self._most = most

    def forget_offers(self) -> None:
        """Policy has changed, and with it what servers may offer: what they said is asked anew.  Sessions stay."""
        for standing in self._held.values():
            if standing.way is not None and standing.way.modern:
                standing.until = 0.0

    def held(self) -> int:
        """How many are kept, for metrics."""
        return len(self._held)

    async def stateless(self, caller: Caller, leg: Leg) -> bool:
        """Whether the server speaks the stateless era."""
        return (await self._way(caller, leg))[0].modern

    def is_stateless(self, server: str) -> bool:
        """Whether the server is known to speak the stateless era."""
        return self._fixed.get(server) == "modern" or self._found.get(server, (False, 0.0))[0]

    async def session(self, caller: Caller, leg: Leg) -> Way:
        """A session that is nobody else's, in which nobody is asked anything: whoever asked for it ends it."""
        return await self._initialized(caller, leg, _Standing(), {})

    async def offer(self, caller: Caller, leg: Leg) -> Mapping[str, Any]:
        """What the server says of itself: the result of its `server/discover` or `initialize`, for this caller."""
        return (await self._stand(caller, leg)).offer or {}

    async def carry(
        self, caller: Caller, leg: Leg, method: str, params: Mapping[str, Any]
    ) -> AsyncGenerator[tuple[Reply, Way], None]:
        """One request to the server, in its own era; it is sent again where the server says that it was not carried out,
        because the session has ended or the server now speaks the other era.  The last reply is final.
        """
        for again in (True, False):
            way, rpc_id = leg.way, leg.rpc_id = await self._way(caller, leg)
            try:
                async with aclosing(whole(caller, leg, way, sent(caller, leg, way, method, params, rpc_id))) as replies:
                    async for reply in replies:
                        if again and reply.is_final and await self._outdated(caller, leg, way, reply):
                            break
                        yield reply, way
                    else:
                        return
            except (UpstreamError, Refused) as error:
                if not again or not way.session or not _session_lost(error):
                    raise
            self._drop(caller, leg.server, way)

    async def _way(self, caller: Caller, leg: Leg) -> tuple[Way, str | int]:
        own: str | int = caller.call.rpc_id if caller.call.rpc_id is not None else 0
        own = f"again-{leg.again}" if leg.again else own  # a request of its own, to the server
        if self.is_stateless(leg.server):
            return STATELESS, own
        way = await self._stand(caller, leg)
        return way, own if way.modern else next(self._standing(caller, leg.server).numbers)

    async def _stand(self, caller: Caller, leg: Leg) -> Way:
        standing = self._standing(caller, leg.server)
        async with standing.lock:
            now = asyncio.get_running_loop().time()
            if standing.way is None or standing.until < now:
                old, standing.way = standing.way, None
                if old is not None and old.session:
                    await self._ended(caller, leg, old)
                standing.way = await self._opened(caller, leg, standing)
            if not standing.way.modern:
                standing.until = asyncio.get_running_loop().time() + SESSION_SECONDS
            return standing.way

    async def end(self, caller: Caller) -> None:
        """The client's session is over, and so are sessions at servers that are held for no other client."""
        mine = [
            key
            for key, standing in self._held.items()
            if key[1:4] == caller.whose and caller.session in (standing.users or {caller.session})
        ]
        over = []
        for key in mine:
            standing = self._held[key]
            standing.users.discard(caller.session)
            if not standing.users:
                del self._held[key]
                if standing.way is not None and standing.way.session:
                    over.append(self._ended(caller, Leg(str(key[0])), standing.way))
        await asyncio.gather(*over)

    async def _ended(self, caller: Caller, leg: Leg, way: Way) -> None:
        """Give a session up that nobody has used for long; the server may say what it likes."""
        with suppress(UpstreamError, Refused, TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await final(without_body(caller, leg, way, END))

    def _standing(self, caller: Caller, server: str) -> _Standing:
        asks = caller.asks
        key = (server, *caller.whose, (caller.session or asks) if asks else None)
        standing = self._held.get(key)
        if standing is None:
            standing = self._held[key] = _Standing()
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        if caller.modern or caller.call.method != INITIALIZE:  # which is of a session that is yet to be
            standing.users.add(caller.session if len(standing.users) < USERS else None)
        return standing

    def _drop(self, caller: Caller, server: str, way: Way) -> None:
        standing = self._standing(caller, server)
        if standing.way is way or way is STATELESS:  # else somebody opened another meanwhile
            standing.way = None

    async def _opened(self, caller: Caller, leg: Leg, standing: _Standing) -> Way:
        fixed, now = self._fixed.get(leg.server), asyncio.get_running_loop().time()
        modern, until = self._found.get(leg.server, (None, 0.0))
        if fixed != "legacy" and (modern is not False or until < now):
            offer = await self._discovered(caller, leg)
            if offer is not None:
                self._found[leg.server] = True, 0.0
                standing.until = asyncio.get_running_loop().time() + offer.get("ttlMs", 0) / 1000
                return Way(True, MODERN[0], offer=offer)
            if fixed == "modern":
                raise UpstreamError("protocol", "the server does not speak the stateless era, as it is configured to")
            self._found.pop(leg.server, None)
        way = await self._initialized(caller, leg, standing, declaring(caller.asks))
        if leg.server not in self._found:
            self._found[leg.server] = False, now + ERA_SECONDS
        return way

    async def _discovered(self, caller: Caller, leg: Leg) -> Mapping[str, Any] | None:
        """What the server offers statelessly; None where it does not know what it is asked."""
        try:
            reply = await final(sent(caller, leg, STATELESS, DISCOVER, {}, 0))
        except UpstreamError as error:
            if error.kind == "protocol" or (error.kind == "status" and error.detail in _NOT_TAKEN):
                return None  # some answer anything with something
            raise
        result: Mapping[str, Any] | None = reply.payload.get("result")
        return result if result is not None and MODERN[0] in result["supportedVersions"] else None

    async def _initialized(self, caller: Caller, leg: Leg, standing: _Standing, declared: Mapping[str, Any]) -> Way:
        params = {"protocolVersion": LEGACY[0], "capabilities": declared, "clientInfo": _US}
        reply = await final(sent(caller, leg, Way(False, ""), INITIALIZE, params, next(standing.numbers)))
        result = reply.payload.get("result")
        if result is None:
            raise UpstreamError("protocol", "the server opens no session")
        session = dict(reply.headers).get(SESSION_HEADER, "")
        way = Way(False, result["protocolVersion"], session, result)
        await final(sent(caller, leg, way, INITIALIZED, {}, None))
        return way

    async def _outdated(self, caller: Caller, leg: Leg, way: Way, reply: Reply) -> bool:
        """Whether the server has not carried out the request because it does not know this way of speaking any more."""
        error = reply.payload.get("error") if reply.payload is not None else None
        if error is None:
            return False
        if not way.modern:
            return reply.status == 404 or (reply.status == 400 and error["code"] == INVALID_REQUEST)
        if self._fixed.get(leg.server) == "modern" or error["code"] not in {UNSUPPORTED_VERSION, INVALID_REQUEST}:
            return False
        if await self._discovered(caller, leg) is not None:
            return False
        self._found.pop(leg.server, None)
        return True


def _session_lost(error: UpstreamError | Refused) -> bool:
    if isinstance(error, Refused):
        return error.code is Code.UNKNOWN_SESSION  # the mount's seal has run out
    return error.kind == "status" and error.detail == "404"


async def final(replies: AsyncGenerator[Reply, None]) -> Reply:
    """The last word; what is said on the way is nobody's."""
    async with aclosing(replies):
        async for reply in replies:
            if reply.is_final:
                return reply
    raise UpstreamError("closed", "no answer")  # pragma: no cover  `govern` ends with a final message or raises


async def cancelled(caller: Caller, leg: Leg, said: Mapping[str, Any] = NOTHING) -> None:
    """Tell a server with sessions that nobody waits for its answer any more; whatever it says to that, the request ends."""
    way = leg.way
    if way is not None and not way.modern:
        with suppress(Refused, UpstreamError, TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await final(sent(caller, Leg(leg.server), way, CANCELLED, {**said, "requestId": leg.rpc_id}, None))


async def unasked(caller: Caller, leg: Leg, way: Way, rpc_id: str | int) -> None:
    """Tell a server that its question goes to nobody: the client asked for something during which it can be asked nothing."""
    error = {"code": METHOD_NOT_FOUND, "message": "Nobody can be asked during this request"}
    with suppress(Refused, UpstreamError):
        await final(answering(caller, Leg(leg.server), way, {"jsonrpc": "2.0", "id": rpc_id, "error": error}))
