"""Answers whose stream broke: a server's is gone on with by the gateway, a client's by the client, at whichever replica.

A server that closes its stream before the answer says the rest to whoever resumes it.  Whatever follows an event is decided and
governed as it began; the mount sees to that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Final

import msgspec

from gateway.mcp.aggregate.caller import Caller, Leg, UnroutedError, Way, without_body
from gateway.mcp.methods import LEGACY
from gateway.mcp.sealed import Purpose, Sealed, UnknownValueError
from gateway.mcp.streams import LAST_EVENT, STREAM
from gateway.model import Refused, Reply, UpstreamError
from gateway.reasons import Code

RETRY_SECONDS: Final = 1.0
"""Before a stream is resumed, where the server does not say; and at the most `LONGEST_RETRY_SECONDS`."""
LONGEST_RETRY_SECONDS: Final = 30.0
EMPTY_SINCE: Final = LEGACY[0]
"""The revision whose clients know events without data, which are there for their ids."""
LEAST_RETRY_SECONDS: Final = 0.1
QUICK: Final = 20
"""How often the rest of one answer is asked for as soon as its server likes; after that no sooner than where it does not say.

Each time is a call on record: a server that ends its streams as soon as they begin would fill the ledger with one call.
"""
TRIES: Final = 10
"""Streams in a row on which a server says nothing that could be resumed after."""


async def whole(
    caller: Caller, leg: Leg, way: Way, replies: AsyncGenerator[Reply, None], event: str = ""
) -> AsyncGenerator[Reply, None]:
    """The same replies, and those that the server says to whoever resumes; the last one is final, with an answer.

    event  after which these replies come already, where they are the rest of an answer.
    """
    wait, tries, streams = RETRY_SECONDS, 1 if event else 0, 0
    while True:
        try:
            async with aclosing(replies):
                async for reply in replies:
                    if reply.event and reply.event != event:
                        event, tries = reply.event, 0
                    wait = min(reply.retry / 1000, LONGEST_RETRY_SECONDS) if reply.retry else wait
                    if reply.goes_on:
                        break
                    yield reply
                else:
                    return
        except UpstreamError as error:
            if not tries or tries > TRIES or error.kind != "closed":
                raise
        tries, streams = tries + 1, streams + 1
        await asyncio.sleep(max(wait, LEAST_RETRY_SECONDS if streams <= QUICK else RETRY_SECONDS))
        replies = resumed(caller, leg, way, event)


async def resumed(caller: Caller, leg: Leg, way: Way, event: str) -> AsyncGenerator[Reply, None]:
    """What a server says after an event (by the mount's id of it)."""
    try:
        async with aclosing(without_body(caller, leg, way, STREAM, (LAST_EVENT, event))) as replies:
            async for reply in replies:
                if reply.is_final and not reply.goes_on and reply.payload is None:
                    raise UpstreamError("status", str(reply.status))
                yield reply
    except Refused as refusal:
        if refusal.code is not Code.UNKNOWN_SESSION:
            raise
        raise UpstreamError("protocol", "the session is over") from None  # and the call is not made again


class Events:
    """Ids by which a client of handshakes resumes an answer: of an event at a server, sealed with how that is spoken to."""

    def __init__(self, sealed: Sealed) -> None:
        self._sealed = sealed

    def id(self, caller: Caller, leg: Leg, way: Way, reply: Reply) -> str:
        """The client's id of an event; "" where it could not resume, or would take an event without data for a broken one."""
        call = caller.call
        if not reply.event or way.modern or caller.session is None or (reply.payload is None and call.version != EMPTY_SINCE):
            return ""
        inner = [reply.event, way.version, way.session, call.method, call.name, call.rpc_id]
        return self._sealed.seal(Purpose.EVENT, inner, server=leg.server, principal=caller.principal, bound=_bound(caller))

    def opened(self, caller: Caller) -> tuple[Caller, str, Way, str] | None:
        """The caller of the answer whose rest is asked for, its server, how that is spoken to, and the mount's id of the event.

        None where it asks for no such thing; `UnroutedError` for an event that is not of this session of this caller.
        """
        last = caller.call.arrival.header(LAST_EVENT)
        if last is None:
            return None
        try:
            server, inner = self._sealed.routed(Purpose.EVENT, last, principal=caller.principal, bound=_bound(caller))
        except UnknownValueError as error:
            raise UnroutedError(Code.UNKNOWN_SESSION, f"event: {error}") from None
        event, version, session, method, name, rpc_id = inner
        call = msgspec.structs.replace(caller.call, method=method, name=name, rpc_id=rpc_id)
        return replace(caller, call=call), server, Way(False, version, session), event


def _bound(caller: Caller) -> str:
    return f"/mcp {caller.call.arrival.header('mcp-session-id')}"
