"""The official Python client as a driver: does the steps of a script, and says what it got and what HTTP said meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc.aio
import httpx
from a2a.client.card_resolver import A2ACardResolver
from a2a.client.client import Client, ClientCallContext, ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import A2AError
from google.protobuf.json_format import MessageToDict, ParseDict  # type: ignore[import-untyped]  # protobuf ships no stubs

from tests.a2a.clients.script import Step
from tests.a2a.clients.transcript import filled

STEP_SECONDS = 20
_CALLS: Mapping[str, tuple[str, Any]] = {
    "GetTask": ("get_task", pb.GetTaskRequest),
    "ListTasks": ("list_tasks", pb.ListTasksRequest),
    "CancelTask": ("cancel_task", pb.CancelTaskRequest),
    "SubscribeToTask": ("subscribe", pb.SubscribeToTaskRequest),
    "CreateTaskPushNotificationConfig": ("create_task_push_notification_config", pb.TaskPushNotificationConfig),
    "GetTaskPushNotificationConfig": ("get_task_push_notification_config", pb.GetTaskPushNotificationConfigRequest),
    "ListTaskPushNotificationConfigs": ("list_task_push_notification_configs", pb.ListTaskPushNotificationConfigsRequest),
    "DeleteTaskPushNotificationConfig": ("delete_task_push_notification_config", pb.DeleteTaskPushNotificationConfigRequest),
    "GetExtendedAgentCard": ("get_extended_agent_card", pb.GetExtendedAgentCardRequest),
}


class Driver:
    """One client of one agent over one binding."""

    def __init__(self, http: httpx.AsyncClient, card: pb.AgentCard, binding: str, headers: Mapping[str, str]) -> None:
        self._card = card
        self._context = ClientCallContext(service_parameters=dict(headers)) if binding == "GRPC" else None
        self._single, self._streaming = (
            ClientFactory(
                ClientConfig(
                    streaming=streaming,
                    httpx_client=http,
                    grpc_channel_factory=grpc.aio.insecure_channel,
                    supported_protocol_bindings=[binding],
                    use_client_preference=True,
                )
            ).create(card)
            for streaming in (False, True)
        )

    async def close(self) -> None:
        """Close the client's connections."""
        for client in (self._single, self._streaming):
            await client.close()

    async def do(self, step: Step, said: dict[str, Any]) -> Any:
        """The answer to a step, as plain JSON; of a stream its events."""
        op, params = step["op"], step["params"]
        if op == "Card":
            return MessageToDict(self._card)
        if op in {"SendMessage", "SendStreamingMessage"}:
            request = ParseDict(params, pb.SendMessageRequest())
            if op == "SendMessage":
                (answer,) = [event async for event in self._single.send_message(request, context=self._context)]
                return MessageToDict(getattr(answer, answer.WhichOneof("payload")))
            return await self._events(self._streaming.send_message(request, context=self._context), step, said)
        name, kind = _CALLS[op]
        call = getattr(self._streaming, name)(ParseDict(params, kind()), context=self._context)
        if op == "SubscribeToTask":
            return await self._events(call, step, said)
        answer = await call
        return None if answer is None else MessageToDict(answer)

    async def _events(self, stream: Any, step: Step, said: dict[str, Any]) -> list[Any]:
        found: list[Any] = []
        said[step["step"]] = found  # what came before an error is part of the answer
        then = step.get("then")
        async for event in stream:
            found.append(MessageToDict(event))
            if then is not None and len(found) == then["events"]:
                said[then["step"]] = await self.do(then, said)
        return found


async def run(
    script: tuple[Step, ...], url: str, headers: Mapping[str, str], binding: str, known: Mapping[str, str]
) -> list[Any]:
    """The transcript of a script: for every step its name, what was answered or raised, and the HTTP statuses.

    known   what stands for `@KEY@` and `@HOOK@`.
    """
    http: list[Any] = []

    async def heard(response: httpx.Response) -> None:
        http.append([response.status_code, response.headers.get("content-type", "").partition(";")[0]])

    transcript: list[Any] = []
    said: dict[str, Any] = {}
    hooks = {"response": [heard]}
    async with httpx.AsyncClient(headers=headers, timeout=60, trust_env=False, event_hooks=hooks) as client:
        try:
            card = await A2ACardResolver(client, url).get_agent_card()
        except A2AError as error:
            return [{"step": "card", "raised": _raised(error), "http": http}]
        driver = Driver(client, card, binding, headers)
        for step in script:
            entry: dict[str, Any] = {"step": step["step"]}
            try:
                async with asyncio.timeout(STEP_SECONDS):
                    said[step["step"]] = entry["said"] = await driver.do(filled(step, known, said), said)
            except (A2AError, NotImplementedError, TimeoutError) as error:
                entry["raised"] = _raised(error)
                if step["step"] in said:
                    entry["said"] = said[step["step"]]
            if "then" in step:
                entry["then"] = said.get(step["then"]["step"])
            entry["http"], http[:] = list(http), []
            transcript.append(entry)
        await driver.close()
    return transcript


def _raised(error: Exception) -> dict[str, Any]:
    """An error as a caller of the client sees it."""
    told = {"type": type(error).__name__, "text": str(error)}
    return told | {name: value for name, value in vars(error).items() if isinstance(value, str | int | dict | list)}


__all__ = ["Client", "Driver", "run"]
