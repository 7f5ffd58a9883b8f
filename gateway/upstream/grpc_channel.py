"""The door out for gRPC: one channel to one upstream, bounded, with nothing taken from the environment.

Addresses are judged after resolution and pinned, as for HTTP; a channel that failed, or is old, is followed by a new one.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.model import UpstreamError
from gateway.upstream.address import resolved
from gateway.upstream.message import Url

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # or upstreams write lines of their choice into our log
import grpc
import grpc.aio

if TYPE_CHECKING:
    Call = grpc.aio.UnaryStreamCall[bytes, bytes]

RENEW_SECONDS: Final = 300.0
"""How long a channel takes new calls before the name is asked about again."""
_PING_MS: Final = 305_000  # servers take more frequent questions for an attack
_METADATA_BYTES: Final = 64 * 1024
_READY: Final = grpc.ChannelConnectivity.READY
_FAILED: Final = frozenset({grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN})


class Line:
    """A channel, and how many calls are on it."""

    __slots__ = ("calls", "channel", "made", "retired")

    def __init__(self, channel: grpc.aio.Channel, made: float) -> None:
        self.channel = channel
        self.made = made
        self.calls = 0
        self.retired = False


class GrpcChannel:
    """Calls to one upstream: `open` a line, `call` on it, and `hang_up`, whatever happened."""

    def __init__(self, url: Url, *, connect_seconds: float, response_bytes: int) -> None:
        """`url`: http for gRPC without TLS, https with it.  Reads the certificates that are trusted."""
        self._url = url
        self._connect_seconds = connect_seconds
        self._credentials = grpc.ssl_channel_credentials(_roots()) if url.scheme == "https" else None
        authority = url.authority.decode()
        self._options = [
            ("grpc.default_authority", authority),
            ("grpc.max_receive_message_length", response_bytes),
            ("grpc.max_send_message_length", -1),  # what is sent was bounded when it came
            ("grpc.max_metadata_size", _METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
            ("grpc.compression_enabled_algorithms_bitset", 1),  # identity: nothing is blown up here
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),  # an operation may have an effect
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.keepalive_time_ms", _PING_MS),
            ("grpc.min_reconnect_backoff_ms", int(connect_seconds * 1000)),
            *([("grpc.ssl_target_name_override", url.host)] if self._credentials is not None else []),
        ]
        self._line: Line | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def open(self) -> Line:
        """A line that stands; `UpstreamError` (`connect`, `timeout`, `closed`) where there is none.

        Who comes while one is being opened shares what becomes of it: nobody queues for an upstream that does not answer.
        """
        now = asyncio.get_running_loop().time()
        while (line := self._line) is None or now - line.made > RENEW_SECONDS:
            if self._opening is None:
                self._opening = asyncio.create_task(self._new())
                self._opening.add_done_callback(self._opened)
            try:
                await asyncio.shield(self._opening)
            except UpstreamError as error:
                raise UpstreamError(error.kind, error.detail) from None
        line.calls += 1
        return line

    def call(self, line: Line, path: str, body: bytes, metadata: Sequence[tuple[str, str]]) -> Call:
        """Send one message; its answers are read one by one, also where there is to be one alone."""
        method: Any = line.channel.unary_stream(path)
        call: Call = method(body, metadata=tuple(metadata))
        return call

    def hang_up(self, line: Line, *, failed: bool = False) -> None:
        """The call is over; `failed`: the line is not to be used again."""
        line.calls -= 1
        if failed:
            self._retire(line)
        elif line.retired and not line.calls:
            self._close(line)

    async def aclose(self) -> None:
        """Drop everything."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if self._line is not None:
            self._close(self._line)
            self._line = None
        if self._closing:
            await asyncio.wait(self._closing)

    def _opened(self, opening: asyncio.Task[None]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # seen: whoever waited may be gone

    async def _new(self) -> None:
        if self._closed:
            raise UpstreamError("closed", "the client is closed")
        channel: grpc.aio.Channel | None = None
        try:
            async with asyncio.timeout(self._connect_seconds):
                target = _target(await resolved(self._url), self._url.port)
                if self._credentials is None:
                    channel = grpc.aio.insecure_channel(target, self._options)
                else:
                    channel = grpc.aio.secure_channel(target, self._credentials, self._options)
                await _ready(channel)
        except BaseException as error:
            if channel is not None:
                self._close(Line(channel, 0.0))
            if isinstance(error, TimeoutError):
                raise UpstreamError("timeout", "connect") from None
            raise
        former, self._line = self._line, Line(channel, asyncio.get_running_loop().time())
        if former is not None:
            self._retire(former)

    def _retire(self, line: Line) -> None:
        if self._line is line:
            self._line = None
        line.retired = True
        if not line.calls:
            self._close(line)

    def _close(self, line: Line) -> None:
        task = asyncio.ensure_future(line.channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _ready(channel: grpc.aio.Channel) -> None:
    state = channel.get_state(try_to_connect=True)
    while state is not _READY:
        if state in _FAILED:
            raise UpstreamError("connect", "no connection")
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)


def _target(addresses: Sequence[str], port: int) -> str:
    """The addresses of one family as gRPC names them: nothing is left to resolve."""
    version = ip_address(addresses[0]).version
    same = [address for address in addresses if ip_address(address).version == version]
    return f"ipv{version}:" + ",".join(f"[{each}]:{port}" if version == 6 else f"{each}:{port}" for each in same)


def _roots() -> bytes | None:
    """What HTTP trusts too; None: what gRPC brings along."""
    cafile: str | None = ssl.get_default_verify_paths().cafile
    return Path(cafile).read_bytes() if cafile else None
