"""Push notification configurations and what comes of them (A2A 1.0 §3.1.7-10, §4.3); webhooks are at localhost, on any port."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.a2a.conformance.verdicts import check, each
from tests.a2a.conformance.wires import INVALID, Wire

CREATE, GET, LIST, DELETE = (
    "CreateTaskPushNotificationConfig",
    "GetTaskPushNotificationConfig",
    "ListTaskPushNotificationConfigs",
    "DeleteTaskPushNotificationConfig",
)


def config(wire: Wire, **more: Any) -> dict[str, Any]:
    authentication = {"scheme": "Bearer", "credentials": "of-client"}
    return {"url": wire.hook.url(wire.run), "token": "token-of-client", "authentication": authentication, **more}


async def made(wire: Wire, **more: Any) -> dict[str, Any]:
    answer = await wire.ask(CREATE, config(wire, **more))
    assert answer.error is None, answer.whole
    found: dict[str, Any] = answer.result
    return found


@check(kinds=("full", "auth"))
async def a_configuration_is_kept_and_told_as_it_was_given(wire: Wire) -> None:
    task = await wire.task("tck-input-required")
    one = await made(wire, taskId=task["id"], id="one")
    assert one.items() >= config(wire, taskId=task["id"], id="one").items()
    assert (await wire.ask(GET, {"taskId": task["id"], "id": "one"})).result == one
    two = await made(wire, taskId=task["id"], id="two")
    listed = (await wire.ask(LIST, {"taskId": task["id"]})).result["configs"]
    assert sorted(listed, key=lambda each: str(each["id"])) == [one, two]


@check()
async def a_configuration_without_an_id_gets_one(wire: Wire) -> None:
    task = await wire.task("tck-input-required")
    found = await made(wire, taskId=task["id"])
    assert found["id"]
    assert (await wire.ask(GET, {"taskId": task["id"], "id": found["id"]})).result == found


@check()
async def a_configuration_is_replaced_by_one_of_its_id(wire: Wire) -> None:
    task = await wire.task("tck-input-required")
    await made(wire, taskId=task["id"], id="one", token="first")
    again = await made(wire, taskId=task["id"], id="one", token="second")
    assert again["token"] == "second"
    assert (await wire.ask(LIST, {"taskId": task["id"]})).result["configs"] == [again]


@check(kinds=("full", "auth"))
async def a_configuration_is_deleted_once_and_again(wire: Wire) -> None:
    task = await wire.task("tck-input-required")
    await made(wire, taskId=task["id"], id="one")
    for _ in range(2):
        assert (await wire.ask(DELETE, {"taskId": task["id"], "id": "one"})).error is None
    assert (await wire.ask(GET, {"taskId": task["id"], "id": "one"})).reason == "TASK_NOT_FOUND"
    assert (await wire.ask(LIST, {"taskId": task["id"]})).result.get("configs", []) == []


@check(kinds=("full", "auth"))
async def news_reaches_a_webhook_with_its_token_and_credential(wire: Wire) -> None:
    task = await wire.task("tck-input-required")
    await made(wire, taskId=task["id"], id="one")
    await wire.task("tck-complete-task", taskId=task["id"])
    news = await asyncio.to_thread(wire.hook.until, wire.run, task["id"])
    assert news
    for piece in news:
        assert piece["headers"] == {
            "Authorization": "Bearer of-client",
            "X-A2A-Notification-Token": "token-of-client",
            "Content-Type": "application/json",
        }
        (kind,) = piece["body"]
        assert kind in {"task", "message", "statusUpdate", "artifactUpdate"}
    assert news[-1]["body"]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"


@check()
async def a_webhook_named_with_a_message_hears_of_its_task(wire: Wire) -> None:
    task = await wire.task("tck-complete-task", configuration={"taskPushNotificationConfig": config(wire)})
    news = await asyncio.to_thread(wire.hook.until, wire.run, task["id"])
    assert any("statusUpdate" in piece["body"] for piece in news)
    assert {piece["headers"]["X-A2A-Notification-Token"] for piece in news} == {"token-of-client"}


@check()
async def a_webhook_that_is_deleted_hears_nothing_more(wire: Wire) -> None:
    task = await wire.task("tck-input-required")
    await made(wire, taskId=task["id"], id="gone", url=wire.hook.url(f"{wire.run}-gone"))
    await made(wire, taskId=task["id"], id="kept")
    await wire.ask(DELETE, {"taskId": task["id"], "id": "gone"})
    await wire.task("tck-complete-task", taskId=task["id"])
    assert await asyncio.to_thread(wire.hook.until, wire.run, task["id"])
    assert f"{wire.run}-gone" not in wire.hook.came


@check()
async def a_configuration_without_an_address_is_refused(wire: Wire) -> None:
    task = await wire.task("tck-input-required")
    answer = await wire.ask(CREATE, {"taskId": task["id"], "id": "one"})
    assert answer.error is not None
    assert answer.error["code"] in INVALID


@each({"create": CREATE, "get": GET, "list": LIST, "delete": DELETE}, kinds=("minimal",))
async def an_agent_that_tells_nobody_says_so(wire: Wire, op: str) -> None:
    assert not wire.card["capabilities"].get("pushNotifications")
    task = await wire.task("tck-input-required")
    params = {CREATE: config(wire, taskId=task["id"], id="one"), LIST: {"taskId": task["id"]}}
    answer = await wire.ask(op, params.get(op, {"taskId": task["id"], "id": "one"}))
    assert answer.reason == "PUSH_NOTIFICATION_NOT_SUPPORTED", answer.whole
