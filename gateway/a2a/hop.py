"""The hop to an agent: a permitted message goes out, what the agent answers comes back, each part read as strictly as a request.

What is sent is made from the proto that was checked; identity and trace are the gateway's own, and come with every call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec.structs import replace

from gateway.a2a import extensions, tracing, v03
from gateway.a2a.answers import AgentSaysNo, read_answer
from gateway.a2a.errors import SUPPORTED_VERSIONS
from gateway.a2a.events import events_in
from gateway.a2a.operations import CARD_PATH, OPERATIONS
from gateway.a2a.wire import UnreadableError, dump, load, media_type, to_json
from gateway.model import Call, Permit, Trace, UpstreamError
from gateway.upstream.client import HttpRequest, HttpResponse, Upstreams, Url, header_block
from gateway.upstream.credentials import Rejected
from gateway.upstream.registry import AgentTarget

Peer = AgentTarget

CARD_BYTES = 1024 * 1024
_VERSIONS = (*SUPPORTED_VERSIONS, v03.VERSION)
_OURS = frozenset(
    {
        b"content-type",
        b"accept",
        b"a2a-version",
        b"a2a-extensions",
        b"x-a2a-extensions",
        b"traceparent",
        b"tracestate",
        b"baggage",
        b"cookie",
    }
)
_ECHOES = (extensions.HEADER.lower().encode(), extensions.OLD_HEADER.lower().encode())
_Read = Callable[[bytes, Call, int], Any]
_JSON = frozenset({"application/json", "application/a2a+json"})


class Onward(Protocol):
    """How a call goes on to an agent that shows no token with its own calls."""

    def trace(self, call: Call) -> Trace:
        """Under which it is sent."""

    async def hand(self, call: Call, token: str) -> None:
        """Keep what the agent goes on for; durable on return, and before the call is sent."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What of an agent's answer is read: bytes of a whole answer or of one event, levels and nodes of its JSON."""

    response_bytes: int = 32 * 1024 * 1024
    json_depth: int = 64
    nodes: int = 500_000


class Answers(Protocol):
    """What an agent says to one message: a stream of events, or one whole answer."""

    @property
    def streams(self) -> bool:
        """Whether it is a stream."""

    @property
    def activated(self) -> tuple[str, ...]:
        """The extensions of this call that the agent says it activated."""

    def items(self) -> AsyncGenerator[Any, None]:
        """Each event, or the one answer, as it came; `UpstreamError` where it breaks off."""

    def read(self, item: Any) -> Any:
        """An item as `gateway.a2a.answers.read_answer` reads it; `UpstreamError` for anything else."""

    def said(self, item: Any) -> Mapping[str, Any] | None:
        """The result in an item as its JSON stands; None where it came as no JSON.  `UpstreamError` where it cannot be read."""

    async def aclose(self) -> None:
        """Listen no more: the agent notices, and its task goes on."""


class Hop(Protocol):
    """The way to one agent."""

    @property
    def peer(self) -> Peer:
        """Which agent."""

    @property
    def hidden(self) -> tuple[str, ...]:
        """Authorities of the agent, which nobody is to hear of."""

    async def send(self, permit: Permit, message: Any) -> Answers:
        """Send one message of the permitted operation; returns when the agent begins to answer.  Raises `UpstreamError`."""

    async def card(self, permit: Permit) -> bytes:
        """The agent's own card, as it publishes it.  Raises `UpstreamError`."""

    async def aclose(self) -> None:
        """Let go of what is only this agent's."""


class RpcHop:
    """By JSON-RPC over HTTP/1.1."""

    def __init__(
        self, peer: Peer, upstreams: Upstreams, bounds: Bounds, rejected: Rejected, onward: Onward | None = None
    ) -> None:
        """ValueError for a peer whose own headers collide with the delegation token's or with the protocol's."""
        headers = own_headers(peer)
        self.peer = peer
        self.hidden = (peer.url.authority.decode(), f"{peer.url.host}:{peer.url.port}")
        self._upstreams = upstreams
        self._bounds = bounds
        self._rejected = rejected
        self._onward = onward
        kind = (b"content-type", b"application/json")
        self._static = {version: header_block((*headers, kind, (b"a2a-version", version.encode()))) for version in _VERSIONS}

    async def send(self, permit: Permit, message: Any) -> Answers:
        """See `Hop`."""
        response = await self._upstreams.send(self._request(permit, message))
        try:
            if response.status == 401:
                await self._rejected(permit, again=False)  # an operation may have an effect: the next call shall do better
            kind = media_type((response.header(b"content-type") or b"").decode("latin-1"))
            streams = kind == "text/event-stream" and response.status == 200 and OPERATIONS[permit.call.method].streams
            if not streams and kind not in _JSON and response.status != 204:
                raise UpstreamError("status" if response.status >= 300 else "protocol", f"{response.status}, not JSON")
        except BaseException:
            await response.aclose()
            raise
        return _HttpAnswers(response, permit.call, self._bounds, self._read, self._result, streams=streams)

    def _result(self, value: Any) -> Any:
        """Where in its JSON an answer stands."""
        return value["result"]

    def _read(self, item: bytes, call: Call, status: int) -> Any:
        bounds, operation = self._bounds, OPERATIONS[call.method]
        answer = read_answer(item, call, operation, depth=bounds.json_depth, nodes=bounds.nodes)
        if status != 200 and not isinstance(answer, AgentSaysNo):
            raise UpstreamError("status", str(status))
        return answer

    def _request(self, permit: Permit, message: Any) -> HttpRequest:
        call = permit.call
        method, params = call.method, to_json(message)
        if call.version == v03.VERSION:
            method, params = v03.written(method, message, leaves_waiting=call.kept.leaves_waiting)
        body = dump({"jsonrpc": "2.0", "id": call.arrival.id, "method": method, "params": params})
        accept = b"text/event-stream, application/json" if OPERATIONS[call.method].streams else b"application/json"
        headers = ((b"accept", accept), *said(self.peer, permit, self._onward))
        return HttpRequest(self.peer.url, body, headers, self._static[call.version])

    async def card(self, permit: Permit) -> bytes:
        """By the path under the agent's own URL; where nothing stands there, at its origin (A2A 1.0 §8.2)."""
        path = self.peer.url.target.partition(b"?")[0].rstrip(b"/")
        tries = [path + CARD_PATH.encode(), CARD_PATH.encode()] if path else [CARD_PATH.encode()]
        urls = [replace(self.peer.url, target=at) for at in tries]
        return await fetched_card(self._upstreams, self.peer, urls, permit, self._rejected)

    async def aclose(self) -> None:
        """See `Hop`."""


def own_headers(peer: Peer) -> tuple[tuple[bytes, bytes], ...]:
    """What settings have the gateway say to an agent; ValueError for what it says of itself."""
    taken = {name.lower() for name, _ in peer.headers}
    clash = taken & (_OURS | {peer.delegation_header})
    if clash:
        name = min(clash).decode("latin-1")
        raise ValueError(f"agents.{peer.id}.headers: {name} is set by the gateway itself")
    return peer.headers


def said(peer: Peer, permit: Permit, onward: Onward | None) -> list[tuple[bytes, bytes]]:
    """What stands beside every message to an agent: its trace, for whom it goes on, credentials, the active extensions."""
    call = permit.call
    trace = call.trace if onward is None else onward.trace(call)
    bearer = b"Bearer " if peer.delegation_header == b"authorization" else b""
    found = [
        *tracing.lines(trace, tracing.baggage(call.arrival, peer.baggage)),
        (peer.delegation_header, bearer + permit.delegation.encode()),
        *permit.credentials,
    ]
    if call.kept.extensions:
        found.append((extensions.header_of(call.version).lower().encode(), ", ".join(call.kept.extensions).encode()))
    return found


async def fetched_card(upstreams: Upstreams, peer: Peer, urls: Sequence[Url], permit: Permit, rejected: Rejected) -> bytes:
    """An agent's card from the first of some addresses where one stands.  `UpstreamError` where none does."""
    static, status = header_block((*peer.headers, (b"accept", b"application/json"))), 0
    for url in urls:
        response = await upstreams.send(HttpRequest(url, b"", permit.credentials, static, b"GET", replay=True))
        try:
            if response.status == 200:
                return await response.read(CARD_BYTES)
            status = response.status
            if status == 401:
                await rejected(permit, again=False)
        finally:
            await response.aclose()
        if status != 404:
            break
    raise UpstreamError("status", f"agent card: {status}")


def hop_to(peer: Peer, upstreams: Upstreams, bounds: Bounds, rejected: Rejected, onward: Onward | None) -> Hop:
    """The way to an agent, by the binding that it speaks.  ValueError as its maker says."""
    if peer.binding == "grpc":
        from gateway.a2a.grpc_hop import GrpcHop  # noqa: PLC0415  an optional extra

        return GrpcHop(peer, upstreams, bounds, rejected, onward)
    if peer.binding == "rest":
        from gateway.a2a.rest_hop import RestHop  # noqa: PLC0415  it is one more of these

        return RestHop(peer, upstreams, bounds, rejected, onward)
    return RpcHop(peer, upstreams, bounds, rejected, onward)


class _HttpAnswers:
    """One HTTP response: server-sent events, or a JSON body."""

    def __init__(
        self, response: HttpResponse, call: Call, bounds: Bounds, read: _Read, result: Callable[[Any], Any], *, streams: bool
    ) -> None:
        self.streams = streams
        echoes = (value.decode("latin-1") for name in _ECHOES if (value := response.header(name)) is not None)
        self.activated = extensions.echoed(echoes, call.kept.extensions)
        self._response = response
        self._call = call
        self._bounds = bounds
        self._read = read
        self._result = result

    async def items(self) -> AsyncGenerator[bytes, None]:
        """See `Answers`."""
        if not self.streams:
            yield await self._response.read(self._bounds.response_bytes)
            return
        events = events_in(self._response.chunks(), self._bounds.response_bytes)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    def read(self, item: bytes) -> Any:
        """See `Answers`."""
        return self._read(item, self._call, self._response.status)

    def said(self, item: bytes) -> Mapping[str, Any] | None:
        """See `Answers`."""
        try:
            said: Mapping[str, Any] = self._result(load(item, depth=self._bounds.json_depth, nodes=self._bounds.nodes))
        except (UnreadableError, LookupError, TypeError) as error:
            raise UpstreamError("protocol", type(error).__name__) from None
        return said

    async def aclose(self) -> None:
        """See `Answers`."""
        await self._response.aclose()
