"""Sub-calls: what the aggregate asks of one server goes down the one road as a call of its own, with its own id and records."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.asgi import by_name
from gateway.mcp.errors import INVALID_PARAMS, RpcRefused
from gateway.mcp.lists import Could
from gateway.mcp.methods import CAPABILITIES_KEY, LEVEL_KEY, METHODS, VERSION_KEY
from gateway.mcp.questions import LATER, declared, declaring
from gateway.mcp.repeated import PARAM_PREFIX, Lines, encoded
from gateway.mcp.strict import dumps
from gateway.model import Arrival, Call, Clock, Principal, Reply, Trace, new_id, random16
from gateway.pipeline import Stages, govern
from gateway.reasons import Code

_ERA = "io.modelcontextprotocol/"
ASKED = frozenset({"inputResponses", "requestState"})
"""Members of a call that is made again; only the stateless era has them."""
_MEDIA = (("accept", "application/json, text/event-stream"), ("content-type", "application/json"))


class UnroutedError(RpcRefused):
    """A request that was refused before any server was asked for its sake: not on record yet."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A request at the aggregate: what is asked, for whom, and by which policy all of it is decided.

    stages   of the mounts' road, but that they know the principal already: a proof of possession counts once.
    could    the judge of the mounts' lists.
    modern   whether the client speaks the stateless era.
    """

    call: Call
    principal: Principal
    stages: Stages
    could: Could
    clock: Clock
    modern: bool

    @property
    def whose(self) -> tuple[str, str, tuple[str, ...]]:
        """Who may share what an upstream keeps: nobody but the same person through the same agents."""
        return self.principal.tenant, self.principal.subject, self.principal.actors

    @property
    def session(self) -> tuple[object, ...] | None:
        """The client's own session, and whose it is; None where it has none."""
        sealed = None if self.modern else self.call.arrival.header("mcp-session-id")
        return None if sealed is None else (self.whose, sealed)

    @property
    def declares(self) -> Mapping[str, Any]:
        """The capabilities that the client has, as far as servers are told: in the era of handshakes what it may be asked."""
        if self.modern:
            return self.call.declares if isinstance(self.call.declares, dict) else {}
        return declaring(self.call.declared)

    @property
    def asks(self) -> frozenset[str]:
        """What the client may be asked, in the words of `Call.declared`."""
        said = declared(self.call.declares) if self.modern else self.call.declared
        return said - {LATER}


@dataclass(frozen=True, slots=True)
class Way:
    """How one server is spoken to: statelessly, or within a session that was opened for this caller.

    version  of the protocol; session as the mount sealed it, "" where there is none.
    offer    what the server said of itself, as the mount lets this caller see it.
    """

    modern: bool
    version: str
    session: str = ""
    offer: Mapping[str, Any] | None = None


class Leg:
    """The sub-calls to one server for one request; `id` is that of the last one, which its records have.

    way, rpc_id  how and under which id the request itself is under way there, once it is.
    lines        headers by which a tool has its arguments repeated, for a client that knows none.
    level        the log level of a client that does not say it in each request; "" where it has set none.
    again        how often the request was made again with what the server asked for.
    """

    __slots__ = ("again", "id", "level", "lines", "rpc_id", "server", "way")

    def __init__(self, server: str) -> None:
        self.server = server
        self.id = ""
        self.way: Way | None = None
        self.rpc_id: str | int | None = None
        self.lines: Lines = ()
        self.level = ""
        self.again = 0


def sent(  # noqa: PLR0917  what a message is, in its order
    caller: Caller, leg: Leg, way: Way, method: str, params: Mapping[str, Any], rpc_id: str | int | None
) -> AsyncGenerator[Reply, None]:
    """One message down the road; `rpc_id` None is a notification.  Replies and exceptions are those of `govern`."""
    params, headers = _modern(caller, leg, way, method, params) if way.modern else _legacy(way, params)
    message = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if rpc_id is None else {"id": rpc_id})
    return _down(caller, leg, headers, dumps(message), "POST")


def answering(caller: Caller, leg: Leg, way: Way, message: Mapping[str, Any]) -> AsyncGenerator[Reply, None]:
    """A client's response, down the road to the session in which the server asked."""
    _, headers = _legacy(way, {})
    return _down(caller, leg, headers, dumps(message), "POST")


def without_body(caller: Caller, leg: Leg, way: Way, verb: str, *more: tuple[str, str]) -> AsyncGenerator[Reply, None]:
    """What is no message: the stream for a session's notices (GET), and its end (DELETE); with `more` header lines."""
    headers = (*_legacy(way, {})[1], *more)
    return _down(caller, leg, headers, b"", verb)


def _down(caller: Caller, leg: Leg, headers: tuple[tuple[str, str], ...], body: bytes, verb: str) -> AsyncGenerator[Reply, None]:
    origin, at = caller.call.arrival, caller.clock()
    arrival = Arrival(
        id=new_id(at),
        protocol="mcp",
        target=leg.server,
        headers=headers,
        body=body,
        at=at,
        trace=_beneath(caller.call.trace),
        http_method=verb,
        peer=origin.peer,
        found=by_name(headers),
        url_path=f"/mcp/{leg.server}",
    )
    leg.id = arrival.id
    return govern(arrival, caller.stages)


def _modern(
    caller: Caller, leg: Leg, way: Way, method: str, params: Mapping[str, Any]
) -> tuple[Mapping[str, Any], tuple[tuple[str, str], ...]]:
    """Everything that a stateless request says of itself; the routing headers are made of this very message."""
    said = params.get("_meta", {})
    if not caller.modern:  # a handshake's client says nothing of this kind in its messages
        said = {key: value for key, value in said.items() if not key.startswith(_ERA)}
        said |= {LEVEL_KEY: leg.level} if leg.level else {}
    meta = {**said, CAPABILITIES_KEY: caller.declares, VERSION_KEY: way.version}
    headers = [*_MEDIA, ("mcp-protocol-version", way.version), ("mcp-method", method)]
    named = METHODS[method].named
    if named and isinstance(params.get(named), str):
        headers.append(("mcp-name", encoded(params[named])))
    if method == caller.call.method:
        own = [line for line in caller.call.arrival.headers if line[0].startswith(PARAM_PREFIX)]
        headers += own if caller.modern else leg.lines
    return {**params, "_meta": meta}, tuple(headers)


def _legacy(way: Way, params: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[tuple[str, str], ...]]:
    """What only the stateless era says stays behind; a call that goes on with another one cannot, and is not begun anew."""
    if "requestState" in params:
        raise UnroutedError(Code.INVALID_PARAMS, "requestState: of another server, or another era", rpc_code=INVALID_PARAMS)
    meta = {key: value for key, value in params.get("_meta", {}).items() if not key.startswith(_ERA)}
    headers = [*_MEDIA, ("mcp-protocol-version", way.version)] if way.version else [*_MEDIA]
    if way.session:
        headers.append(("mcp-session-id", way.session))
    bare = {key: value for key, value in params.items() if key != "_meta" and key not in ASKED}
    return bare | ({"_meta": meta} if meta else {}), tuple(headers)


def _beneath(trace: Trace) -> Trace:
    """A span of its own in the request's trace, beneath the client's."""
    return Trace(trace.trace_id, random16()[:8].hex(), parent=trace.parent, flags=trace.flags, state=trace.state)
