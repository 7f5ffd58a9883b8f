"""Pins on the road: answers lose what may not pass, and what may not pass cannot be called; each hook narrows, none decides.

What is held back is answered exactly as the unknown.  The gateway's own questions for definitions travel the same road, for the
same caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

import msgspec

from gateway.asgi import by_name
from gateway.mcp.definitions import INTRODUCTIONS, LISTS, Place, is_long, told, without
from gateway.mcp.errors import RpcRefused
from gateway.mcp.methods import CALL_TOOL, CAPABILITIES_KEY, COMPLETE, GET_PROMPT, MODERN, VERSION_KEY
from gateway.mcp.normalise import PROMPT_REF
from gateway.mcp.pins import Pins
from gateway.mcp.strict import dumps
from gateway.model import (
    Arrival,
    Call,
    Clock,
    Intent,
    Permit,
    Principal,
    Refused,
    Reply,
    Said,
    Trace,
    UpstreamError,
    new_id,
    random16,
)  # fmt: skip
from gateway.pipeline import Stages, govern
from gateway.reasons import Code
from policies.lock import Key
from policies.model import AccessRequest, Decision
from policies.pinning import Pinning

ABSENT: Final = "absent"
SECONDS: Final = 30.0
"""The longest that a server's list is waited for before a call."""
_PAGES: Final = 50
_KEPT: Final = frozenset({"accept", "content-type", "mcp-protocol-version", "mcp-session-id"})
_CHANGES: Final = "/list_changed"
_HEARD: Final = INTRODUCTIONS | LISTS.keys()
Called = tuple[Place, Key]
_LISTS_OF: Final = {what: method for method, (what, _) in LISTS.items()}


class Gate:
    """The pins under one policy.

    pinning_of  what policy says, for a workflow.
    servers     whose definitions are pinned: not those of the gateway's own.
    """

    def __init__(self, pins: Pins, pinning_of: Callable[[str], Pinning], servers: frozenset[str], clock: Clock) -> None:
        self._pins = pins
        self._pinning_of = pinning_of
        self._servers = servers
        self._places = {server: (Place(server, legacy=True), Place(server, legacy=False)) for server in servers}
        self._clock = clock
        self._locks: dict[str, asyncio.Lock] = {}

    def over(self, stages: Stages) -> Stages:
        """The same road, on which only what was approved, or seen first, is listed and can be called."""

        def fulfil(permit: Permit) -> Awaitable[Permit]:
            called = self._called(permit.call)
            if called is None:
                return stages.fulfil(permit)
            if self._passes(permit, called):
                return stages.fulfil(self._defined(permit, called))
            return asked(permit, called)

        async def asked(permit: Permit, called: Called) -> Permit:
            await self._ask_first(permit, called, watched)
            return await stages.fulfil(self._defined(permit, called))

        async def forward(intent: Intent) -> Said:
            call, turn = intent.permit.call, self._pins.turn
            said = await stages.forward(intent)
            if isinstance(said, Reply):
                return said if call.method not in _HEARD else await self._heard(said, intent, turn)
            # A call's own stream says what else changed in the era of handshakes alone; the other one has a stream for that.
            return said if call.method == CALL_TOOL and call.version in MODERN else self._each_heard(said, intent, turn)

        def decide(request: AccessRequest) -> Decision:
            decision = stages.decide(request)
            if not decision.allowed and decision.visible and self._hides(request):
                return msgspec.structs.replace(decision, visible=False)
            return decision

        watched = replace(stages, decide=decide, fulfil=fulfil, forward=forward)
        return watched

    # --- what servers say

    async def _each_heard(self, replies: AsyncGenerator[Reply, None], intent: Intent, turn: int) -> AsyncGenerator[Reply, None]:
        async with aclosing(replies):
            async for reply in replies:
                if isinstance(reply.payload, dict) and str(reply.payload.get("method", "")).endswith(_CHANGES):
                    self._pins.stale(intent.permit.call.target)
                yield await self._heard(reply, intent, turn)

    async def _heard(self, reply: Reply, intent: Intent, turn: int) -> Reply:
        """The message without what may not pass; `turn` is that of when it was asked for."""
        payload: Any = reply.payload
        if not reply.is_final or intent.permit.call.method not in _HEARD or not isinstance(payload, dict):
            return reply
        if not isinstance(payload.get("result"), dict):
            return reply
        payload = {**payload, "result": await self._kept(payload["result"], intent.permit, turn)}
        return msgspec.structs.replace(reply, payload=payload)

    async def _kept(self, result: dict[str, Any], permit: Permit, turn: int) -> dict[str, Any]:
        call, pinning = permit.call, self._pinning_of(permit.principal.workflow)
        if call.target not in self._servers or pinning.mode(call.target) == "off":
            return result
        heard = await asyncio.to_thread(told, call.method, result) if is_long(call.method, result) else told(call.method, result)
        kept = await self._pins.learn(pinning, _place(call), heard, call.arrival.id, turn)
        return result if len(kept) == len(heard) and not _more(call.method, result, kept) else without(call.method, result, kept)

    # --- what is called

    def _hides(self, request: AccessRequest) -> bool:
        """Whether what is denied anyway is held back besides: then it is answered as the unknown."""
        server, _, name = request.resource.partition(".")
        key: Key = ("tool", name)
        if request.resource.startswith("prompt:"):
            server, _, name = request.resource.removeprefix("prompt:").partition("/")
            key = ("prompt", name)
        pinning = self._pinning_of("")
        if server not in self._servers or pinning.mode(server) == "off":
            return False
        places = (Place(server, legacy=True), Place(server, legacy=False))
        return any(self._pins.waits(pinning, each, key) or self._pins.verdict(pinning, each, key) for each in places)

    def _called(self, call: Call) -> Called | None:
        """What a call makes use of, by whose definition it is judged, and where; None where there is no such thing."""
        places = self._places.get(call.target)
        key = None if places is None else _key_of(call)
        return None if places is None or key is None else (places[call.version in MODERN], key)

    def _passes(self, permit: Permit, called: Called) -> bool:
        """Whether it is what was approved, by words of its server that are new enough; False where it is asked first.

        `Refused` where it is not.
        """
        (place, key), pins, pinning = called, self._pins, self._pinning_of(permit.principal.workflow)
        if pins.passes(pinning, place, key):
            return True
        mode = pinning.mode(place.server)
        if mode == "off":
            return True
        if mode == "quarantine" and pins.waits(pinning, place, key):
            raise _hidden(permit, "new")
        if not pins.known(pinning, place, key):
            return False
        if why := pins.verdict(pinning, place, key):
            raise _hidden(permit, why)
        return True

    async def _ask_first(self, permit: Permit, called: Called, stages: Stages, tries: int = 3) -> None:
        """Raise `Refused` unless what is called is what was approved, as far as the server's newest word tells."""
        await self._pins.heard_out(called[0])
        if self._passes(permit, called):
            return None
        (place, key), pins, pinning = called, self._pins, self._pinning_of(permit.principal.workflow)
        if await pins.look_up(pinning, place, key):
            await self._ask(permit, key, pinning, stages)
            if (
                tries > 1 and self._pinning_of(permit.principal.workflow) is not pinning
            ):  # what was heard is held against what is now
                return await self._ask_first(permit, called, stages, tries - 1)
            if not pins.known(pinning, place, key):
                raise _hidden(permit, ABSENT)
        if why := pins.verdict(pinning, place, key):
            raise _hidden(permit, why)
        return None

    def _defined(self, permit: Permit, called: Called) -> Permit:
        """The same, with the digest of what is called."""
        digest = self._pins.digest(*called)
        return msgspec.structs.replace(permit, tool_def=digest) if digest else permit

    async def _ask(self, permit: Permit, key: Key, pinning: Pinning, stages: Stages) -> None:
        """Have the server list again what is called, for this caller; one question a server at a time."""
        call, principal = permit.call, permit.principal

        async def known(_arrival: Arrival) -> Principal:
            return principal

        asking = replace(stages, authenticate=known)
        lock = self._locks.setdefault(call.target, asyncio.Lock())
        try:
            async with asyncio.timeout(SECONDS), lock:
                cursor: str | None = None
                for _ in range(_PAGES):
                    if self._pins.known(pinning, _place(call), key):
                        return
                    cursor = await self._page(_LISTS_OF[key[0]], call, cursor, asking)
                    if cursor is None:
                        return
        except TimeoutError:
            raise Refused(Code.DEFINITION_UNKNOWN, "the server did not list in time") from None

    async def _page(self, method: str, call: Call, cursor: str | None, stages: Stages) -> str | None:
        """One page; the cursor of the next, None where there is none."""
        try:
            async with aclosing(govern(_asked(method, call, cursor, self._clock()), stages)) as replies:
                async for reply in replies:
                    if reply.is_final and "result" in reply.payload:
                        following = reply.payload["result"].get("nextCursor")
                        return following if isinstance(following, str) else None
                    if reply.is_final and reply.status == 404 and call.session is not None:
                        raise RpcRefused(Code.UNKNOWN_SESSION, "ended at the server", rpc_id=call.rpc_id)
        except UpstreamError as error:
            if error.kind == "status" and error.detail == "404" and call.session is not None:
                raise RpcRefused(Code.UNKNOWN_SESSION, "ended at the server", rpc_id=call.rpc_id) from None
            raise Refused(Code.DEFINITION_UNKNOWN, str(error)) from None
        except RpcRefused:
            raise
        except Refused as refusal:  # of the list, which has its own record: the call is refused for the same reason
            raise Refused(refusal.code, f"its definition: {refusal.detail}", data=refusal.data) from None
        raise Refused(Code.DEFINITION_UNKNOWN, "the server answered with an error")


def _place(call: Call) -> Place:
    return Place(call.target, legacy=call.version not in MODERN)


def _more(method: str, result: dict[str, Any], kept: list[Any]) -> bool:
    """Whether the answer holds more entries than were looked at."""
    if method in INTRODUCTIONS:
        return False
    entries = result.get(LISTS[method][1])
    return isinstance(entries, list) and len(entries) > len(kept)


def _hidden(permit: Permit, why: str) -> Refused:
    """A refusal that is answered exactly as the unknown; the record says why."""
    decision = msgspec.structs.replace(permit.decision, visible=False)
    return Refused(Code.DEFINITION_HELD, why, decision=decision, call=permit.call)


def _key_of(call: Call) -> Key | None:
    """What a call makes use of; None where that has no definition."""
    if call.method == CALL_TOOL:
        return ("tool", call.name or "")
    params = call.message.get("params", {})
    if call.method == GET_PROMPT:
        return ("prompt", params["name"])
    ref = params.get("ref") if call.method == COMPLETE else None
    if isinstance(ref, dict) and ref.get("type") == PROMPT_REF:
        return ("prompt", ref["name"])
    return None


def _asked(method: str, call: Call, cursor: str | None, at: int) -> Arrival:
    """The gateway's own question for a list, as this caller would have asked it, within the same trace and session."""
    origin, trace = call.arrival, call.trace
    headers = tuple(line for line in origin.headers if line[0] in _KEPT)
    params: dict[str, Any] = {} if cursor is None else {"cursor": cursor}
    if call.version in MODERN:
        headers += (("mcp-method", method),)
        params["_meta"] = {VERSION_KEY: call.version, CAPABILITIES_KEY: {}}
    new = new_id(at)
    message = {"jsonrpc": "2.0", "id": f"bailiwick-{new}", "method": method, "params": params}
    return msgspec.structs.replace(
        origin,
        id=new,
        at=at,
        headers=headers,
        found=by_name(headers),
        body=dumps(message),
        trace=Trace(trace.trace_id, random16()[:8].hex(), parent=trace.span_id, flags=trace.flags, state=trace.state),
    )
