"""An agent that asks its person to authorise something: on record, told, and no authorisation of anything."""

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
from tests.a2a.test_push import config, receiver
from tests.a2a.world import DENY, World, gateway

Opened = Callable[..., AbstractAsyncContextManager[tuple[World, Agent]]]
PLACES = frozenset({"idp.example", "*.corp.example"})


def asking(*parts: Any, task_id: str = "t-1") -> dict[str, Any]:
    """A task that waits for authorisation, in these words."""
    found = task("AUTH_REQUIRED", task_id)
    found["task"]["status"]["message"] = {"messageId": "m", "role": "ROLE_AGENT", "parts": list(parts)}
    return found


def text_of(status: dict[str, Any]) -> str | None:
    message = status.get("message")
    return None if message is None else str(message["parts"][0]["text"])


def asked(world: World) -> list[dict[str, Any]]:
    """What is on record of it."""
    return [entry.fields for entry in world.ledger.entries if entry.kind == "authorisation.ask"]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    @asynccontextmanager
    async def open_(script: Answering, **peer: Any) -> AsyncIterator[tuple[World, Agent]]:
        async with scripted(script) as (url, agent), gateway(tmp_path, {"ref": url}, peers={"ref": peer}) as world:
            yield world, agent

    return open_


async def test_it_is_on_record_before_the_client_is_told_and_the_stream_stays_open(tmp_path: Path, agent_url: str) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage"}
    body["params"] = {"message": {"messageId": "gw-auth-open-1", "role": "ROLE_USER", "parts": [{"text": "hi"}]}}
    async with gateway(tmp_path, {"ref": agent_url}) as world:
        headers = world.token("paul") | {"a2a-version": "1.0"}
        states = []
        async with world.client.stream("POST", "/a2a/ref/", json=body, headers=headers) as answer:
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line[6:])["result"]
                status = event.get("task", event.get("statusUpdate"))["status"]
                states.append(status["state"])
                if status["state"] == "TASK_STATE_AUTH_REQUIRED":
                    (record,) = asked(world)
                    assert record["hosts"] == ["idp.example"]
                    assert record["withheld"] is False
                    assert record["task"] in line
                    assert text_of(status) == "Please authorise at https://idp.example/"
                    await world.send("paul", "gw-release-1")
        assert states[-1] == "TASK_STATE_COMPLETED"


async def test_what_follows_goes_through_policy_as_ever_and_brings_no_credential_along(opened: Opened) -> None:
    async def script(request: Request) -> None:
        await request.result(asking({"text": "go to https://idp.example/"}))

    async with opened(script) as (world, agent):
        assert "result" in await world.send("paul", "m")
        here = {"messageId": "m2", "role": "ROLE_USER", "parts": [{"text": "done"}], "taskId": "t-1"}
        here["metadata"] = {"authorization": "Bearer x", "Txn-Token": "y", "note": "mine"}
        assert "result" in (await world.rpc("paul", "SendMessage", {"message": here})).json()
        assert agent.requests[1].rpc["params"]["message"]["metadata"] == {"note": "mine"}
        assert (await world.rpc("mia", "SendMessage", {"message": here})).json()["error"]["code"] == -32001
        world.verdicts["*", "a2a:ref"] = DENY
        assert (await world.rpc("paul", "SendMessage", {"message": here})).json()["error"]["code"] == -32000
        assert len(agent.requests) == 2


async def test_where_it_cannot_be_recorded_nobody_is_told(opened: Opened) -> None:
    worlds: list[World] = []

    async def script(request: Request) -> None:
        worlds[0].ledger.down = True
        await request.result(asking({"text": "go to https://idp.example/"}))

    async with opened(script) as (world, _):
        worlds.append(world)
        answer = await world.send("paul", "m")
        assert "result" not in answer
        assert "idp.example" not in json.dumps(answer)


async def test_each_time_that_an_agent_asks_is_on_record_once_however_often_it_is_read(opened: Opened) -> None:
    words = ["go to https://idp.example/"]

    async def script(request: Request) -> None:
        found = asking({"text": words[0]})
        await request.result(found["task"] if request.rpc["method"] == "GetTask" else found)

    async with opened(script) as (world, _):
        await world.send("paul", "m")
        for _ in range(3):
            await world.rpc("paul", "GetTask", {"id": "t-1"})
        assert len(asked(world)) == 1
        words[0] = "go to https://idp.example/again"
        await world.rpc("paul", "GetTask", {"id": "t-1"})
        assert len(asked(world)) == 2


ALLOWED_WORDS = [
    {"text": "no address at all; note: none, and a path /x/y"},
    {"text": "go to https://idp.example/authorise?x=1."},
    {"text": "(https://login.corp.example/) or www.corp.example, or HTTPS://IDP.EXAMPLE:8443/x"},
    {"data": {"go": {"to": ["https://a.b.corp.example/?next=/x"]}}},
    {"url": "https://idp.example/"},
]
STRANGE_WORDS = {
    "another host": {"text": "go to https://evil.example/"},
    "one beside an allowed one": {"text": "https://idp.example/ or https://evil.example/"},
    "a user who looks like a host": {"text": "https://idp.example@evil.example/"},
    "a host that begins like one": {"text": "https://idp.example.evil.example/"},
    "a domain without its dot": {"text": "https://evilcorp.example/"},
    "a backslash": {"text": "https:\\\\evil.example/"},
    "a backslash in between": {"text": "https://idp.example\\@evil.example/"},
    "no slashes": {"text": "https:evil.example"},
    "no scheme": {"text": "//evil.example/x"},
    "www": {"text": "www.evil.example"},
    "another scheme": {"text": "ftp://idp.example/"},
    "a number for a host": {"text": "http://2130706433/"},
    "an escape": {"text": "https://idp%2eexample/"},
    "in data": {"data": {"a": [{"b": "see https://evil.example/"}]}},
    "as a key of data": {"data": {"https://evil.example/": 1}},
    "as the address of a part": {"url": "https://evil.example/"},
    "as a file's name": {"raw": "AAAA", "filename": "https://evil.example/"},
    "in metadata": {"text": "x", "metadata": {"link": "https://evil.example/"}},
}


@pytest.mark.parametrize("part", ALLOWED_WORDS, ids=str)
async def test_words_that_lead_where_the_agent_may_send_people_are_told(opened: Opened, part: Any) -> None:
    async def script(request: Request) -> None:
        await request.result(asking(part))

    async with opened(script, sends_to=PLACES) as (world, _):
        told = (await world.send("paul", "m"))["result"]["task"]["status"]
        assert told["message"]["parts"] == [part]
        assert [record["withheld"] for record in asked(world)] == [False]


@pytest.mark.parametrize("name", STRANGE_WORDS)
async def test_words_that_lead_elsewhere_are_withheld(opened: Opened, name: str) -> None:
    async def script(request: Request) -> None:
        await request.result(asking({"text": "please"}, STRANGE_WORDS[name]))

    async with opened(script, sends_to=PLACES) as (world, _):
        answer = await world.send("paul", "m")
        assert answer["result"]["task"]["status"] == {"state": "TASK_STATE_AUTH_REQUIRED"}
        (record,) = asked(world)
        assert record["withheld"] is True


async def test_without_a_list_of_hosts_every_word_is_told(opened: Opened) -> None:
    async def script(request: Request) -> None:
        await request.result(asking({"text": "go to https://evil.example/"}))

    async with opened(script) as (world, _):
        assert text_of((await world.send("paul", "m"))["result"]["task"]["status"]) == "go to https://evil.example/"
        assert asked(world)[0]["hosts"] == ["evil.example"]


async def test_lists_and_news_of_tasks_are_looked_at_too(tmp_path: Path) -> None:
    told: dict[str, Any] = {}
    found = asking({"text": "go to https://evil.example/"})["task"]

    async def script(request: Request) -> None:
        told.update(request.rpc["params"].get("configuration", {}).get("taskPushNotificationConfig", {}))
        listed = request.rpc["method"] == "ListTasks"
        theirs = asking({"text": "https://evil.example/"}, task_id="t-9")["task"]
        await request.result({"tasks": [found, theirs], "pageSize": 2, "totalSize": 2} if listed else task("WORKING"))

    async with (
        receiver() as (url, place, hook),
        scripted(script) as (agent_at, _),
        gateway(tmp_path, {"ref": agent_at}, peers={"ref": {"sends_to": PLACES}}, allowed=Allowed(private=(place,))) as world,
    ):
        message = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}
        inline = {"taskPushNotificationConfig": config(url)}
        await world.rpc("paul", "SendMessage", {"message": message, "configuration": inline})
        (listed,) = (await world.rpc("paul", "ListTasks", {})).json()["result"]["tasks"]
        assert listed["status"] == {"state": "TASK_STATE_AUTH_REQUIRED"}
        header = {"authorization": f"Bearer {told['authentication']['credentials']}"}
        async with httpx.AsyncClient(trust_env=False) as direct:
            assert (await direct.post(told["url"], json={"task": found}, headers=header)).status_code == 200
        (news,) = await hook.got(1)
        assert news.rpc["task"]["status"] == {"state": "TASK_STATE_AUTH_REQUIRED"}
        assert {record["task"] for record in asked(world)} == {"t-1"}  # of somebody else's nothing is said
