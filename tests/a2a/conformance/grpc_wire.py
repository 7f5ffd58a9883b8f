"""A2A by hand over gRPC: messages in their own encoding by the path of each method, without the generated client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
from a2a.types import a2a_pb2 as pb
from google.protobuf import empty_pb2  # type: ignore[import-untyped]  # protobuf ships no stubs
from google.protobuf.json_format import MessageToDict, ParseDict  # type: ignore[import-untyped]
from google.rpc import error_details_pb2, status_pb2

from tests.a2a.conformance.wires import ERROR_INFO, Answer, Stream, Wire

CONFIG = pb.TaskPushNotificationConfig
METHODS: Mapping[str, tuple[Any, Any]] = {
    "SendMessage": (pb.SendMessageRequest, pb.SendMessageResponse),
    "SendStreamingMessage": (pb.SendMessageRequest, pb.StreamResponse),
    "GetTask": (pb.GetTaskRequest, pb.Task),
    "ListTasks": (pb.ListTasksRequest, pb.ListTasksResponse),
    "CancelTask": (pb.CancelTaskRequest, pb.Task),
    "SubscribeToTask": (pb.SubscribeToTaskRequest, pb.StreamResponse),
    "CreateTaskPushNotificationConfig": (CONFIG, CONFIG),
    "GetTaskPushNotificationConfig": (pb.GetTaskPushNotificationConfigRequest, CONFIG),
    "ListTaskPushNotificationConfigs": (
        pb.ListTaskPushNotificationConfigsRequest,
        pb.ListTaskPushNotificationConfigsResponse,
    ),
    "DeleteTaskPushNotificationConfig": (pb.DeleteTaskPushNotificationConfigRequest, empty_pb2.Empty),
    "GetExtendedAgentCard": (pb.GetExtendedAgentCardRequest, pb.AgentCard),
}
_ALWAYS = {"ListTasksResponse": {"tasks": [], "nextPageToken": "", "totalSize": 0, "pageSize": 0}}


class Grpc(Wire):
    """gRPC."""

    binding = "GRPC"
    _channel: grpc.aio.Channel | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self.base)
        return self._channel

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    def _said(self, op: str, params: Any, headers: Mapping[str, str | None] | None) -> tuple[Any, Any, tuple[Any, ...]]:
        asked, given = METHODS[op]
        return ParseDict(params or {}, asked()), given, tuple(self._with(headers).items())

    async def ask(self, op: str, params: Any = None, headers: Mapping[str, str | None] | None = None) -> Answer:
        request, given, lines = self._said(op, params, headers)
        return await self.bytes(op, request.SerializeToString(), lines, given)

    async def bytes(self, op: str, body: bytes, lines: tuple[Any, ...], given: Any = empty_pb2.Empty) -> Answer:
        """Any bytes as they are."""
        call = self.channel.unary_unary(f"/lf.a2a.v1.A2AService/{op}", response_deserializer=given.FromString)
        try:
            answer = await call(body, metadata=lines, timeout=30)
        except grpc.aio.AioRpcError as error:
            return _refused(error)
        return Answer(0, "application/grpc", {}, answer, _plain(answer))

    @asynccontextmanager
    async def stream(self, op: str, params: Any, headers: Mapping[str, str | None] | None = None) -> AsyncIterator[Stream]:
        request, given, lines = self._said(op, params, headers)
        path = f"/lf.a2a.v1.A2AService/{op}"
        call = self.channel.unary_stream(path, response_deserializer=given.FromString)(
            request.SerializeToString(), metadata=lines, timeout=60
        )
        frames: list[Any] = []

        async def events() -> AsyncIterator[Any]:
            try:
                async for event in call:
                    frames.append(_plain(event))
                    yield frames[-1]
            except grpc.aio.AioRpcError as error:
                stream.answer = _refused(error)
                frames.append(stream.answer.error)

        stream = Stream(0, "application/grpc", {}, events(), frames)
        yield stream
        call.cancel()


def _plain(message: Any) -> Any:
    found: dict[str, Any] = MessageToDict(message)
    return _ALWAYS.get(message.DESCRIPTOR.name, {}) | found


def _refused(error: grpc.aio.AioRpcError) -> Answer:
    details = []
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            for each in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if each.Unpack(info):
                    details.append({"@type": ERROR_INFO} | MessageToDict(info))
    told = {"code": error.code().name, "message": error.details(), "details": details}
    return Answer(error.code().value[0], "application/grpc", dict(error.trailing_metadata() or ()), told, None, told)
