"""An MCP server that the gateway starts.  Calls of the stateless era share a child; a session of the other has one, or shares it.

Sessions live in this process; after a restart, or on another replica, a session is unknown and the client opens a new one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from gateway.mcp.answers import notice
from gateway.mcp.child import Child
from gateway.mcp.crew import Crew, Key, Member, Owner, Sharing, Start, Terms, key_of, owner_of, personal
from gateway.mcp.ears import Ear, Session, heard
from gateway.mcp.eras import OURS, OtherEraError, discovered, initialized
from gateway.mcp.exchange import exchange, missed, no_session, opened_as, relayed, unsupported
from gateway.mcp.methods import INITIALIZE, INITIALIZED, LEGACY, LISTEN, MODERN, SUBSCRIBE, UNSUBSCRIBE
from gateway.mcp.streams import END, STREAM
from gateway.mcp.subscriptions import ACKNOWLEDGED
from gateway.mcp.wire import onward
from gateway.model import Call, Intent, Reply, UpstreamError

log = logging.getLogger("gateway.mcp")

_TRIES: Final = 8
_SESSIONS: Final = 4096
"""Most sessions of one server; whoever has been longest unused goes."""


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
        self._sessions: OrderedDict[str, Session] = OrderedDict()

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

    async def tell(self, intent: Intent, message: dict[str, Any]) -> None:
        """An answer to a question of the server's, for the session that it asked; to nobody where that has gone."""
        held = self._sessions.get(intent.permit.call.session or "")
        if held is not None and held.owner == owner_of(intent.permit.principal) and held.member.child.alive:
            held.member.child.answer(message)

    # -- the stateless era -----------------------------------------------------------------------------------------------------

    async def _stateless(self, intent: Intent) -> AsyncGenerator[Reply, None]:
        call = intent.permit.call
        member = await self._modern(intent)
        if member is None:
            yield unsupported(call, LEGACY)
            return
        replies = self._listening(intent, member) if call.method == LISTEN else exchange(member.child, call)
        async with aclosing(replies):
            async for reply in replies:
                yield reply

    async def _listening(self, intent: Intent, member: Member) -> AsyncGenerator[Reply, None]:
        """Until it is left.  Where the server ends it is started again and asked anew; what was missed meanwhile is told."""
        call, again, tried = intent.permit.call, False, 0
        while True:
            try:
                async with aclosing(relayed(member.child, onward(call), call, "", math.inf)) as replies:
                    async for reply in replies:
                        tried = 0
                        if again and reply.payload.get("method") == ACKNOWLEDGED:
                            for one in missed(reply.payload):
                                yield one
                        else:
                            yield reply
                return
            except UpstreamError as error:
                tried += 1
                if error.kind != "closed" or tried > _TRIES or not self.crew.open:
                    raise
            member = await self._again(intent, member)
            again = True

    async def _again(self, intent: Intent, member: Member) -> Member:
        """Another child, as soon as one may be started."""
        await asyncio.sleep(self.crew.wait(member.key))
        other = await self._modern(intent)
        if other is None:
            raise UpstreamError("closed", "the server speaks another era now")
        return other

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
            return self._listened_to(await self.crew.member(key, owner, intent, self._greeted))
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
        return self._listened_to(member)

    def _listened_to(self, member: Member) -> Member:
        """The same, once it is seen to who hears what belongs to no request."""
        member.child.stray = lambda message: heard(member, self._sessions, message)
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
            yield unsupported(call, MODERN)
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
        yield opened_as(session, {"jsonrpc": "2.0", "id": call.rpc_id, "result": member.hello})

    async def _handshake(self, intent: Intent, session: str, member: Member) -> AsyncGenerator[Reply, None]:
        """The one that a child has; who comes later is told what was answered to it."""
        call = intent.permit.call
        message = onward(call)
        if member.owner is None:  # of several principals: none of them can be asked anything, and none stands for the others
            message = {**message, "params": {**message["params"], "capabilities": {}, "clientInfo": OURS}}
        opened = False
        try:
            async with aclosing(relayed(member.child, message, call, session, self._first)) as replies:
                async for reply in replies:
                    opened = reply.is_final and not reply.failed
                    if opened:
                        member.hello, member.version = reply.payload["result"], call.version
                        self._begin(session, intent, member)
                    yield opened_as(session, reply.payload) if opened else reply
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
        self._sessions[session] = Session(session, owner_of(intent.permit.principal), member)
        self._listened_to(member).sessions.add(session)
        if len(self._sessions) > _SESSIONS:
            self._forgotten(next(iter(self._sessions)))

    async def _within(self, intent: Intent) -> AsyncGenerator[Reply, None]:
        call = intent.permit.call
        session = call.session or ""
        held = self._sessions.get(session)
        if held is None or held.owner != owner_of(intent.permit.principal) or not held.member.child.alive:
            yield no_session(call)
            return
        self._sessions.move_to_end(session)
        if call.method == STREAM:
            replies = self._stand(held)
        elif call.method == END:
            replies = self._over(held)
        else:
            replies = self._asked(call, held)
        async with aclosing(replies):
            async for reply in replies:
                yield reply

    async def _asked(self, call: Call, held: Session) -> AsyncGenerator[Reply, None]:
        if call.method == INITIALIZED and held.member.announced:
            yield Reply(None, is_final=True, status=202)  # once is enough for a child
            return
        held.member.announced |= call.method == INITIALIZED
        if call.method in {SUBSCRIBE, UNSUBSCRIBE} and self._is_wanted_still(call, held):
            yield Reply({"jsonrpc": "2.0", "id": call.rpc_id, "result": {}}, is_final=True)
            return
        async with aclosing(exchange(held.member.child, call, held.id)) as replies:
            async for reply in replies:
                yield reply

    def _is_wanted_still(self, call: Call, held: Session) -> bool:
        """Note what a session subscribed to; whether another one of the same child still wants what this one wants no more."""
        uri = call.message["params"]["uri"]
        if call.method == SUBSCRIBE:
            held.uris.add(uri)
            return False
        held.uris.discard(uri)
        others = (self._sessions[each] for each in held.member.sessions if each in self._sessions)
        return any(uri in each.uris for each in others)

    async def _stand(self, held: Session) -> AsyncGenerator[Reply, None]:
        """The stream for notices; a second one of the same session takes its place."""
        if held.ear is not None:
            held.ear.close()
        ear = held.ear = Ear()
        held.member.streams += 1
        try:
            yield Reply(None, is_final=False)
            async with aclosing(ear.messages()) as messages:
                async for message in messages:
                    reply = notice(message)
                    if reply is not None:
                        yield reply
        finally:
            held.member.streams -= 1
            if held.ear is ear:
                held.ear = None
        yield Reply(None, is_final=True)

    async def _over(self, held: Session) -> AsyncGenerator[Reply, None]:
        """The client ends its session, and with it a child that was its alone."""
        self._forgotten(held.id)
        if held.member.key[1] == Sharing.SESSION:
            self.crew.end(held.member)
        yield Reply(None, is_final=True, status=200)

    def _forgotten(self, session: str) -> None:
        held = self._sessions.pop(session, None)
        if held is not None:
            held.member.sessions.discard(session)
            if held.ear is not None:
                held.ear.close()

    def _left(self, member: Member) -> None:
        for session in list(member.sessions):
            self._forgotten(session)
