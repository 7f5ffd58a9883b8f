"""The hop to an agent over gRPC, as every hop: what was checked is sent, identity and trace are ours, all is bounded."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, Final

import grpc.aio
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no stubs

from gateway.a2a import extensions, grpc_status
from gateway.a2a.answers import AgentSaysNo, read_message, says_no
from gateway.a2a.errors import SUPPORTED_VERSIONS
from gateway.a2a.grpc_wire import method_path, plain
from gateway.a2a.hop import Answers, Bounds, Onward, Peer, fetched_card, own_headers, said
from gateway.a2a.operations import OPERATIONS
from gateway.a2a.wire import UnreadableError
from gateway.model import Call, Permit, UpstreamError
from gateway.upstream.client import Upstreams
from gateway.upstream.credentials import Rejected
from gateway.upstream.grpc_channel import GrpcChannel, Line

if TYPE_CHECKING:
    from gateway.upstream.grpc_channel import Call as Sent

_KINDS: Final = {
    grpc.StatusCode.UNAVAILABLE: "connect",
    grpc.StatusCode.DEADLINE_EXCEEDED: "timeout",
    grpc.StatusCode.CANCELLED: "closed",
    grpc.StatusCode.INTERNAL: "protocol",
    grpc.StatusCode.DATA_LOSS: "protocol",
}
_KEY: Final = re.compile(r"[a-z0-9_.-]+")
_RESERVED: Final = frozenset({"te", "user-agent", "host", "connection"})
_TOO_LARGE: Final = "larger than max"


class GrpcHop:
    """By gRPC over HTTP/2."""

    def __init__(
        self, peer: Peer, upstreams: Upstreams, bounds: Bounds, rejected: Rejected, onward: Onward | None = None
    ) -> None:
        """ValueError for a peer whose own headers collide with the delegation token's or with the protocol's."""
        self.peer = peer
        self.hidden = (peer.url.authority.decode(), f"{peer.url.host}:{peer.url.port}")
        self._upstreams = upstreams
        self._bounds = bounds
        self._rejected = rejected
        self._onward = onward
        self._channel = GrpcChannel(peer.url, connect_seconds=upstreams.connect_seconds, response_bytes=bounds.response_bytes)
        self._static = (("a2a-version", SUPPORTED_VERSIONS[0]), *_text(own_headers(peer)))
        for name, _ in (*self._static, *_text([(peer.delegation_header, b"")])):
            if _KEY.fullmatch(name) is None or name in _RESERVED or name.startswith("grpc-") or name.endswith("-bin"):
                raise ValueError(f"agents.{peer.id}: {name} is no metadata that gRPC would carry")

    async def send(self, permit: Permit, message: Any) -> Answers:
        """See `Hop`."""
        metadata = [*self._static, *_text(said(self.peer, permit, self._onward))]
        answers = _GrpcAnswers(self._channel, await self._channel.open(), permit, self._bounds, self._rejected)
        await answers.begin(method_path(permit.call.method), message.SerializeToString(), metadata)
        return answers

    async def card(self, permit: Permit) -> bytes:
        """From where settings say that it is: gRPC has none but the extended one, which not everybody may see."""
        if self.peer.card is None:
            raise UpstreamError("status", "agent card: settings name none")
        return await fetched_card(self._upstreams, self.peer, [self.peer.card], permit, self._rejected)

    async def aclose(self) -> None:
        """See `Hop`."""
        await self._channel.aclose()


class _GrpcAnswers:
    """The messages of one gRPC call, and the status that ends them."""

    def __init__(self, channel: GrpcChannel, line: Line, permit: Permit, bounds: Bounds, rejected: Rejected) -> None:
        self.streams = OPERATIONS[permit.call.method].streams
        self.activated: tuple[str, ...] = ()
        self._channel = channel
        self._line: Line | None = line
        self._permit = permit
        self._bounds = bounds
        self._rejected = rejected
        self._failed = False
        self._sent: Sent | None = None

    @property
    def _call(self) -> Call:
        return self._permit.call

    async def begin(self, path: str, body: bytes, metadata: list[tuple[str, str]]) -> None:
        """Send, and wait until the agent says anything, be it that the call is over."""
        try:
            assert self._line is not None  # noqa: S101
            self._sent = self._channel.call(self._line, path, body, metadata)
            first = await self._sent.initial_metadata()
            wanted = extensions.HEADER.lower()
            echoes = (value for key, value in first or () if key == wanted and isinstance(value, str))
            self.activated = extensions.echoed(echoes, self._call.kept.extensions)
        except BaseException:
            await self.aclose()
            raise

    async def items(self) -> AsyncGenerator[bytes | AgentSaysNo, None]:
        """See `Answers`."""
        sent = self._sent
        if sent is None:
            return
        count = 0
        held: bytes | None = None  # of one answer, until its status says that it is one
        while True:
            try:
                item: Any = await sent.read()
            except grpc.aio.AioRpcError as error:
                yield await self._ended(error)
                return
            if item is grpc.aio.EOF:
                break
            count += 1
            if self.streams:
                yield item
            elif count == 1:
                held = item
            else:
                raise UpstreamError("protocol", "more than one answer")
        if not self.streams:
            if held is None:
                raise UpstreamError("protocol", "no answer")
            yield held

    def read(self, item: bytes | AgentSaysNo) -> Any:
        """See `Answers`."""
        if isinstance(item, AgentSaysNo):
            return item
        operation = OPERATIONS[self._call.method]
        message = operation.answer()
        try:
            message.ParseFromString(item)
            told = plain(message, depth=self._bounds.json_depth, nodes=self._bounds.nodes)
        except (DecodeError, UnreadableError) as error:
            raise UpstreamError("protocol", type(error).__name__) from None
        return read_message(told, self._call, operation)

    def said(self, item: bytes | AgentSaysNo) -> Mapping[str, Any] | None:  # noqa: ARG002  its shape
        """See `Answers`."""
        return None

    async def aclose(self) -> None:
        """See `Answers`."""
        line, self._line = self._line, None
        if line is None:
            return
        if self._sent is not None:
            self._sent.cancel()
        self._channel.hang_up(line, failed=self._failed)

    async def _ended(self, error: grpc.aio.AioRpcError) -> AgentSaysNo:
        code, text = error.code(), error.details() or ""
        details = dict(error.trailing_metadata() or ()).get(grpc_status.STATUS_KEY)
        if code is grpc.StatusCode.UNAUTHENTICATED:
            await self._rejected(self._permit, again=False)  # as of HTTP's 401
        told = grpc_status.as_error(code.name, text, grpc_status.infos(details if isinstance(details, bytes) else b""))
        if told is not None:
            return says_no(told)
        self._failed = code is grpc.StatusCode.UNAVAILABLE
        if _TOO_LARGE in text:
            raise UpstreamError("too-large", code.name) from None
        raise UpstreamError(_KINDS.get(code, "status"), code.name) from None  # type: ignore[arg-type]  # each is one of the kinds


def _text(headers: tuple[tuple[bytes, bytes], ...] | list[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)
