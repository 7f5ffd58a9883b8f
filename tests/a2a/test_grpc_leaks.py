"""Two people at one agent over gRPC: what one of them names of the other's is as unknown, by every operation and every trick."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from a2a.types import a2a_pb2 as pb

from gateway.a2a.webhook import Allowed
from tests.a2a.calls import asking, error_of, metadata, said, stub
from tests.a2a.test_push import receiver
from tests.a2a.world import World, gateway

Make = Callable[[str], Any]
UNKNOWN = ("NOT_FOUND", "TASK_NOT_FOUND", "Task not found")


@pytest.fixture
async def world(tmp_path: Path, upstream: str) -> AsyncIterator[World]:
    async with gateway(tmp_path, {"ref": upstream}, grpc=False, allowed=Allowed(private=("127.0.0.1:9",))) as running:
        yield running


def hook(task: str) -> pb.TaskPushNotificationConfig:
    return pb.TaskPushNotificationConfig(task_id=task, id="mine", url="http://127.0.0.1:9/hook")


BY_TASK: dict[str, tuple[str, Make]] = {
    "read": ("GetTask", lambda task: pb.GetTaskRequest(id=task)),
    "read of another tenant": ("GetTask", lambda task: pb.GetTaskRequest(id=task, tenant="paul")),
    "cancel": ("CancelTask", lambda task: pb.CancelTaskRequest(id=task)),
    "subscribe": ("SubscribeToTask", lambda task: pb.SubscribeToTaskRequest(id=task)),
    "go on with": ("SendMessage", lambda task: asking("m", task_id=task)),
    "stream on with": ("SendStreamingMessage", lambda task: asking("m", task_id=task)),
    "refer to": ("SendMessage", lambda task: asking("m", reference_task_ids=[task])),
    "refer to, among more": ("SendStreamingMessage", lambda task: asking("m", reference_task_ids=["x", task])),
    "hook": ("CreateTaskPushNotificationConfig", hook),
    "read a hook": (
        "GetTaskPushNotificationConfig",
        lambda task: pb.GetTaskPushNotificationConfigRequest(task_id=task, id="mine"),
    ),
    "list hooks": ("ListTaskPushNotificationConfigs", lambda task: pb.ListTaskPushNotificationConfigsRequest(task_id=task)),
    "unhook": (
        "DeleteTaskPushNotificationConfig",
        lambda task: pb.DeleteTaskPushNotificationConfigRequest(task_id=task, id="mine"),
    ),
}


async def opened(world: World, person: str) -> pb.Task:
    async with stub(world) as client:
        answer = await client.SendMessage(asking(f"tck-input-required-{person}"), metadata=metadata(world, person))
    found: pb.Task = answer.task
    return found


@pytest.mark.parametrize("trick", BY_TASK)
async def test_the_task_of_another_is_as_one_that_never_was(world: World, trick: str) -> None:
    method, make = BY_TASK[trick]
    task = await opened(world, "paul")
    async with stub(world) as client:
        call = getattr(client, method)
        if "hook" in trick:
            await client.CreateTaskPushNotificationConfig(hook(task.id), metadata=metadata(world, "paul"))
        foreign = await error_of(call(make(task.id), metadata=metadata(world, "mia")))
        unknown = await error_of(call(make("never-was"), metadata=metadata(world, "mia")))
        assert said(foreign) == said(unknown) == UNKNOWN
        if "refer" not in trick:  # and it stands as before
            still = await client.GetTask(pb.GetTaskRequest(id=task.id), metadata=metadata(world, "paul"))
            assert still.status.state == pb.TaskState.TASK_STATE_INPUT_REQUIRED
    refused = [entry.fields["refused"]["code"] for entry in world.ledger.entries if entry.kind == "decision.deny"]
    assert refused == ["not-owner", "not-owner"]


@pytest.mark.parametrize("method", ["SendMessage", "SendStreamingMessage"])
async def test_nobody_speaks_in_the_context_of_another(world: World, method: str) -> None:
    task = await opened(world, "paul")
    async with stub(world) as client:
        call = getattr(client, method)(asking("tck-complete-task", context_id=task.context_id), metadata=metadata(world, "mia"))
        answer = await call if method == "SendMessage" else await call.read()
        assert answer.task.context_id == task.context_id
        assert answer.task.id != task.id
        asked = pb.ListTasksRequest(context_id=task.context_id)
        listed = {who: await client.ListTasks(asked, metadata=metadata(world, who)) for who in ("paul", "mia")}
    assert [each.id for each in listed["paul"].tasks] == [task.id]
    assert task.id not in str(listed["mia"])


async def test_a_list_shows_nothing_of_another_and_its_page_opens_for_nobody_else(world: World) -> None:
    mine = [(await opened(world, "paul")).id for _ in range(3)]
    theirs = await opened(world, "mia")
    async with stub(world) as client:
        page = await client.ListTasks(pb.ListTasksRequest(page_size=2), metadata=metadata(world, "paul"))
        rest = await client.ListTasks(
            pb.ListTasksRequest(page_size=2, page_token=page.next_page_token), metadata=metadata(world, "paul")
        )
        assert sorted(task.id for task in (*page.tasks, *rest.tasks)) == sorted(mine)
        assert (page.total_size, rest.next_page_token) == (3, "")
        stolen = pb.ListTasksRequest(page_size=2, page_token=page.next_page_token)
        error = await error_of(client.ListTasks(stolen, metadata=metadata(world, "mia")))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        asked = pb.ListTasksRequest(context_id=theirs.context_id, tenant="mia")
        assert list((await client.ListTasks(asked, metadata=metadata(world, "paul"))).tasks) == []


async def test_a_task_that_was_made_over_http_is_its_persons_over_grpc_and_nobody_elses(world: World) -> None:
    made = (await world.send("paul", "tck-input-required-http"))["result"]["task"]
    async with stub(world) as client:
        read = await client.GetTask(pb.GetTaskRequest(id=made["id"]), metadata=metadata(world, "paul"))
        assert read.id == made["id"]
        assert said(await error_of(client.GetTask(pb.GetTaskRequest(id=made["id"]), metadata=metadata(world, "mia")))) == UNKNOWN
    there = await world.rpc("paul", "GetTask", {"id": (await opened(world, "paul")).id})
    assert there.json()["result"]["id"]


async def test_news_of_a_task_reaches_the_webhook_that_was_given_over_grpc(tmp_path: Path, upstream: str) -> None:
    async with (
        receiver() as (url, place, webhook),
        gateway(tmp_path, {"ref": upstream}, allowed=Allowed(private=(place,)), grpc=False) as world,
        stub(world) as client,
    ):
        request = asking("tck-complete-task-push")
        request.configuration.return_immediately = True
        wanted = pb.TaskPushNotificationConfig(url=url, token="client-token")
        wanted.authentication.CopyFrom(pb.AuthenticationInfo(scheme="Bearer", credentials="client-secret"))
        request.configuration.task_push_notification_config.CopyFrom(wanted)
        made = (await client.SendMessage(request, metadata=metadata(world, "paul"))).task
        requests = await webhook.got(2)
        assert requests[0].headers["authorization"] == "Bearer client-secret"
        assert requests[0].headers["x-a2a-notification-token"] == "client-token"
        named = [each.get("task", each.get("statusUpdate", {})) for each in (json.loads(request.body) for request in requests)]
        assert {each.get("id") or each.get("taskId") for each in named if each} == {made.id}
        asked = pb.ListTaskPushNotificationConfigsRequest(task_id=made.id)
        listed = await client.ListTaskPushNotificationConfigs(asked, metadata=metadata(world, "paul"))
        assert [(each.url, each.token, each.authentication.credentials) for each in listed.configs] == [
            (url, "client-token", "client-secret")
        ]
