"""An agent that mixes people up, or is made to: what was said in one person's task or context is not told to another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import ParseDict

from gateway.a2a.tasks import MOST_MENTIONED
from gateway.a2a.webhook import Allowed
from tests.a2a.agents import Request, scripted, task
from tests.a2a.calls import asking, error_of, metadata, stub
from tests.a2a.grpc_agents import Asked, scripted_grpc
from tests.a2a.test_push import back, call, config, receiver
from tests.a2a.world import World, gateway

SECRET = "what paul said"


def said(**naming: Any) -> dict[str, Any]:
    return {"messageId": "s", "role": "ROLE_AGENT", "parts": [{"text": SECRET}], **naming}


def history(*messages: dict[str, Any]) -> dict[str, Any]:
    made = task("COMPLETED", "mias", "mias-context")
    made["task"]["history"] = list(messages)
    return made


def status(message: dict[str, Any]) -> dict[str, Any]:
    made = task("COMPLETED", "mias", "mias-context")
    made["task"]["status"]["message"] = message
    return made


MIXED: dict[str, Any] = {
    "a history of another's task": history(said(taskId="pauls")),
    "a history of another's context": history(said(taskId="mias"), said(contextId="pauls-context")),
    "a status from another's context": status(said(contextId="pauls-context")),
    "a message about another's task": {"message": said(referenceTaskIds=["mias", "pauls"])},
    "a message from another's context": {"message": said(contextId="pauls-context")},
    "more than anybody looks up": history(*(said(taskId=f"t-{number}") for number in range(MOST_MENTIONED + 1))),
}


@pytest.mark.parametrize("name", MIXED)
async def test_what_was_said_to_one_is_not_told_to_another(tmp_path: Path, name: str) -> None:
    async def agent(request: Request) -> None:
        mine = request.rpc["params"]["message"]["messageId"] == "pauls"
        await request.result(task("COMPLETED", "pauls", "pauls-context") if mine else MIXED[name])

    async with scripted(agent) as (url, _), gateway(tmp_path, {"ref": url}) as world:
        assert "result" in await world.send("paul", "pauls")
        answer = await world.send("mia", "mias")
        assert answer["error"]["code"] == -32006
        assert SECRET not in json.dumps(answer)
        assert world.ledger.entries[-1].fields["outcome"]["status"] == "upstream-error"


@pytest.mark.parametrize("name", MIXED)
async def test_nor_in_an_event_over_grpc(tmp_path: Path, name: str) -> None:
    async def agent(asked: Asked) -> None:
        if asked.method == "SendMessage":
            await asked.say(ParseDict(task("COMPLETED", "pauls", "pauls-context"), pb.SendMessageResponse()))
        else:
            await asked.say(ParseDict(MIXED[name], pb.StreamResponse()))

    async with (
        scripted_grpc(agent) as (port, _),
        gateway(tmp_path, {"ref": f"grpc://127.0.0.1:{port}"}, grpc=False) as world,
        stub(world) as client,
    ):
        await client.SendMessage(asking("pauls"), metadata=metadata(world, "paul"))
        error = await error_of(client.SendStreamingMessage(asking("mias"), metadata=metadata(world, "mia")))
        assert error.code() is grpc.StatusCode.INTERNAL


async def test_nor_in_a_list(tmp_path: Path) -> None:
    async def agent(request: Request) -> None:
        if request.rpc["method"] == "ListTasks":
            tasks = [MIXED["a history of another's task"]["task"]]
            await request.result({"tasks": tasks, "nextPageToken": "", "pageSize": 50, "totalSize": 1})
            return
        mine = request.rpc["params"]["message"]["messageId"]
        await request.result(task("COMPLETED", mine, f"{mine}-context"))

    async with scripted(agent) as (url, _), gateway(tmp_path, {"ref": url}) as world:
        for person, message_id in (("paul", "pauls"), ("mia", "mias")):
            assert "result" in await world.send(person, message_id)
        answer = (await world.rpc("mia", "ListTasks", {})).json()
        assert answer["error"]["code"] == -32006


async def test_ones_own_other_tasks_may_be_mentioned(tmp_path: Path) -> None:
    async def agent(request: Request) -> None:
        mine = request.rpc["params"]["message"]["messageId"] == "before"
        mixed = history(said(taskId="before", contextId="before-context"), said(taskId="nobody-knows"))
        await request.result(task("COMPLETED", "before", "before-context") if mine else mixed)

    async with scripted(agent) as (url, _), gateway(tmp_path, {"ref": url}) as world:
        assert "result" in await world.send("mia", "before")
        assert len((await world.send("mia", "mias"))["result"]["task"]["history"]) == 2


@pytest.mark.parametrize("news", ["another's task", "another's context", "a history of another's task"])
async def test_news_of_what_is_anothers_reaches_no_webhook(tmp_path: Path, news: str) -> None:
    """Before the agent has answered, its callback may name any task: it names the one of somebody else."""
    pauls = {"another's task": ("pauls", "x"), "another's context": ("mias", "pauls-context")}
    worlds: list[World] = []

    async def agent(request: Request) -> None:
        params = request.rpc["params"]
        if params["message"]["messageId"] == "pauls":
            await request.result(task("WORKING", "pauls", "pauls-context"))
            return
        event = task("WORKING", *pauls[news]) if news in pauls else MIXED[news]
        told = params["configuration"]["taskPushNotificationConfig"]
        assert (await back(worlds[0], told, event)).status_code == 200
        await worlds[0].ledger.when(lambda entries: "belongs to somebody else" in str(entries[-1].fields))
        await request.result(task("WORKING", "mias-own", "mias-context"))

    async with (
        receiver() as (url, place, hook),
        scripted(agent) as (where, _),
        gateway(tmp_path, {"ref": where}, allowed=Allowed(private=(place,))) as world,
    ):
        worlds.append(world)
        assert "result" in await world.send("paul", "pauls")
        params = {"message": said(messageId="mias"), "configuration": {"taskPushNotificationConfig": config(url)}}
        params["message"]["role"] = "ROLE_USER"
        assert "result" in await call(world, "mia", "SendMessage", params)
        assert hook.requests == []
