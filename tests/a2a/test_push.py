"""Push notifications: the agent never learns the client's webhook, nor the client the agent's callback; news is governed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.a2a.webhook import Allowed
from tests.a2a.agents import Agent, Answering, Request, scripted, task
from tests.a2a.world import DENY, World, gateway

Opened = Callable[..., AbstractAsyncContextManager[tuple[World, Agent]]]


@asynccontextmanager
async def receiver(script: Answering | None = None) -> AsyncIterator[tuple[str, str, Agent]]:
    """(URL, host:port, what came) of a webhook that takes everything, or does as the script says."""

    async def take(request: Request) -> None:
        await request.reply(b"{}")

    async with scripted(script or take) as (url, agent):
        place = url.removeprefix("http://")
        yield f"{url}/hook", place, agent


def config(url: str, **more: Any) -> dict[str, Any]:
    return {"url": url, "token": "client-token", "authentication": {"scheme": "Bearer", "credentials": "client-secret"}, **more}


async def call(world: World, person: str, method: str, params: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (await world.rpc(person, method, params)).json()
    return found


async def test_news_of_a_task_reaches_the_client_by_way_of_the_gateway(tmp_path: Path, agent_url: str) -> None:
    async with (
        receiver() as (url, place, hook),
        gateway(tmp_path, {"ref": agent_url}, allowed=Allowed(private=(place,))) as world,
    ):
        params = {
            "message": {"messageId": "tck-complete-task-push", "role": "ROLE_USER", "parts": [{"text": "hi"}]},
            "configuration": {"taskPushNotificationConfig": config(url), "returnImmediately": True},
        }
        made = (await call(world, "paul", "SendMessage", params))["result"]["task"]
        requests = await hook.got(2)
        seen = requests[0]
        assert seen.headers["authorization"] == "Bearer client-secret"
        assert seen.headers["x-a2a-notification-token"] == "client-token"
        assert "traceparent" in seen.headers
        states = [json.loads(request.body) for request in requests]
        named = [each.get("task", each.get("statusUpdate", {})) for each in states]
        assert {each.get("id") or each.get("taskId") for each in named if each} == {made["id"]}
        await world.ledger.when(lambda entries: sum(each.kind == "call.end" for each in entries) >= 3)
        news = [each for each in world.ledger.entries if each.fields.get("method") == "PushNotification"]
        assert {each.subject for each in news} == {"user:dev/paul"}
        assert news[0].fields["workflow"]


async def test_configurations_are_the_clients_own_words_and_nobody_elses(tmp_path: Path, agent_url: str) -> None:
    async with receiver() as (url, place, _), gateway(tmp_path, {"ref": agent_url}, allowed=Allowed(private=(place,))) as world:
        task_id = (await world.send("paul", "tck-input-required-push"))["result"]["task"]["id"]
        made = (await call(world, "paul", "CreateTaskPushNotificationConfig", config(url, taskId=task_id, id="mine")))["result"]
        assert (made["url"], made["token"], made["authentication"]["credentials"]) == (url, "client-token", "client-secret")
        got = (await call(world, "paul", "GetTaskPushNotificationConfig", {"taskId": task_id, "id": "mine"}))["result"]
        assert got == made
        listed = (await call(world, "paul", "ListTaskPushNotificationConfigs", {"taskId": task_id}))["result"]
        assert listed["configs"] == [made]
        for method, params in (
            ("CreateTaskPushNotificationConfig", config(url, taskId=task_id, id="theirs")),
            ("GetTaskPushNotificationConfig", {"taskId": task_id, "id": "mine"}),
            ("ListTaskPushNotificationConfigs", {"taskId": task_id}),
            ("DeleteTaskPushNotificationConfig", {"taskId": task_id, "id": "mine"}),
        ):
            assert (await call(world, "mia", method, params))["error"]["code"] == -32001
        async with httpx.AsyncClient(trust_env=False) as direct:
            asked = {"jsonrpc": "2.0", "id": 1, "method": "ListTaskPushNotificationConfigs", "params": {"taskId": task_id}}
            at_agent = (await direct.post(agent_url, json=asked, headers={"a2a-version": "1.0"})).text
        assert place not in at_agent
        assert "client-secret" not in at_agent
        gone = await call(world, "paul", "DeleteTaskPushNotificationConfig", {"taskId": task_id, "id": "mine"})
        assert gone["result"] in ({}, None)
        assert (await call(world, "paul", "ListTaskPushNotificationConfigs", {"taskId": task_id}))["result"].get(
            "configs", []
        ) == []


async def test_rest_carries_the_same_four_operations(tmp_path: Path, agent_url: str) -> None:
    async with receiver() as (url, place, _), gateway(tmp_path, {"ref": agent_url}, allowed=Allowed(private=(place,))) as world:
        task_id = (await world.send("paul", "tck-input-required-push-rest"))["result"]["task"]["id"]
        headers = world.token("paul") | {"a2a-version": "1.0"}
        base = f"/a2a/ref/rest/tasks/{task_id}/pushNotificationConfigs"
        made = (await world.client.post(base, json=config(url, id="one"), headers=headers)).json()
        assert made["url"] == url
        assert (await world.client.get(f"{base}/one", headers=headers)).json() == made
        assert (await world.client.get(base, headers=headers)).json()["configs"] == [made]
        assert (await world.client.delete(f"{base}/one", headers=headers)).json() == {}
        assert (await world.client.get(f"{base}/one", headers=world.token("mia") | {"a2a-version": "1.0"})).status_code == 404


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """A gateway before an agent that remembers what it was told, and gives it away to the test."""

    @asynccontextmanager
    async def open_(place: str) -> AsyncIterator[tuple[World, dict[str, Any]]]:
        told: dict[str, Any] = {}

        async def agent(request: Request) -> None:
            params = request.rpc["params"]
            told.update(params.get("configuration", {}).get("taskPushNotificationConfig", {}))
            await request.result(task("WORKING", "t1", "ctx"))

        async with scripted(agent) as (url, _), gateway(tmp_path, {"ref": url}, allowed=Allowed(private=(place,))) as world:
            params = {
                "message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]},
                "configuration": {"taskPushNotificationConfig": config(f"http://{place}/hook")},
            }
            assert "result" in await call(world, "paul", "SendMessage", params)
            yield world, told

    return open_  # type: ignore[return-value]


async def back(
    world: World, told: dict[str, Any], event: Any, secret: str | None = None, path: str | None = None
) -> httpx.Response:
    shown = told["authentication"]["credentials"] if secret is None else secret
    headers = {"authorization": f"Bearer {shown}", "content-type": "application/json"}
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    return await world.client.post(path or told["url"], content=body, headers=headers)


def update(task_id: str, text: str = "") -> dict[str, Any]:
    status = {"state": "TASK_STATE_WORKING", "message": {"messageId": text, "role": "ROLE_AGENT", "parts": [{"text": text}]}}
    return {"statusUpdate": {"taskId": task_id, "contextId": "ctx", "status": status}}


async def test_an_unknown_callback_a_wrong_secret_and_another_task_are_answered_alike(opened: Any) -> None:
    async with receiver() as (_, place, hook), opened(place) as (world, told):
        wrong = [
            await back(world, told, update("t1"), secret="x" * 43),
            await back(world, told, update("t1"), path=f"{world.url}/a2a-callback/{'a' * 32}"),
            await back(world, told, update("another")),
            await world.client.get(told["url"]),
        ]
        assert {(answer.status_code, answer.content) for answer in wrong} == {(404, b'{"title":"refused"}')}
        for body in (b"{", b"[]", b'{"statusUpdate":{},"statusUpdate":{}}', {}):
            assert (await back(world, told, body)).status_code == 400
        assert hook.requests == []
        assert (await back(world, told, update("t1"))).status_code == 200
        await hook.got(1)


async def test_news_comes_in_the_order_of_the_task_and_is_tried_again(opened: Any) -> None:
    failures = iter([500, 503, 429])

    async def sometimes(request: Request) -> None:
        await request.reply(b"", status=next(failures, 200))

    async with receiver(sometimes) as (_, place, hook), opened(place) as (world, told):
        for number in range(4):
            assert (await back(world, told, update("t1", f"n{number}"))).status_code == 200
        requests = await hook.got(6)
        texts = [json.loads(each.body)["statusUpdate"]["status"]["message"]["messageId"] for each in requests]
        assert texts[:3] == ["n0", "n0", "n0"]
        assert sorted(set(texts[3:]), key=texts.index) in (["n1", "n2", "n3"], ["n0", "n1", "n2", "n3"])


async def test_a_redirect_is_not_followed_and_is_on_record_as_a_failure(opened: Any) -> None:
    async with receiver() as (elsewhere, _, other):

        async def away(request: Request) -> None:
            await request.reply(b"", status=302)

        async with receiver(away) as (_, place, hook), opened(place) as (world, told):
            assert elsewhere
            await back(world, told, update("t1"))
            await hook.got(1)
            await world.ledger.when(lambda entries: entries[-1].kind == "call.end" and "302" in str(entries[-1].fields))
            assert other.requests == []


async def test_news_that_policy_forbids_by_now_goes_nowhere(opened: Any) -> None:
    async with receiver() as (_, place, hook), opened(place) as (world, told):
        world.verdicts["user:dev/paul", "a2a:ref"] = DENY
        assert (await back(world, told, update("t1"))).status_code == 200
        await world.ledger.when(lambda entries: entries[-1].kind == "decision.deny")
        assert hook.requests == []


async def test_without_webhooks_that_are_allowed_the_card_says_so_and_configurations_are_refused(world: World) -> None:
    card = (await world.client.get("/a2a/ref/.well-known/agent-card.json", headers=world.token("paul"))).json()
    assert card["capabilities"]["pushNotifications"] is False
    said = await call(
        world,
        "paul",
        "SendMessage",
        {
            "message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]},
            "configuration": {"taskPushNotificationConfig": config("https://hooks.example.com/")},
        },
    )
    assert said["error"]["code"] == -32003
