"""An MCP server that the gateway starts: one child a legacy session, each session one principal's, never shared.

Sessions live in this process; after a restart, or on another replica, a session is unknown and the client opens a new one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from gateway.mcp.answers import final_reply, notice
from gateway.mcp.child import Child
from gateway.mcp.errors import INVALID_REQUEST, UNSUPPORTED_VERSION
from gateway.mcp.hop import SESSION_HEADER
from gateway.mcp.methods import INITIALIZE, LEGACY, MODERN
from gateway.mcp.process import Started
from gateway.mcp.wire import onward
from gateway.model import Call, Intent, Principal, Reply, UpstreamError

_SWEEP_SECONDS = 30.0

_Owner = tuple[str, str, tuple[str, ...]]
Start = Callable[[Intent], Awaitable[Started]]
"""Starts the server for the session that this call opens; raises `UpstreamError` or `Refused`."""


class _Held:
    __slots__ = ("child", "owner")

    def __init__(self, child: Child, owner: _Owner) -> None:
        self.child = child
        self.owner = owner


class StdioServer:
    """The children of one configured command.

    name           of the server; start: how a child is started.
    keep_seconds   how long a child that nobody uses is kept.
    children       at most so many at once, of one principal at most `per_principal`; the longest unused one makes room.
    """

    def __init__(
        self,
        name: str,
        start: Start,
        *,
        silence: float = 300.0,
        line_bytes: int = 32 * 1024 * 1024,
        keep_seconds: float = 600.0,
        children: int = 64,
        per_principal: int = 8,
    ) -> None:
        self._name = name
        self._start = start
        self._silence = silence
        self._line_bytes = line_bytes
        self._keep = keep_seconds
        self._most = children
        self._most_of_one = per_principal
        self._held: dict[str, _Held] = {}
        self._starting = 0
        self._stopping: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    def running(self) -> int:
        """How many children stand, for metrics."""
        return len(self._held)

    async def aclose(self) -> None:
        """End every child; returns when all are gone."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for session in list(self._held):
            self._end(session)
        if self._stopping:
            await asyncio.wait(self._stopping)

    async def forward(self, intent: Intent) -> AsyncGenerator[Reply, None]:
        """Messages for this call, the last one final."""
        call, principal = intent.permit.call, intent.permit.principal
        if call.version in MODERN:
            yield _unsupported(call)
            return
        if call.method == INITIALIZE:
            replies = self._open(intent)
        else:
            held = self._held.get(call.session or "")
            if held is None or held.owner != _owner(principal) or not held.child.alive:
                yield _no_session(call)
                return
            replies = _exchange(held.child, call)
        async with aclosing(replies):
            async for reply in replies:
                yield reply

    async def _open(self, intent: Intent) -> AsyncGenerator[Reply, None]:
        call, principal = intent.permit.call, intent.permit.principal
        self._make_room(_owner(principal))
        self._starting += 1
        try:
            started = await self._start(intent)
        finally:
            self._starting -= 1
        child = Child(started, self._name, silence=self._silence, line_bytes=self._line_bytes)
        session = secrets.token_urlsafe(24)
        self._held[session] = _Held(child, _owner(principal))
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep())
        opened = False
        try:
            async with aclosing(_exchange(child, call)) as replies:
                async for reply in replies:
                    opened = reply.is_final and not reply.failed
                    headers = ((SESSION_HEADER, session),) if opened else ()
                    yield Reply(reply.payload, reply.is_final, status=reply.status, headers=headers, failed=reply.failed)
        finally:
            if not opened:
                self._end(session)

    def _make_room(self, owner: _Owner) -> None:
        self._reap()
        mine = [session for session, held in self._held.items() if held.owner == owner]
        if len(mine) >= self._most_of_one:
            self._evict(mine)
        if len(self._held) + self._starting >= self._most:
            self._evict(list(self._held))

    def _evict(self, among: list[str]) -> None:
        idle = [session for session in among if not self._held[session].child.busy]
        if not idle:
            raise UpstreamError("connect", "as many children run as may")
        self._end(min(idle, key=lambda session: self._held[session].child.last_used))

    def _reap(self) -> None:
        """Forget children that ended by themselves, end those that nobody uses any more."""
        now = asyncio.get_running_loop().time()
        for session, held in list(self._held.items()):
            child = held.child
            if not child.alive or (not child.busy and now - child.last_used > self._keep):
                self._end(session)

    def _end(self, session: str) -> None:
        held = self._held.pop(session, None)
        if held is None:
            return
        task = held.child.stop()
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _sweep(self) -> None:
        while self._held:
            await asyncio.sleep(min(self._keep, _SWEEP_SECONDS))
            self._reap()


def _owner(principal: Principal) -> _Owner:
    return principal.tenant, principal.subject, principal.actors


async def _exchange(child: Child, call: Call) -> AsyncGenerator[Reply, None]:
    message = onward(call)
    if call.rpc_id is None:
        child.notify(message)
        yield Reply(None, is_final=True, status=202)
        return
    async with aclosing(child.request(message)) as messages:
        async for said in messages:
            reply = notice(said) if "method" in said else final_reply(said, call, 200)
            if reply is not None:
                yield reply


def _unsupported(call: Call) -> Reply:
    data = {"supported": list(LEGACY), "requested": call.version}
    return _error(call, UNSUPPORTED_VERSION, "This server speaks the revisions with a handshake", 400, data)


def _no_session(call: Call) -> Reply:
    """Unknown to this process, or none at all: either way the client starts anew."""
    return _error(call, INVALID_REQUEST, "Session not found", 404 if call.session else 400)


def _error(call: Call, code: int, message: str, status: int, data: dict[str, Any] | None = None) -> Reply:
    error = {"code": code, "message": message} | ({"data": data} if data else {})
    return Reply({"jsonrpc": "2.0", "id": call.rpc_id, "error": error}, is_final=True, status=status, failed=True)
