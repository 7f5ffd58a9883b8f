"""The stages of the road that are MCP's own: parse, normalise, forward, filter."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from msgspec.structs import replace

from gateway.asgi import WORKFLOW_HEADER
from gateway.mcp import capabilities, lists
from gateway.mcp.answers import not_asked_for
from gateway.mcp.errors import RpcRefused
from gateway.mcp.hop import SESSION_HEADER, HttpHop
from gateway.mcp.methods import (
    CALL_TOOL,
    INITIALIZE,
    METHODS,
    MODERN,
    READ_RESOURCE,
    ROOTS_CHANGED,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Act,
)  # fmt: skip
from gateway.mcp.normalise import normalise
from gateway.mcp.opaque import with_opened, with_sealed
from gateway.mcp.repeated import Wanted, held, nothing_approved
from gateway.mcp.results import CUTS, Reader
from gateway.mcp.sealed import Sealed
from gateway.mcp.session import Sessions
from gateway.mcp.strict import dumps
from gateway.mcp.wire import declaring, read
from gateway.model import Arrival, Call, Intent, Principal, Refused, Reply
from gateway.reasons import Code
from gateway.receipts import Receipts, no_receipt, with_receipt
from gateway.upstream.client import Upstreams
from gateway.upstream.credentials import Rejected, no_other
from gateway.upstream.registry import McpTarget
from policies import uri as uris
from policies.model import AccessRequest

Redact = Callable[[Any, frozenset[str]], Any]
"""A tool's result without the values of these fields; raises `Refused` where that cannot be done."""

WITHHELD = "[withheld by policy]"
_ADDRESSED = frozenset({READ_RESOURCE, SUBSCRIBE, UNSUBSCRIBE})


class Upstream(Protocol):
    """A server that is not spoken to by HTTP: a child process, or the gateway itself."""

    def forward(self, intent: Intent) -> AsyncGenerator[Reply, None]:
        """Messages for this call, the last one final; `headers` of a reply may hold the upstream's raw session id."""


class McpRoad:
    """Fills `Stages` for MCP: `parse`, `normalise`, `forward`, `filter`.

    sealed    seals what travels with clients: session ids, cursors and the like.
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
        self._hop = HttpHop(self._targets, upstreams, response_bytes, rejected)
        for target in self._targets.values():
            if target.url is None and target.id not in self._others:
                raise ValueError(f"mcp.{target.id}: nothing here speaks to it")

    def judged_by(self, could: lists.Could, repeats: Wanted = nothing_approved) -> McpRoad:
        """The same road, on which `could` decides what a list shows, and what each side may offer."""
        other = copy.copy(self)
        other._could, other._repeats = could, repeats
        return other

    def parse(self, arrival: Arrival, principal: Principal) -> Call:
        """One strictly read call, its session unsealed; `RpcRefused` otherwise, last of all for a server that is not there."""
        call = read(arrival, self._json_depth)
        sealed = arrival.header("mcp-session-id")
        if sealed is not None and call.version not in MODERN and call.method != INITIALIZE:
            try:
                session = self._sessions.open(sealed, server=arrival.target, principal=principal)
            except RpcRefused as refusal:
                refusal.rpc_id = call.rpc_id
                raise
            call = replace(call, session=session.upstream, opens=session.opens)
        if arrival.target not in self._targets:
            raise RpcRefused(Code.UNKNOWN_TARGET, rpc_id=call.rpc_id)
        call = with_opened(call, principal, self._sealed)
        wanted = self._repeats(call.target, call.name or "") if call.method == CALL_TOOL and call.version in MODERN else ()
        if wanted or call.repeated:
            call = replace(call, repeated=held(wanted, call.repeated, call.arguments or {}, call.rpc_id))
        if call.declares:
            served = capabilities.allowed(call.declares, principal, call.target, self._could)
            if served:
                call = declaring(call, served)
        return _with_uri(call) if call.method in _ADDRESSED else call

    def normalise(self, call: Call, principal: Principal) -> AccessRequest:
        """The question that policy is asked."""
        return normalise(call, principal)

    async def forward(self, intent: Intent) -> AsyncGenerator[Reply, None]:
        """The hop to the server.  Ends with the answer to this very call, or raises `UpstreamError`."""
        call, principal = intent.permit.call, intent.permit.principal
        here = answered_here(call)
        if here is None and call.method == ROOTS_CHANGED and not self._could(principal, f"roots:{call.target}"):
            here = _taken()  # the server may not ask for the roots, so it does not hear of them either
        if here is not None:
            yield here
            return
        other = self._others.get(call.target)
        replies = self._hop.forward(intent.permit) if other is None else other.forward(intent)
        try:
            async with aclosing(replies):
                async for reply in replies:
                    if reply.is_final or not intent.permit.redact:
                        yield reply  # what is said on the way cannot be searched for the fields that must not be seen
        except Refused as refusal:
            raise _whose(refusal, intent) from None

    def filter(self, reply: Reply, intent: Intent) -> Reply:
        """The bytes that are released.  Lists and capabilities shrink, results lose what a duty takes from them."""
        permit = intent.permit
        call, payload = permit.call, reply.payload
        headers: tuple[tuple[str, str], ...] = ((WORKFLOW_HEADER, permit.principal.workflow),)
        if payload is None:
            return replace(reply, headers=headers)
        for name, value in reply.headers:
            if name == SESSION_HEADER and call.method == INITIALIZE:
                headers += ((name, self._sessions.seal(value, server=call.target, principal=permit.principal, opens=call.opens)),)
        if reply.is_final:
            if "result" in payload:
                reply = with_receipt(self._narrowed(reply, intent), self._receipt(intent))
            elif permit.redact:
                said = {"code": payload["error"]["code"], "message": WITHHELD}
                reply = replace(reply, payload={**payload, "error": said})
        return Reply(reply.payload, reply.is_final, dumps(reply.payload), reply.status, headers, reply.failed)

    def _narrowed(self, reply: Reply, intent: Intent) -> Reply:
        """What is released of a result: cut by its method's line, and blanked where a duty says so."""
        permit = intent.permit
        call = permit.call
        reply = not_asked_for(reply, call)
        result = reply.payload.get("result")
        if result is None:
            return reply
        cut = CUTS.get(call.method)
        if cut is not None:
            result = with_sealed(cut(result, Reader(call, permit.principal, self._could)), permit, self._sealed)
        if permit.redact:
            try:
                if call.method != CALL_TOOL:
                    raise Refused(Code.DUTY_FAILED, "only a tool's result can be searched for what must not be seen")
                result = self._redact(result, permit.redact)
            except Refused as refusal:
                raise _whose(refusal, intent) from None
        return reply if result is reply.payload["result"] else replace(reply, payload={**reply.payload, "result": result})


def _whose(refusal: Refused, intent: Intent) -> Refused:
    """A refusal that comes late, told as one of this call."""
    refusal.call = refusal.call or intent.permit.call
    refusal.principal = refusal.principal or intent.permit.principal
    return refusal


def answered_here(call: Call) -> Reply | None:
    """The answer to what goes no further than this hop: `ping`, and notices that concern nobody behind it."""
    act = METHODS[call.method].act(modern=call.version in MODERN)
    if act is Act.ANSWER:
        return Reply({"jsonrpc": "2.0", "id": call.rpc_id, "result": {}}, is_final=True)
    return _taken() if act is Act.DROP else None


def _taken() -> Reply:
    """A notification is accepted, whatever becomes of it."""
    return Reply(None, is_final=True, status=202)


def _with_uri(call: Call) -> Call:
    """The call with the resource's one form, which is also what policy is asked about."""
    uri = call.message["params"]["uri"]
    form = uri if uris.is_canonical(uri) else uris.canonical(uri)
    if form is None:
        raise RpcRefused(Code.INVALID_PARAMS, "uri", rpc_id=call.rpc_id)
    message = {**call.message, "params": {**call.message["params"], "uri": form}}
    return replace(call, message=message, name=form)
