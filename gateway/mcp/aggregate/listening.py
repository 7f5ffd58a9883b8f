"""One stream of notices for a client, made of one at each server: what changed there, and what policy changed.

A server that falls silent takes nothing from the others; when it is back, its lists count as changed.  Notices that wait for a
slow client are kept once each, so that they are bounded by what was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final, TypeVar

import msgspec

from gateway.mcp.aggregate.caller import Caller, Leg, Way, sent, without_body
from gateway.mcp.aggregate.standing import STATELESS, Standings, final
from gateway.mcp.methods import LISTEN, SUBSCRIBE, UNSUBSCRIBE
from gateway.mcp.streams import END, STREAM
from gateway.mcp.subscriptions import ACKNOWLEDGED, CHANGED, TASKS, UPDATED
from gateway.model import Refused, UpstreamError
from gateway.reasons import Code
from policies import uri as uris

AGAIN_SECONDS: Final = (1.0, 30.0)
"""The first and the longest wait before a server that ended its stream is asked for another."""
T = TypeVar("T")
_KEPT: Final = 64
"""Notices about tasks that wait for a slow client."""


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """What a client asks to be told of: kinds of lists; resources and tasks by the server that has them."""

    lists: frozenset[str] = frozenset(CHANGED.values())
    uris: Mapping[str, tuple[str, ...]] = {}
    tasks: Mapping[str, tuple[str, ...]] = {}

    def of(self, server: str) -> dict[str, Any]:
        """As one server is asked."""
        said: dict[str, Any] = {kind: True for kind in CHANGED.values() if kind in self.lists}
        for member, found in (("resourceSubscriptions", self.uris), ("taskIds", self.tasks)):
            if server in found:
                said[member] = list(found[server])
        return said


class Listening:
    """An open stream.  `messages` gives what is said; everything it holds ends with that."""

    def __init__(self, standings: Standings, caller: Caller, wanted: Wanted, patience: float) -> None:
        self._standings = standings
        self._caller = caller
        self._wanted = wanted
        self._patience = patience
        self._pumps: dict[str, asyncio.Task[None]] = {}
        self._settled: dict[str, asyncio.Event] = {}
        self._ways: dict[str, Way] = {}  # sessions in which it listens now
        self._honoured: dict[str, dict[str, Any]] = {}
        self._waiting: dict[tuple[str, ...], dict[str, Any]] = {}
        self._woken = asyncio.Event()
        self._error: Refused | None = None
        self._over = False
        self._ending: list[asyncio.Task[None]] = []

    async def messages(self, servers: Iterable[str], until: float) -> AsyncGenerator[dict[str, Any], None]:
        """What is honoured, as {"honoured": …}; then every notice; ends `until` (of the loop's clock) or with the authority."""
        self.judged(self._caller, servers, begun=False)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    for settled in list(self._settled.values()):
                        await settled.wait()
            yield {"honoured": self._told()}
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        await self._woken.wait()
                self._woken.clear()
                while self._waiting:
                    yield self._waiting.pop(next(iter(self._waiting)))
                if self._error is not None:
                    raise self._error
                if self._over or asyncio.get_running_loop().time() >= until:
                    return
        finally:
            self._ending += self._pumps.values()
            for pump in self._ending:
                pump.cancel()
            await asyncio.gather(*self._ending, return_exceptions=True)

    def judged(self, caller: Caller, servers: Iterable[str], *, begun: bool = True) -> None:
        """Listen to these servers, by the policy that `caller` has now: to new ones as well, to others no more."""
        self._caller = caller
        now = frozenset(servers)
        standing = {server for server, pump in self._pumps.items() if not pump.done()}
        for server in sorted(now - standing):
            if not self._wanted.of(server):
                continue
            self._begin(server, deaf=begun)
        for server in self._pumps.keys() - now:
            pump = self._pumps.pop(server)
            pump.cancel()
            self._ending.append(pump)
            self._honoured.pop(server, None)
            self._settled.pop(server).set()
            self._changed()

    async def want(self, addresses: Mapping[str, tuple[str, ...]]) -> None:
        """Listen to these resources from now on, as soon as each server has said so; nothing is missed meanwhile."""
        before, self._wanted = self._wanted.uris, msgspec.structs.replace(self._wanted, uris=addresses)
        waiting = []
        for server in self._pumps.keys() & {each for each in {*before, *addresses} if before.get(each) != addresses.get(each)}:
            way = self._ways.get(server)
            if way is not None:
                waiting.append(self._moved(Leg(server), way, before.get(server, ()), addresses.get(server, ())))
            else:
                old, settled = self._pumps[server], self._begin(server, deaf=False)
                waiting.append(self._replaced(old, settled))
        await asyncio.gather(*waiting)

    async def _moved(self, leg: Leg, way: Way, before: tuple[str, ...], after: tuple[str, ...]) -> None:
        """In the session in which it listens."""
        with suppress(UpstreamError, Refused):
            for number, uri in enumerate(uri for uri in after if uri not in before):
                await self._soon(self._subscribed(leg, way, uri, f"subscribe-{number}"))
            for number, uri in enumerate(uri for uri in before if uri not in after):
                await self._soon(final(sent(self._caller, leg, way, UNSUBSCRIBE, {"uri": uri}, f"unsubscribe-{number}")))

    async def _replaced(self, old: asyncio.Task[None], settled: asyncio.Event) -> None:
        """By another stream, which begins before the one ends."""
        with suppress(UpstreamError):
            await self._soon(settled.wait())
        old.cancel()
        self._ending.append(old)

    def end(self) -> None:
        """Its session is over."""
        self._over = True
        self._woken.set()

    def _begin(self, server: str, *, deaf: bool) -> asyncio.Event:
        settled = self._settled[server] = asyncio.Event()
        self._pumps[server] = asyncio.create_task(self._pump(server, settled, deaf=deaf))
        return settled

    def _told(self) -> dict[str, Any]:
        """The honoured part of what was asked for; lists always are, since policy changes them too."""
        said: dict[str, Any] = {kind: True for kind in CHANGED.values() if kind in self._wanted.lists}
        for member in ("resourceSubscriptions", "taskIds"):
            every = [one for honoured in self._honoured.values() for one in honoured.get(member, ())]
            said |= {member: every} if every else {}
        return said

    def _changed(self, kinds: Iterable[str] = CHANGED) -> None:
        for method in kinds:
            if CHANGED[method] in self._wanted.lists:
                self._waiting[(method,)] = {"method": method, "params": {}}
        self._woken.set()

    async def _pump(self, server: str, settled: asyncio.Event, *, deaf: bool) -> None:
        """Listen to one server, again whenever it ends; `deaf`: something may have changed unheard."""
        wait, longest = AGAIN_SECONDS
        while True:
            try:
                async for what in self._heard(server):
                    if what == ACKNOWLEDGED:
                        if deaf:
                            self._changed()
                        deaf, wait = True, AGAIN_SECONDS[0]
                        settled.set()
            except UpstreamError as error:
                if error.kind == "status" and error.detail == "405":
                    return settled.set()  # it has no notices
            except Refused as refusal:
                settled.set()
                self._honoured.pop(server, None)
                if refusal.code in {Code.REVOKED, Code.LEDGER_UNAVAILABLE}:
                    self._error = refusal
                    self._woken.set()
                else:
                    self._changed()  # it went out of sight
                return None
            settled.set()
            await asyncio.sleep(wait)
            wait = min(wait * 2, longest)

    async def _heard(self, server: str) -> AsyncGenerator[str, None]:
        """Names of the notices that were taken, the acknowledgement first."""
        leg = Leg(server)
        modern = await self._soon(self._standings.stateless(self._caller, leg))
        async with aclosing(self._stateless(leg) if modern else self._in_session(leg)) as notices:
            async for notice in notices:
                self._take(server, notice)
                yield notice["method"]

    def _take(self, server: str, notice: dict[str, Any]) -> None:
        method, params = notice["method"], notice.get("params", {})
        if method == ACKNOWLEDGED:
            self._honoured[server] = params["notifications"]
        elif method in CHANGED:
            self._changed((method,))
        elif method == UPDATED:
            mine, said = self._wanted.uris.get(server, ()), str(params.get("uri"))
            uri = said if said in mine else {uris.form_of(each): each for each in mine}.get(uris.form_of(said))
            if uri is not None:  # else nobody here asked for it
                self._waiting[method, server, uri] = {"method": method, "params": {**params, "uri": uri}}
        elif method == TASKS and sum(key[0] == TASKS for key in self._waiting) < _KEPT:
            self._waiting[method, server, str(params.get("taskId"))] = {"method": method, "params": params}
        self._woken.set()

    async def _stateless(self, leg: Leg) -> AsyncGenerator[dict[str, Any], None]:
        params = {"notifications": self._wanted.of(leg.server)}
        async with aclosing(sent(self._caller, leg, STATELESS, LISTEN, params, leg.server)) as replies:
            async for reply in replies:
                if not reply.is_final and isinstance(reply.payload, dict):
                    yield reply.payload
                elif reply.is_final and "error" in reply.payload:
                    raise UpstreamError("status", "405")  # it knows no such method, or has no notices

    async def _in_session(self, leg: Leg) -> AsyncGenerator[dict[str, Any], None]:
        """A session of the stream's own: whoever else speaks with the server for this caller is not told of its resources."""
        way = await self._soon(self._standings.session(self._caller, leg))
        try:
            asked = self._wanted.uris.get(leg.server, ())
            known = [
                uri for number, uri in enumerate(asked) if await self._soon(self._subscribed(leg, way, uri, f"first-{number}"))
            ]
            honoured: dict[str, Any] | None = {"resourceSubscriptions": known} if known else {}
            async with aclosing(without_body(self._caller, leg, way, STREAM)) as replies:
                async for reply in replies:
                    if honoured is not None:  # the first word is that the stream stands
                        self._ways[leg.server] = way
                        yield {"method": ACKNOWLEDGED, "params": {"notifications": honoured}}
                        honoured = None
                    if not reply.is_final and isinstance(reply.payload, dict) and "id" not in reply.payload:
                        yield reply.payload
        finally:
            if self._ways.get(leg.server) is way:
                del self._ways[leg.server]
            with suppress(UpstreamError, Refused):
                await self._soon(final(without_body(self._caller, leg, way, END)))

    async def _soon(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._patience):
                return await work
        except TimeoutError:
            raise UpstreamError("timeout") from None

    async def _subscribed(self, leg: Leg, way: Way, uri: str, rpc_id: str) -> bool:
        try:
            reply = await final(sent(self._caller, leg, way, SUBSCRIBE, {"uri": uri}, rpc_id))
        except Refused:
            return False
        return "result" in reply.payload
