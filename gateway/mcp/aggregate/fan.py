"""One question to every server that the caller may know of: side by side, each in its own time; what fails is left out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from gateway.mcp.aggregate.caller import Caller, Leg
from gateway.mcp.aggregate.standing import Standings, unasked
from gateway.mcp.errors import METHOD_NOT_FOUND
from gateway.model import Refused, UpstreamError
from gateway.reasons import Code

PAGES = 100
ITEMS = 2000
"""Of one server's list; what a server lists beyond that is not shown."""
PATIENCE = 5.0
"""Seconds that a server has for its part of a list; the others wait for none longer."""
IMPATIENCE = 0.5
"""Seconds for one that was late the last time, until it answers or a minute is over."""
_LATE_SECONDS = 60.0
_AT_ONCE = 32

_FOR_ALL = frozenset({Code.LEDGER_UNAVAILABLE, Code.REVOKED})
"""What befalls one sub-call because it would befall every one."""
_TOLD = frozenset({Code.CONSENT_REQUIRED, Code.CREDENTIAL_UNAVAILABLE, Code.INTERNAL_ERROR})
"""What a caller is told of a server that is left out; of any other refusal it may not know."""

T = TypeVar("T")
log = logging.getLogger("gateway.mcp")


@dataclass(slots=True)
class Gathered(Generic[T]):
    """What came of a question, by server in the order of their names; `missing` says why a server's part is not there.

    legs  by server, with the id of the last sub-call.
    """

    found: dict[str, T] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    legs: dict[str, Leg] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listed:
    """One server's list, all pages of it; `ttl` in milliseconds, the shortest of its pages'; `cut`: there is more of it."""

    items: tuple[dict[str, Any], ...] = ()
    ttl: int = 0
    cut: bool = False


class Fan:
    """Asks many servers at once."""

    def __init__(self, standings: Standings, servers: Iterable[str], patience: float = PATIENCE) -> None:
        self._standings = standings
        self._servers = tuple(sorted(servers))
        self._patience = patience
        self._late: dict[str, float] = {}
        self._out: set[str] = set()

    def reachable(self, caller: Caller) -> tuple[str, ...]:
        """The servers that the caller may know of, by the judge that decides."""
        return tuple(server for server in self._servers if caller.could(caller.principal, server))

    async def every(
        self, caller: Caller, ask: Callable[[Leg], Awaitable[T]], servers: Iterable[str] | None = None
    ) -> Gathered[T]:
        """What `ask` gives for each of `servers` (all that are reachable); a refusal that concerns every call is raised."""
        asked = self.reachable(caller) if servers is None else tuple(servers)
        slots, ends = asyncio.Semaphore(_AT_ONCE), dict[str, T | UpstreamError | Refused]()
        gathered: Gathered[T] = Gathered(legs={server: Leg(server) for server in asked})

        async def one(server: str) -> None:
            async with slots:
                try:
                    ends[server] = await self._in_time(gathered.legs[server], ask)
                except (UpstreamError, Refused) as error:
                    ends[server] = error

        if len(asked) == 1:
            await one(asked[0])
        else:
            async with asyncio.TaskGroup() as group:
                for server in asked:
                    group.create_task(one(server))
        for server in asked:
            end = ends[server]
            self._told(server, end)
            if isinstance(end, UpstreamError):
                gathered.missing[server] = f"upstream-{end.kind}"
            elif not isinstance(end, Refused):
                gathered.found[server] = end
            elif end.code in _FOR_ALL:
                raise end
            elif end.code in _TOLD:
                gathered.missing[server] = end.code.value
        return gathered

    def _told(self, server: str, end: object) -> None:
        """In the log, when a server falls out of lists, and when it is back."""
        if isinstance(end, UpstreamError) and server not in self._out:
            self._out.add(server)
            log.warning("the server %s is left out of /mcp: %s", server, end)
        elif not isinstance(end, UpstreamError | Refused) and server in self._out:
            self._out.discard(server)
            log.info("the server %s is in /mcp again", server)

    async def _in_time(self, leg: Leg, ask: Callable[[Leg], Awaitable[T]]) -> T:
        loop, server = asyncio.get_running_loop(), leg.server
        late = self._late.get(server, 0.0) > loop.time()
        try:
            async with asyncio.timeout(min(IMPATIENCE, self._patience) if late else self._patience):
                answer = await ask(leg)
        except TimeoutError:
            if not late:
                self._late[server] = loop.time() + _LATE_SECONDS
            raise UpstreamError("timeout") from None
        self._late.pop(server, None)
        return answer

    async def lists(
        self, caller: Caller, method: str, member: str, key: str, servers: Iterable[str] | None = None
    ) -> Gathered[Listed]:
        """Every server's list: `member` of the results of `method`, whose items are told apart by `key`."""
        return await self.every(caller, lambda leg: self.drained(caller, leg, method, member, key), servers)

    async def one_list(self, caller: Caller, leg: Leg, method: str, member: str, key: str) -> Listed:
        """One server's list, or the exception that kept it away."""
        return await self._in_time(leg, lambda own: self.drained(caller, own, method, member, key))

    async def drained(self, caller: Caller, leg: Leg, method: str, member: str, key: str) -> Listed:
        """All pages of one server's list, in as much time as they take."""
        found: dict[str, dict[str, Any]] = {}
        ttls: list[int] = []
        cursor: str | None = None
        for _ in range(PAGES):
            result = await self._page(caller, leg, method, cursor)
            if result is None:
                return Listed()
            page, before = result.get(member), len(found)
            if not isinstance(page, list):
                raise UpstreamError("protocol", "not a list")
            for item in page:
                if not isinstance(item, dict) or not isinstance(item.get(key), str):
                    raise UpstreamError("protocol", "not an item of a list")
                found.setdefault(item[key], item)
            ttl, cursor = result.get("ttlMs"), result.get("nextCursor")
            ttls.append(ttl if isinstance(ttl, int) else 0)
            if cursor is None or len(found) >= ITEMS:
                cut = len(found) > ITEMS or cursor is not None
                return Listed(tuple(found.values())[:ITEMS], min(ttls), cut)
            if not isinstance(cursor, str) or (page and len(found) == before):
                raise UpstreamError("protocol", "the pages go round in circles")
        raise UpstreamError("protocol", "too many pages")

    async def _page(self, caller: Caller, leg: Leg, method: str, cursor: str | None) -> dict[str, Any] | None:
        """One page; None where the server has no such list."""
        params = {} if cursor is None else {"cursor": cursor}
        async with aclosing(self._standings.carry(caller, leg, method, params)) as replies:
            async for reply, way in replies:
                if not reply.is_final and reply.payload is not None and "id" in reply.payload:
                    await unasked(caller, leg, way, reply.payload["id"])
                if reply.is_final:
                    error = reply.payload.get("error")
                    if error is None:
                        result: dict[str, Any] = reply.payload["result"]
                        return result
                    if error["code"] == METHOD_NOT_FOUND:
                        return None
                    raise UpstreamError("protocol", f"error {error['code']}")
        raise UpstreamError("closed", "no answer")  # pragma: no cover  `govern` ends with a final message or raises
