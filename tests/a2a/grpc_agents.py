"""Agents over gRPC that do what no SDK would: each test says, message by message, what they answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from google.protobuf import any_pb2
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import ErrorInfo

Answering = Callable[["Asked"], Awaitable[None]]


@dataclass
class Asked:
    """One call as the agent got it, and its ways to answer."""

    method: str
    body: bytes
    metadata: list[tuple[str, str | bytes]]
    peer: str
    _context: Any

    def every(self, name: str) -> list[str | bytes]:
        return [value for key, value in self.metadata if key == name]

    async def begin(self, *lines: tuple[str, str]) -> None:
        await self._context.send_initial_metadata(lines)

    def compress(self) -> None:
        self._context.set_compression(grpc.Compression.Gzip)

    async def say(self, message: Any) -> None:
        await self._context.write(message if isinstance(message, bytes) else message.SerializeToString())

    def end(self, code: grpc.StatusCode, text: str = "no", reason: str = "", domain: str = "a2a-protocol.org") -> None:
        self._context.set_code(code)
        self._context.set_details(text)
        if reason:
            detail = any_pb2.Any()
            detail.Pack(ErrorInfo(reason=reason, domain=domain))
            status = status_pb2.Status(code=code.value[0], message=text, details=[detail])
            self._context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))


@dataclass
class GrpcAgent:
    """A scripted agent; `script` answers each call."""

    script: Answering
    asked: list[Asked] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)


class _Everything(grpc.GenericRpcHandler):
    def __init__(self, agent: GrpcAgent) -> None:
        self._agent = agent

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method

        async def call(_messages: Any, context: Any) -> None:
            body = await context.read()
            asked = Asked(path.rpartition("/")[2], body, list(context.invocation_metadata()), context.peer(), context)
            self._agent.asked.append(asked)
            try:
                await self._agent.script(asked)
            except asyncio.CancelledError:
                self._agent.left.set()
                raise

        return grpc.stream_stream_rpc_method_handler(call)


@asynccontextmanager
async def scripted_grpc(
    script: Answering, port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[tuple[int, GrpcAgent]]:
    """A scripted agent on a real socket, and its port."""
    agent = GrpcAgent(script)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_Everything(agent),))
    address = f"127.0.0.1:{port}"
    found = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield found, agent
    finally:
        await server.stop(0)
