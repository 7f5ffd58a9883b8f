"""Agents that are reached over HTTP+JSON: URLs are made of what was checked, and answers are read as strictly as ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.a2a.webhook import Allowed
from gateway.settings import Agent
from tests.a2a.agents import Request, scripted, status, task
from tests.a2a.world import World, gateway

ODD = "a;b?c#d e%20f"


async def ask(world: World, method: str, params: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (await world.rpc("paul", method, params)).json()
    return found


async def test_every_operation_has_its_verb_its_path_and_nothing_else_of_what_was_asked(tmp_path: Path) -> None:
    async def answer(request: Request) -> None:
        bare = task("INPUT_REQUIRED", ODD)["task"]
        if request.method == "DELETE":
            await request.reply(b"", status=204)
        elif "pushNotificationConfigs" in request.path:
            await request.reply(json.dumps({"taskId": ODD, "id": "x", "url": "http://127.0.0.1:9/h"}).encode())
        elif request.path.endswith("/tasks"):
            await request.reply(json.dumps({"tasks": [bare], "nextPageToken": "", "pageSize": 1, "totalSize": 1}).encode())
        else:
            await request.reply(json.dumps({"task": bare} if "message" in request.path else bare).encode())

    async with scripted(answer) as (url, agent):
        address = f"rest+{url}/base?key=1"
        async with gateway(tmp_path, {"ref": address}, allowed=Allowed(private=("127.0.0.1:9",))) as world:
            message = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}
            made = await ask(world, "SendMessage", {"tenant": "another", "message": message, "unknown": 1})
            assert made["result"]["task"]["id"] == ODD
            await ask(world, "GetTask", {"id": ODD, "historyLength": 2, "tenant": "x"})
            await ask(world, "ListTasks", {"pageSize": 5, "includeArtifacts": True, "contextId": "c-1", "tenant": "x"})
            await ask(world, "CancelTask", {"id": ODD, "metadata": {"kept": 1}})
            config = {"taskId": ODD, "id": "x", "url": "http://127.0.0.1:9/h"}
            await ask(world, "CreateTaskPushNotificationConfig", config)
            await ask(world, "GetTaskPushNotificationConfig", {"taskId": ODD, "id": "x"})
            gone = await ask(world, "DeleteTaskPushNotificationConfig", {"taskId": ODD, "id": "x"})
            assert "error" not in gone
    whole = "/base/tasks/a%3Bb%3Fc%23d%20e%2520f"
    assert [(each.method, each.target) for each in agent.requests] == [
        ("POST", "/base/message:send"),
        ("GET", f"{whole}?historyLength=2"),
        ("GET", "/base/tasks?contextId=c-1&pageSize=100&includeArtifacts=true"),
        ("POST", f"{whole}:cancel"),
        ("POST", f"{whole}/pushNotificationConfigs"),
        ("GET", f"{whole}/pushNotificationConfigs/x"),
        ("DELETE", f"{whole}/pushNotificationConfigs/x"),
    ]
    assert json.loads(agent.requests[0].body) == {"message": message}
    assert json.loads(agent.requests[3].body) == {"metadata": {"kept": 1}}
    assert {each.body for each in agent.requests if each.method != "POST"} == {b""}
    assert all(each.headers["authorization"].startswith("Bearer ") for each in agent.requests)
    assert all((each.headers["a2a-version"], "traceparent" in each.headers) == ("1.0", True) for each in agent.requests)


@pytest.mark.parametrize("name", [".", "..", "../pauls", "..\\pauls", "..%2fpauls", "%2E%2E", "a%255Cb"])
async def test_an_id_that_would_lead_somewhere_else_is_not_put_into_a_path(tmp_path: Path, name: str) -> None:
    async def answer(request: Request) -> None:
        await request.reply(json.dumps(task("INPUT_REQUIRED", name if len(agent.requests) == 1 else "mine")).encode())

    async with scripted(answer) as (url, agent), gateway(tmp_path, {"ref": f"rest+{url}"}) as world:
        for _ in range(2):
            await world.send("paul", "m")
        assert (await ask(world, "GetTask", {"id": name}))["error"]["code"] == -32006
        others = {"taskId": "mine", "id": name}  # which a client makes up
        assert (await ask(world, "DeleteTaskPushNotificationConfig", others))["error"]["code"] == -32006
        assert len(agent.requests) == 2


def refusal(status: str, reason: str = "", code: int = 400) -> tuple[bytes, int]:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "a2a-protocol.org"}
    details = [info] if reason else []
    return json.dumps({"error": {"code": code, "status": status, "message": "no", "details": details}}).encode(), code


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (refusal("NOT_FOUND", "TASK_NOT_FOUND", 404), -32001),
        (refusal("FAILED_PRECONDITION", "TASK_NOT_CANCELABLE"), -32002),
        (refusal("FAILED_PRECONDITION", "UNSUPPORTED_OPERATION"), -32004),
        (refusal("INVALID_ARGUMENT"), -32602),
        (refusal("PERMISSION_DENIED", code=403), -32006),
        (refusal("UNAVAILABLE", code=503), -32006),
        ((b'{"detail": "Not Found"}', 404), -32006),
        ((b'{"error": "no"}', 200), -32006),
        ((b'{"error": {"message": 1}}', 400), -32006),
        ((b"{}", 200), -32006),
        ((b"", 200), -32006),
        ((b'{"task": {"id": "t"}, "task": {"id": "u"}}', 200), -32006),
        ((b'{"task": {"id": "t", "status": {"state": 3}}}', 200), -32006),
        ((b'{"task": {"id": "t"}}', 500), -32006),
    ],
)
async def test_an_agents_refusal_is_the_error_that_it_stands_for_and_what_is_none_is_its_failure(
    tmp_path: Path, said: tuple[bytes, int], expected: int
) -> None:
    async def answer(request: Request) -> None:
        await request.reply(said[0], status=said[1])

    async with scripted(answer) as (url, _), gateway(tmp_path, {"ref": f"rest+{url}"}) as world:
        assert (await world.send("paul", "m"))["error"]["code"] == expected


async def test_a_stream_of_bare_events_is_released_event_by_event_and_an_error_ends_it(tmp_path: Path) -> None:
    async def answer(request: Request) -> None:
        await request.raw(b"data: " + json.dumps(task("WORKING")).encode() + b"\n\n")
        await request.raw(b"data: " + json.dumps(status("WORKING")).encode() + b"\n\n")
        await request.raw(b"event: error\ndata: " + refusal("FAILED_PRECONDITION", "UNSUPPORTED_OPERATION")[0] + b"\n\n")
        await request.end()

    async with scripted(answer) as (url, _), gateway(tmp_path, {"ref": f"rest+{url}"}) as world:
        params = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}}
        text = (await world.rpc("paul", "SendStreamingMessage", params)).text
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
        assert [next(iter(each.get("result", each.get("error")))) for each in events] == ["task", "statusUpdate", "code"]
        assert events[-1]["error"]["code"] == -32004


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "https://clerk.internal", "binding": "rest", "versions": ["0.3"]},
        {"url": "grpc://clerk.internal:9090", "binding": "rest"},
        {"url": "https://clerk.internal", "binding": "soap"},
    ],
)
def test_settings_that_name_two_ways_or_none_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Agent.model_validate(settings)
