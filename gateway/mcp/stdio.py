"""An MCP server that the gateway starts.  Calls of the stateless era share a child; a session of the other has one, or shares it.

Sessions live in this process; after a restart, or on another replica, a session is unknown and the client opens a new one.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from gateway.mcp.answers import final_reply, notice
from gateway.mcp.child import Child
from gateway.mcp.crew import Crew, Key, Member, Owner, Sharing, Start, Terms, key_of, owner_of, personal
from gateway.mcp.eras import OURS, OtherEraError, discovered, initialized
from gateway.mcp.errors import INVALID_REQUEST, UNSUPPORTED_VERSION
from gateway.mcp.hop import SESSION_HEADER
from gateway.mcp.methods import INITIALIZE, INITIALIZED, LEGACY, MODERN
from gateway.mcp.wire import onward
from gateway.model import Call, Intent, Reply, UpstreamError

log = logging.getLogger("gateway.mcp")

_SESSIONS: Final = 4096
"""Most sessions of one server; whoever has been longest unused goes."""


@dataclass(slots=True)
class _Session:
    owner: Owner
    member: Member


class StdioServer:
    """The children of one configured command.

    name   of the server; start: how a child is started.
    terms  how they are kept; any field of it may be given by itself instead.
    """

    def __init__(self, name: str, start: Start, terms: Terms | None = None, **options: Any) -> None:
        self.name = name
        self._start = start
        self._terms = terms or Terms(**options)
        self._first = min(self._terms.start_seconds, self._terms.silence)
        self.crew = Crew(name, start, self._terms, self._left)
        self._era: str = self._terms.era  # as far as it is known by now
        self._finding = asyncio.Lock()
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def running(self) -> int:
        """How many children stand, for metrics."""
        return len(self.crew)

    def forget(self) -> None:
        """Find out anew which eras the server speaks."""
        self._era = self._terms.era

    async def aclose(self) -> None:
        """End every child; returns when all are gone."""
        await self.crew.aclose()

    async def leave(self, subject: str) -> None:
        """End every child that is this person's alone; returns when they are gone."""
        await self.crew.ended(lambda key: subject in personal(key))

    async def forward(self, intent: Intent) -> AsyncGenerator[Reply, None]:
        """Messages for this call, the last one final."""
        call = intent.permit.call
        if call.version in MODERN:
            replies = self._stateless(intent)
        elif call.method == INITIALIZE:
            replies = self._open(intent)
        else:
            replies = self._within(intent)
        async with aclosing(replies):
            async for reply in replies:
                yield reply

    # -- the stateless era -----------------------------------------------------------------------------------------------------

    async def _stateless(self, intent: Intent) -> AsyncGenerator[Reply, None]:
        call = intent.permit.call
        member = await self._modern(intent)
        if member is None:
            yield _unsupported(call, LEGACY)
            return
        async with aclosing(_exchange(member.child, call)) as replies:
            async for reply in replies:
                yield reply

    async def _modern(self, intent: Intent) -> Member | None:
        """The child for this call; None where the server speaks the other era alone."""
        if self._era == "auto":
            async with self._finding:  # whoever comes meanwhile waits for what is found
                if self._era == "auto":
                    return await self._found_out(intent)
        if self._era == "legacy":
            return None
        key, owner = self._modern_key(intent)
        if self._terms.modern is Sharing.PERSON:
            await self.crew.make_way(("legacy", *key[1:]))  # its folder is one process's at a time
        try:
            return await self.crew.member(key, owner, intent, self._greeted)
        except OtherEraError:
            self.crew.did_not_come_up(key)
            self._era = self._terms.era  # it may be another server by now
            raise

    async def _found_out(self, intent: Intent) -> Member | None:
        """Ask for the stateless era first; a child that does not know it is thrown away, and another asked for a handshake."""
        key, owner = self._modern_key(intent)
        try:
            member = await self.crew.member(key, owner, intent, self._greeted)
        except OtherEraError:
            await self.crew.gone(key)
            child = Child(await self._start(intent), self.name, silence=self._terms.silence, line_bytes=self._terms.line_bytes)
            try:
                legacy = await initialized(child, self._first)
            finally:
                await asyncio.shield(child.stop())
            if not legacy:
                self.crew.did_not_come_up(key)
                raise
            self._era = "legacy"
            log.info("mcp.%s speaks the era of handshakes alone", self.name)
            return None
        self._era = "both"
        return member

    def _modern_key(self, intent: Intent) -> tuple[Key, Owner | None]:
        principal = intent.permit.principal
        owner = owner_of(principal) if self._terms.modern is Sharing.PRINCIPAL else None
        return ("modern", *key_of(self._terms.modern, principal)), owner

    async def _greeted(self, child: Child) -> None:
        """A new child must answer in its era, and in time, before calls wait for it."""
        await discovered(child, self._first)

    # -- the era of handshakes -------------------------------------------------------------------------------------------------

    async def _open(self, intent: Intent) -> AsyncGenerator[Reply, None]:
        call = intent.permit.call
        if self._terms.era == "modern":
            yield _unsupported(call, MODERN)
            return
        session = secrets.token_urlsafe(24)
        member = await self._found(intent, session)
        async with member.opening:
            if member.hello is None:
                async with aclosing(self._handshake(intent, session, member)) as replies:
                    async for reply in replies:
                        yield reply
                return
        self._begin(session, intent, member)
        yield _opened(session, {"jsonrpc": "2.0", "id": call.rpc_id, "result": member.hello})

    async def _handshake(self, intent: Intent, session: str, member: Member) -> AsyncGenerator[Reply, None]:
        """The one that a child has; who comes later is told what was answered to it."""
        call = intent.permit.call
        message = onward(call)
        if member.owner is None:  # of several principals: none of them can be asked anything, and none stands for the others
            message = {**message, "params": {**message["params"], "capabilities": {}, "clientInfo": OURS}}
        opened = False
        try:
            async with aclosing(_relayed(member.child, message, call, session, self._first)) as replies:
                async for reply in replies:
                    opened = reply.is_final and not reply.failed
                    if opened:
                        member.hello, member.version = reply.payload["result"], call.version
                        self._begin(session, intent, member)
                    yield _opened(session, reply.payload) if opened else reply
        except UpstreamError:
            self.crew.did_not_open(member)
            raise
        finally:
            if not opened:
                self.crew.end(member)

    async def _found(self, intent: Intent, session: str) -> Member:
        """The child for a session that begins; a person's only one that speaks another version makes room for one anew."""
        call, principal = intent.permit.call, intent.permit.principal
        sharing = self._terms.legacy
        if sharing is Sharing.PRINCIPAL and call.message["params"].get("capabilities"):
            sharing = Sharing.SESSION  # whoever can be asked something is asked by nobody else's child
        key = ("legacy", *key_of(sharing, principal, session))
        if sharing is Sharing.PERSON:
            await self.crew.make_way(("modern", *key[1:]))  # its folder is one process's at a time
        else:
            key += (call.version,)
        owner = owner_of(principal) if sharing in {Sharing.PRINCIPAL, Sharing.SESSION} else None
        member = await self.crew.member(key, owner, intent)
        if member.hello is not None and member.version != call.version and not member.child.busy:
            self.crew.end(member)
            member = await self.crew.member(key, owner, intent)
        return member

    def _begin(self, session: str, intent: Intent, member: Member) -> None:
        if not member.child.alive:
            raise UpstreamError("closed", "the server ended")
        self._sessions[session] = _Session(owner_of(intent.permit.principal), member)
        member.sessions.add(session)
        if len(self._sessions) > _SESSIONS:
            oldest, held = self._sessions.popitem(last=False)
            held.member.sessions.discard(oldest)

    async def _within(self, intent: Intent) -> AsyncGenerator[Reply, None]:
        call = intent.permit.call
        session = call.session or ""
        held = self._sessions.get(session)
        if held is None or held.owner != owner_of(intent.permit.principal) or not held.member.child.alive:
            yield _no_session(call)
            return
        self._sessions.move_to_end(session)
        if call.method == INITIALIZED and held.member.announced:
            yield Reply(None, is_final=True, status=202)  # once is enough for a child
            return
        held.member.announced |= call.method == INITIALIZED
        async with aclosing(_exchange(held.member.child, call, session)) as replies:
            async for reply in replies:
                yield reply

    def _left(self, member: Member) -> None:
        for session in member.sessions:
            self._sessions.pop(session, None)


async def _exchange(child: Child, call: Call, whose: str = "") -> AsyncGenerator[Reply, None]:
    message = onward(call)
    if call.rpc_id is None:
        child.notify(message, whose=whose)
        yield Reply(None, is_final=True, status=202)
        return
    async with aclosing(_relayed(child, message, call, whose)) as replies:
        async for reply in replies:
            yield reply


async def _relayed(
    child: Child, message: dict[str, Any], call: Call, whose: str, patience: float | None = None
) -> AsyncGenerator[Reply, None]:
    async with aclosing(child.request(message, whose=whose, patience=patience)) as messages:
        async for said in messages:
            reply = notice(said) if "method" in said else final_reply(said, call, 200)
            if reply is not None:
                yield reply


def _opened(session: str, payload: dict[str, Any]) -> Reply:
    return Reply(payload, is_final=True, headers=((SESSION_HEADER, session),))


def _unsupported(call: Call, versions: tuple[str, ...]) -> Reply:
    data = {"supported": list(versions), "requested": call.version}
    era = "without a handshake" if versions == MODERN else "with a handshake"
    return _error(call, UNSUPPORTED_VERSION, f"This server speaks the revisions {era}", 400, data)


def _no_session(call: Call) -> Reply:
    """Unknown to this process, or none at all: either way the client starts anew."""
    return _error(call, INVALID_REQUEST, "Session not found", 404 if call.session else 400)


def _error(call: Call, code: int, message: str, status: int, data: dict[str, Any] | None = None) -> Reply:
    error = {"code": code, "message": message} | ({"data": data} if data else {})
    return Reply({"jsonrpc": "2.0", "id": call.rpc_id, "error": error}, is_final=True, status=status, failed=True)
