"""Calls over gRPC: with the generated stub, with the SDK's client, and byte by byte."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
from a2a.client.transports.grpc import GrpcTransport
from a2a.types import a2a_pb2 as pb
from a2a.types.a2a_pb2_grpc import A2AServiceStub
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import ErrorInfo

from gateway.a2a.grpc_wire import method_path
from tests.a2a.world import World

VERSION = ("a2a-version", "1.0")
Metadata = tuple[tuple[str, str], ...]


def metadata(world: World, person: str | None, *more: tuple[str, str]) -> Metadata:
    """What a client of this version says, as this person."""
    return (VERSION, *(world.token(person).items() if person else ()), *more)


def asking(message_id: str, text: str = "hi", **message: Any) -> pb.SendMessageRequest:
    """A message for an agent."""
    return pb.SendMessageRequest(
        message=pb.Message(message_id=message_id, role=pb.Role.ROLE_USER, parts=[pb.Part(text=text)], **message)
    )


@asynccontextmanager
async def channel(world: World, agent: str = "ref") -> AsyncIterator[grpc.aio.Channel]:
    """To an agent's door."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.doors[agent]}") as opened:
        yield opened


@asynccontextmanager
async def stub(world: World, agent: str = "ref") -> AsyncIterator[Any]:
    """The generated client."""
    async with channel(world, agent) as opened:
        yield A2AServiceStub(opened)  # type: ignore[no-untyped-call]


@asynccontextmanager
async def official(address: str, lines: Metadata = ()) -> AsyncIterator[GrpcTransport]:
    """The SDK's own client at an address."""
    chain = [each(lines) for each in (_Unary, _Stream)] if lines else []
    opened = grpc.aio.insecure_channel(address, interceptors=chain)
    client = GrpcTransport(opened, None)
    try:
        yield client
    finally:
        await client.close()


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, lines: Metadata) -> None:
        self._lines = lines

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(_with(details, self._lines), request)


class _Stream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, lines: Metadata) -> None:
        self._lines = lines

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(_with(details, self._lines), request)


def _with(details: Any, lines: Metadata) -> Any:
    return details._replace(metadata=grpc.aio.Metadata(*(details.metadata or ()), *lines))


async def raw(world: World, operation: str, body: bytes, lines: Metadata, agent: str = "ref", **options: Any) -> bytes:
    """Bytes to a method (or to a path with a slash) and back."""
    path = operation if operation.startswith("/") else method_path(operation)
    async with channel(world, agent) as opened:
        answer: bytes = await opened.unary_unary(path)(body, metadata=lines, **options)
        return answer


async def error_of(work: Any) -> grpc.aio.AioRpcError:
    """The error that a call (or the reading of a stream) ends with."""
    try:
        found = await work if hasattr(work, "__await__") else [each async for each in work]
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"it was answered: {found}")


def info_of(error: grpc.aio.AioRpcError) -> ErrorInfo:
    """The ErrorInfo in a status' details."""
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


def said(error: grpc.aio.AioRpcError) -> tuple[str, str, str]:
    """(code, reason, text): all that tells one error from another."""
    return error.code().name, info_of(error).reason, error.details() or ""
