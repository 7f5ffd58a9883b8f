"""The stages of the road that are MCP's own: parse, normalise, forward, filter."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from msgspec.structs import replace

from gateway.asgi import WORKFLOW_HEADER
from gateway.mcp import approving, capabilities, lists, opaque, streams, subscriptions, tasks
from gateway.mcp.answers import ASKING
from gateway.mcp.asking import Asking
from gateway.mcp.blanked import blanked
from gateway.mcp.conversation import Conversation, Means
from gateway.mcp.errors import RpcRefused
from gateway.mcp.further import Further
from gateway.mcp.hop import SESSION_HEADER, HttpHop
from gateway.mcp.methods import (
    CALL_TOOL,
    INITIALIZE,
    LEVEL_KEY,
    LEVELS,
    LISTEN,
    METHODS,
    MODERN,
    READ_RESOURCE,
    ROOTS_CHANGED,
    SET_LEVEL,
    SUBSCRIBE,
    SUBSCRIPTION_KEY,
    UNSUBSCRIBE,
    Act,
)  # fmt: skip
from gateway.mcp.normalise import TASK_ACTIONS, normalise
from gateway.mcp.questions import declared
from gateway.mcp.repeated import Wanted, held, nothing_approved
from gateway.mcp.results import CUTS, WITHHELD, Reader
from gateway.mcp.sealed import Sealed
from gateway.mcp.session import Sessions
from gateway.mcp.standing import Standing, StreamTerms
from gateway.mcp.strict import dumps
from gateway.mcp.wire import declaring, read
from gateway.model import Arrival, Call, Intent, Permit, Principal, Refused, Reply, Said
from gateway.reasons import Code
from gateway.receipts import Receipts, no_receipt, with_flags, with_receipt
from gateway.upstream.client import Upstreams
from gateway.upstream.credentials import Rejected, no_other
from gateway.upstream.registry import McpTarget
from policies import uri as uris

Redact = Callable[[Any, frozenset[str]], Any]
"""A tool's result without the values of these fields; raises `Refused` where that cannot be done."""

_ADDRESSED = frozenset({READ_RESOURCE, SUBSCRIBE, UNSUBSCRIBE})
_STREAMED = frozenset({streams.STREAM, streams.END})
_NONE = dict.fromkeys(_STREAMED, 405)
_STANDING = frozenset({streams.STREAM, LISTEN})
_HERE = {name: row for name, row in METHODS.items() if not {row.legacy, row.modern}.isdisjoint({Act.ANSWER, Act.DROP})}
_SEALED = frozenset({"cursor", "requestState", "inputResponses"})
_APART = _STREAMED | _STANDING


class Upstream(Protocol):
    """A server that is not spoken to by HTTP: a child process, or the gateway itself."""

    def forward(self, intent: Intent) -> AsyncGenerator[Reply, None]:
        """Messages for this call, the last one final; `headers` of a reply may hold the upstream's raw session id.

        Notices and questions of the server's are messages on the way, as they came.
        """

    async def tell(self, intent: Intent, message: dict[str, Any]) -> None:
        """Bring the server a response: the client's, or the gateway's own to a question that it did not put."""


class McpRoad:
    """Fills `Stages` for MCP: `parse`, `normalise`, `forward`, `filter`.

    sealed    seals what travels with clients: session ids, cursors and the like.
    asking    puts servers' questions; `standing` keeps streams that stand open; `streams` says how long, and more.
    others    by server id: those that are not HTTP.
    could     decides what a list shows (`lists.asking`).
    repeats   which arguments of a tool headers repeat, by its approved definition (server, tool).
    redact    blanks fields in a tool's result.
    rejected  is told of a credential that an upstream does not take, and may have another.
    """

    def __init__(
        self,
        *,
        targets: Mapping[str, McpTarget],
        upstreams: Upstreams,
        sealed: Sealed,
        could: lists.Could,
        redact: Redact,
        asking: Asking,
        standing: Standing,
        streams: StreamTerms = StreamTerms(),  # noqa: B008  frozen
        repeats: Wanted = nothing_approved,
        others: Mapping[str, Upstream] | None = None,
        json_depth: int = 64,
        response_bytes: int = 32 * 1024 * 1024,
        rejected: Rejected = no_other,
        receipt: Receipts = no_receipt,
    ) -> None:
        """ValueError for a target that nothing here can speak to."""
        self._targets = dict(targets)
        self._sealed = sealed
        self._sessions = Sessions(sealed)
        self._could = could
        self._repeats = repeats
        self._redact = redact
        self._receipt = receipt
        self._others = dict(others or {})
        self._json_depth = json_depth
        self._hop = HttpHop(self._targets, upstreams, response_bytes, rejected, streams.upstreams)
        self._means = Means(asking, sealed, streams.levels)
        self._further = Further(asking.judge)
        self._standing = standing
        self._streams = streams
        for target in self._targets.values():
            if target.url is None and target.id not in self._others:
                raise ValueError(f"mcp.{target.id}: nothing here speaks to it")

    def judged_by(self, could: lists.Could, repeats: Wanted = nothing_approved) -> McpRoad:
        """The same road, on which `could` decides what a list shows, and what each side may offer."""
        other = copy.copy(self)
        other._could, other._repeats = could, repeats
        return other

    def parse(self, arrival: Arrival, principal: Principal) -> Call:
        """One strictly read call, its session unsealed; `RpcRefused` otherwise.

        Nothing here hangs on the server or on its tools: whether they are there at all is asked after policy has spoken
        (`further`), so that what is not there takes the way of what is hidden.
        """
        call = read(arrival, self._json_depth) if arrival.http_method == "POST" else streams.read(arrival)
        sealed = arrival.header("mcp-session-id")
        if sealed is not None and call.version not in MODERN and call.method != INITIALIZE:
            try:
                session = self._sessions.open(sealed, server=arrival.target, principal=principal)
            except RpcRefused as refusal:
                refusal.rpc_id = call.rpc_id
                raise
            call = replace(call, session=session.upstream, opens=session.opens, declared=session.declared, linked=session.linked)
        if call.declares:
            modern = call.version in MODERN
            served = capabilities.allowed(call.declares, principal, call.target, self._could, modern=modern)
            call = replace(call, declared=declared(served))
            if served:
                call = declaring(call, served)
        call = self._carried(call, principal)
        if call.method in _ADDRESSED and uris.form_of(call.message["params"]["uri"]) is None:
            raise RpcRefused(Code.INVALID_PARAMS, "uri", rpc_id=call.rpc_id)  # sent on as it was written, or not at all
        return call

    def _carried(self, call: Call, principal: Principal) -> Call:
        """The call with everything opened that was sealed for this caller, in its direction."""
        if call.direction == "answer":
            return opaque.answering(call, principal, self._sealed)
        if call.method in _STREAMED:
            return streams.resuming(call, principal, self._sealed)
        if call.method in TASK_ACTIONS:
            return tasks.with_task(call, principal, self._sealed)
        if call.method == LISTEN:
            return subscriptions.with_filter(call, principal, self._sealed)
        if _SEALED.isdisjoint(call.message["params"]):
            return call
        call = approving.returned(call, principal, self._sealed)
        return opaque.with_opened(call, principal, self._sealed, unasked=call.target not in self._streams.strict)

    def further(self, permit: Permit) -> Permit:
        """The call as its server takes it, and what else policy is asked for it: narrowed by that, or `Refused`."""
        call = permit.call
        target = self._targets.get(call.target)
        if target is None:
            raise RpcRefused(Code.UNKNOWN_TARGET, rpc_id=call.rpc_id)
        if target.kind == "builtin" and (call.method in {*_STREAMED, LISTEN} or call.direction):
            raise RpcRefused(Code.UNKNOWN_METHOD, call.method or "response", rpc_id=call.rpc_id, status=_NONE.get(call.method, 0))
        if permit.redact_sent and permit.said is None:
            permit = blanked(permit)
            call = permit.call
        wanted = self._repeats(call.target, call.name or "") if call.method == CALL_TOOL and call.version in MODERN else ()
        if wanted or call.repeated:
            lines = held(wanted, call.repeated, call.arguments or {}, call.rpc_id)
            permit = replace(permit, call=replace(call, repeated=lines))
        if call.method == SET_LEVEL or "_meta" in call.message.get("params", ()):
            capped = _capped(call, self._streams.levels.get(call.target, LEVELS[0]))
            if capped is not call.message:
                permit = replace(permit, call=replace(permit.call, message=capped))
        return self._further.of(permit)

    normalise = staticmethod(normalise)

    async def forward(self, intent: Intent) -> Said:
        """The hop to the server: the answer to this very call, or what ends with it; else `UpstreamError`."""
        call, principal = intent.permit.call, intent.permit.principal
        here = answered_here(call)
        if here is None and call.method == ROOTS_CHANGED and not self._could(principal, f"roots:{call.target}"):
            here = _taken()  # the server may not ask for the roots, so it does not hear of them either
        if here is not None:
            return here
        conversation = Conversation(self._means, intent, self._could, self._tell)
        try:
            other = self._others.get(call.target)
            apart = other is not None or call.method in _APART or call.direction
            said = await (self._said(intent, other) if apart else self._hop.forward(intent.permit))
            return await conversation.final(said) if isinstance(said, Reply) else self._heard(said, conversation, intent)
        except Refused as refusal:
            raise _whose(refusal, intent) from None

    async def _said(self, intent: Intent, other: Upstream | None) -> Said:
        """What is more than one request and its answer, or is spoken otherwise than by HTTP."""
        permit, call = intent.permit, intent.permit.call
        if call.direction == "answer":
            await self._tell(intent, call.message)
            return _taken()
        if call.method == streams.END and other is None:
            return await self._hop.end(permit)
        replies = self._hop.stream(permit) if other is None else other.forward(intent)
        if call.method in _STANDING:
            until = asyncio.get_running_loop().time() + self._streams.lasting(permit.principal)
            replies = self._standing.merged(intent, replies, until)
        return replies

    async def _heard(
        self, replies: AsyncGenerator[Reply, None], conversation: Conversation, intent: Intent
    ) -> AsyncGenerator[Reply, None]:
        """What may go on of what is said."""
        final = False
        try:
            async with aclosing(replies):
                async for raw in replies:
                    final = final or raw.is_final
                    reply = await conversation.heard(raw)
                    if reply is not None:
                        yield reply
        except Refused as refusal:
            raise _whose(refusal, intent) from None
        if not final:
            yield _over(intent.permit.call)  # its time is over, and it ends in good order

    async def _tell(self, intent: Intent, message: dict[str, Any]) -> None:
        other = self._others.get(intent.permit.call.target)
        await (self._hop.tell(intent.permit, message) if other is None else other.tell(intent, message))

    def filter(self, reply: Reply, intent: Intent) -> Reply:
        """The bytes that are released.  Lists and capabilities shrink, results lose what a duty takes from them."""
        permit = intent.permit
        call, payload = permit.call, reply.payload
        headers: tuple[tuple[str, str], ...] = ((WORKFLOW_HEADER, permit.principal.workflow),)
        if payload is None:
            return replace(reply, headers=(*headers, *(pair for pair in reply.headers if pair[0] == "Allow")))
        for name, value in reply.headers:
            if name == SESSION_HEADER and call.method == INITIALIZE:
                headers += ((name, self._session(value, permit)),)
        if reply.is_final:
            if "result" in payload:
                reply = with_receipt(self._narrowed(reply, intent), self._receipt(intent))
            elif permit.redact:
                said = {"code": payload["error"]["code"], "message": WITHHELD}
                reply = replace(reply, payload={**payload, "error": said})
        return replace(reply, body=dumps(reply.payload), headers=headers)

    def searched(self, reply: Reply, permit: Permit, entries: frozenset[str]) -> Reply:
        """See `gateway.obligations.inspector.Face`."""
        if (result := self.shown(reply)) is None:
            return reply
        found = self._blanked(result, permit, entries)
        return reply if found == result else self.told(replace(reply, original=dumps(result)), found)

    def shown(self, reply: Reply) -> Any:
        """The result of a final message."""
        return reply.payload.get("result") if reply.is_final and isinstance(reply.payload, dict) else None

    def kept(self, reply: Reply) -> Reply:
        """With its result as the original."""
        return reply if reply.original else replace(reply, original=dumps(self.shown(reply)))

    def told(self, reply: Reply, shown: Any, flags: Sequence[str] = ()) -> Reply:
        """The message with that result."""
        return replace(reply, payload={**reply.payload, "result": with_flags(shown, flags)})

    def _blanked(self, result: Any, permit: Permit, entries: frozenset[str]) -> Any:
        call = permit.call
        if call.method != CALL_TOOL and not isinstance(call.kept, tasks.Task):
            raise Refused(Code.DUTY_FAILED, "only a tool's result can be searched for what must not be seen")
        if _unfinished(call, result):
            return tasks.blanked(result, permit, lambda inner, _: self._redact(inner, entries))
        return self._redact(result, entries)

    def _session(self, upstream: str, permit: Permit) -> str:
        call = permit.call
        return self._sessions.seal(
            upstream, server=call.target, principal=permit.principal, opens=call.opens, declared=call.declared
        )

    def _narrowed(self, reply: Reply, intent: Intent) -> Reply:
        """What is released of a result: cut by its method's line, and blanked where a duty says so."""
        permit = intent.permit
        call = permit.call
        cut = CUTS.get(call.method)
        if cut is None and not permit.redact:
            return reply
        result = reply.payload["result"]
        if cut is not None and not _unfinished(call, result):
            result = opaque.with_sealed(cut(result, Reader(call, permit.principal, self._could)), permit, self._sealed)
        if permit.redact and reply.looked is None:
            try:
                blanked_ = self._blanked(result, permit, permit.redact)
                reply = replace(reply, original=dumps(result) if blanked_ != result else b"")
                result = blanked_
            except Refused as refusal:
                raise _whose(refusal, intent) from None
        return reply if result is reply.payload["result"] else replace(reply, payload={**reply.payload, "result": result})


def _unfinished(call: Call, result: dict[str, Any]) -> bool:
    return call.method in TASK_ACTIONS or (call.method in ASKING and result.get("resultType", "complete") != "complete")


def _capped(call: Call, least: str) -> dict[str, Any]:
    """The message, which asks the server for no log messages that would not be passed on."""
    message: dict[str, Any] = call.message
    params = message.get("params", {})
    holder, member = (params, "level") if call.method == SET_LEVEL else (params.get("_meta", {}), LEVEL_KEY)
    if member not in holder or LEVELS.index(holder[member]) >= LEVELS.index(least):
        return message
    capped = {**holder, member: least}
    return {**message, "params": capped if call.method == SET_LEVEL else {**params, "_meta": capped}}


def _whose(refusal: Refused, intent: Intent) -> Refused:
    """A refusal that comes late, told as one of this call."""
    refusal.call = refusal.call or intent.permit.call
    refusal.principal = refusal.principal or intent.permit.principal
    return refusal


def answered_here(call: Call) -> Reply | None:
    """The answer to what goes no further than this hop: `ping`, and notices that concern nobody behind it."""
    row = _HERE.get(call.method)
    if row is None or call.direction:
        return None
    act = row.act(modern=call.version in MODERN)
    if act is Act.ANSWER:
        return Reply({"jsonrpc": "2.0", "id": call.rpc_id, "result": {}}, is_final=True)
    return _taken() if act is Act.DROP else None


def _over(call: Call) -> Reply:
    """A graceful end: of `subscriptions/listen` its result, of a stream of the other era nothing."""
    if call.method != LISTEN:
        return Reply(None, is_final=True)
    result = {"resultType": "complete", "_meta": {SUBSCRIPTION_KEY: call.rpc_id}}
    return Reply({"jsonrpc": "2.0", "id": call.rpc_id, "result": result}, is_final=True)


def _taken() -> Reply:
    """A notification is accepted, whatever becomes of it."""
    return Reply(None, is_final=True, status=202)
