"""A2A 0.3 by JSON-RPC, for agents whose settings say so: the same checks, and each side hears its own version."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from a2a.client.card_resolver import A2ACardResolver
from a2a.client.client import Client, ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.types import a2a_pb2 as pb

from gateway.a2a.webhook import Allowed
from tests.a2a.agents import Agent, Answering, Request, scripted
from tests.a2a.test_push import receiver
from tests.a2a.world import DENY, HIDDEN, World, gateway, reference_agent

Opened = Callable[..., AbstractAsyncContextManager[tuple[World, Agent]]]
BOTH, OLD = {"versions": ("1.0", "0.3")}, {"versions": ("0.3",)}
IDS = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
TIMES = re.compile(r"timestamp \{[^}]*\}")


@pytest.fixture(scope="module")
def old_agent() -> Iterator[str]:
    with reference_agent("--compat03") as url:
        yield url


@pytest.fixture
async def world(tmp_path: Path, old_agent: str) -> AsyncIterator[World]:
    peers = {"ref": BOTH, "old": OLD}
    async with gateway(tmp_path, {"ref": old_agent, "old": old_agent, "new": old_agent}, peers=peers) as running:
        yield running


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    @asynccontextmanager
    async def open_(script: Answering, **options: Any) -> AsyncIterator[tuple[World, Agent]]:
        async with scripted(script) as (url, agent), gateway(tmp_path, {"ref": url}, peers={"ref": BOTH}, **options) as world:
            yield world, agent

    return open_


async def rpc(world: World, person: str, method: str, params: Any, *, agent: str = "ref", **headers: str) -> Any:
    """A call as a client of 0.3 makes it, without `A2A-Version`; the JSON of its answer."""
    body = {"jsonrpc": "2.0", "id": "1", "method": method, "params": params}
    answer = await world.client.post(f"/a2a/{agent}/", json=body, headers=world.token(person) | headers)
    return answer.json()


def message(message_id: str = "m", **more: Any) -> dict[str, Any]:
    return {
        "message": {"kind": "message", "messageId": message_id, "role": "user", "parts": [{"kind": "text", "text": "hi"}], **more}
    }


def task(state: str = "completed", **more: Any) -> dict[str, Any]:
    return {"kind": "task", "id": "t-1", "contextId": "c-1", "status": {"state": state}, **more}


def update(state: str, *, final: bool) -> dict[str, Any]:
    return {"kind": "status-update", "taskId": "t-1", "contextId": "c-1", "final": final, "status": {"state": state}}


async def events(world: World, person: str = "paul", message_id: str = "m") -> list[Any]:
    body = {"jsonrpc": "2.0", "id": "1", "method": "message/stream", "params": message(message_id)}
    found = []
    async with world.client.stream("POST", "/a2a/ref/", json=body, headers=world.token(person)) as answer:
        async for line in answer.aiter_lines():
            assert not line.startswith("event:")  # clients of 0.3 read events without a name
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
    return found


# --- the official client


async def transcript(client: Client, prefix: str) -> list[str]:
    """What the SDK's client makes of every operation that 0.3 has; ids and times do not count."""
    said: list[Any] = []

    async def heard(make: Callable[[], Any]) -> Any:
        try:
            answer = await make()
        except Exception as error:  # noqa: BLE001  what it raises is what is compared
            said.append(f"{type(error).__name__}: {error}")
            return None
        said.append(answer)
        return answer

    async def send(message_id: str, **more: Any) -> Any:
        request = pb.SendMessageRequest(
            message=pb.Message(message_id=message_id, role=pb.Role.ROLE_USER, parts=[pb.Part(text="hi")], **more)
        )
        return await heard(lambda: _all(client.send_message(request)))

    await send(f"{prefix}-echo")
    await send("tck-message-response-1")
    await send("tck-stream-artifact-chunked-1")
    await send("tck-artifact-file-1")
    await send("tck-artifact-file-url-1")
    await send("tck-artifact-data-1")
    await send("tck-reject-task-1")
    waiting = await send("tck-input-required-1")
    first = waiting[0]
    task_id = first.task.id or first.status_update.task_id
    await heard(lambda: client.get_task(pb.GetTaskRequest(id=task_id, history_length=5)))
    await heard(lambda: client.get_task(pb.GetTaskRequest(id="nobody's")))
    await send("tck-complete-task-1", task_id=task_id)
    other = await send("tck-input-required-2")
    other_id = other[0].task.id or other[0].status_update.task_id
    await heard(lambda: client.cancel_task(pb.CancelTaskRequest(id=other_id)))
    await heard(lambda: client.cancel_task(pb.CancelTaskRequest(id=other_id)))
    await heard(lambda: _all(client.subscribe(pb.SubscribeToTaskRequest(id=other_id))))
    return [TIMES.sub("TIME", IDS.sub("ID", str(each))) for each in said]


async def _all(events: AsyncIterator[Any]) -> list[Any]:
    return [event async for event in events]


@asynccontextmanager
async def sdk_client(url: str, headers: dict[str, str], *, streaming: bool) -> AsyncIterator[Client]:
    """The SDK's client of 0.3: of the card's interfaces it is left those of that version."""
    async with httpx.AsyncClient(headers=headers, timeout=30, trust_env=False, verify=False) as http:
        card = await A2ACardResolver(http, url).get_agent_card()
        kept = [
            each for each in card.supported_interfaces if (each.protocol_version, each.protocol_binding) == ("0.3", "JSONRPC")
        ]
        assert kept
        del card.supported_interfaces[:]
        card.supported_interfaces.extend(kept)
        yield ClientFactory(ClientConfig(streaming=streaming, httpx_client=http)).create(card)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streams"])
@pytest.mark.parametrize("agent", ["ref", "old"])
async def test_the_official_client_gets_the_same_direct_and_through_the_gateway(
    world: World, old_agent: str, agent: str, *, streaming: bool
) -> None:
    async with sdk_client(old_agent, {}, streaming=streaming) as direct:
        wanted = await transcript(direct, "plain")
    async with sdk_client(f"{world.url}/a2a/{agent}/", world.token("paul"), streaming=streaming) as through:
        assert await transcript(through, "plain") == wanted
    starts = [entry.fields for entry in world.ledger.entries if entry.kind == "call.start"]
    assert {fields["proto_ver"] for fields in starts if fields["method"] != "GetAgentCard"} == {"0.3"}
    assert {fields["method"] for fields in starts} >= {"GetTask", "CancelTask"}


async def test_the_official_client_finds_the_gateway_by_the_members_of_0_3_alone(world: World) -> None:
    card = (await world.client.get("/a2a/ref/.well-known/agent-card.json", headers=world.token("paul"))).json()
    here = f"{world.url}/a2a/ref/"
    assert [each["protocolVersion"] for each in card["supportedInterfaces"]] == ["1.0", "1.0", "0.3"]
    assert (card["url"], card["preferredTransport"], card["protocolVersion"]) == (here, "JSONRPC", "0.3.0")
    assert card["security"] == [{"bearer": []}]
    assert card["securitySchemes"]["bearer"]["type"] == "http"
    assert card["securitySchemes"]["bearer"]["httpAuthSecurityScheme"]["scheme"] == "Bearer"
    assert "additionalInterfaces" not in card
    async with httpx.AsyncClient(headers=world.token("paul"), timeout=30, trust_env=False, verify=False) as http:
        parsed = await A2ACardResolver(http, here).get_agent_card()
        del parsed.supported_interfaces[:]
        client = ClientFactory(ClientConfig(streaming=False, httpx_client=http)).create(
            pb.AgentCard(
                name="x",
                supported_interfaces=[
                    pb.AgentInterface(url=card["url"], protocol_binding=card["preferredTransport"], protocol_version="0.3")
                ],
            )
        )
        request = pb.SendMessageRequest(
            message=pb.Message(message_id="plain", role=pb.Role.ROLE_USER, parts=[pb.Part(text="hi")])
        )
        (event,) = await _all(client.send_message(request))
    assert event.task.status.state == pb.TaskState.TASK_STATE_COMPLETED


async def test_the_extended_card_is_told_in_0_3_with_the_skills_that_policy_lets_the_caller_see(tmp_path: Path) -> None:
    with reference_agent("--extended", "--auth", "--compat03") as url:
        async with gateway(tmp_path, {"ref": url}, peers={"ref": BOTH}) as world:
            world.verdicts["user:dev/mia", "skill:ref/secret"] = HIDDEN
            seen = {}
            for person in ("paul", "mia"):
                async with sdk_client(f"{world.url}/a2a/ref/", world.token(person), streaming=False) as client:
                    card = await client.get_extended_agent_card(pb.GetExtendedAgentCardRequest())
                assert [each.url for each in card.supported_interfaces] == [f"{world.url}/a2a/ref/"]
                seen[person] = [skill.id for skill in card.skills]
            assert seen == {"paul": ["tck", "echo", "secret"], "mia": ["tck", "echo"]}
            assert url.removeprefix("http://") not in str(card)
            answer = await rpc(world, "paul", "agent/getAuthenticatedExtendedCard", {})
            assert answer["result"]["protocolVersion"] == "0.3.0"
            assert url.removeprefix("http://") not in json.dumps(answer)


async def test_a_card_without_0_3_has_none_of_its_members(world: World) -> None:
    card = (await world.client.get("/a2a/new/.well-known/agent-card.json", headers=world.token("paul"))).json()
    assert not card.keys() & {"url", "preferredTransport", "protocolVersion", "additionalInterfaces", "security"}
    assert [each["protocolVersion"] for each in card["supportedInterfaces"]] == ["1.0", "1.0"]


# --- who is served what


async def test_only_agents_whose_settings_say_so_are_served_in_0_3(world: World) -> None:
    assert (await rpc(world, "paul", "message/send", message("plain")))["result"]["kind"] == "task"
    refused = (await rpc(world, "paul", "message/send", message("plain"), agent="new"))["error"]
    assert refused["code"] == -32009
    assert refused["data"][0]["metadata"] == {"supportedVersions": "1.0"}
    answer = (
        await world.rpc("paul", "SendMessage", {"message": {"messageId": "m", "parts": [{"text": "x"}]}}, agent="old")
    ).json()
    assert answer["error"]["code"] == -32009
    assert answer["error"]["data"][0]["metadata"] == {"supportedVersions": "0.3"}


async def test_a_method_of_1_0_without_its_version_is_told_which_one_it_lacks(world: World) -> None:
    assert (await rpc(world, "paul", "SendMessage", {}))["error"]["code"] == -32009
    assert (await rpc(world, "paul", "message/sendd", {}))["error"]["code"] == -32601
    assert (await world.rpc("paul", "message/send", message())).json()["error"]["code"] == -32601


async def test_two_versions_in_one_request_are_none(world: World) -> None:
    body = {"jsonrpc": "2.0", "id": "1", "method": "message/send", "params": message("plain")}
    answer = await world.client.post("/a2a/ref/?A2A-Version=1.0", json=body, headers=world.token("paul") | {"a2a-version": "0.3"})
    assert answer.json()["error"]["code"] == -32009


@pytest.mark.parametrize("params", [message("plain"), {"message": 1}], ids=["well-formed", "malformed"])
async def test_a_hidden_agent_is_no_agent_in_0_3_whichever_versions_it_has(world: World, params: Any) -> None:
    world.verdicts[("*", "a2a:new")] = world.verdicts[("*", "a2a:ref")] = HIDDEN
    unknown, new, ref = [await rpc(world, "paul", "message/send", params, agent=agent) for agent in ("ghost", "new", "ref")]
    for answer in (unknown, new, ref):
        for detail in answer["error"]["data"]:
            detail["metadata"].pop("decisionId", None)
    assert new == ref == unknown


async def test_a_denial_says_so_in_0_3(world: World) -> None:
    world.verdicts[("*", "a2a:ref")] = DENY
    refused = await rpc(world, "paul", "message/send", message("plain"))
    assert refused["error"]["code"] == -32000
    assert refused["error"]["message"] == "Denied by policy. Do not retry."


# --- what each side hears


async def test_the_agent_hears_0_3_and_nothing_that_was_not_checked(opened: Opened) -> None:
    async def script(request: Request) -> None:
        await request.result(task(contextId=request.rpc["params"]["message"]["contextId"]))

    sent = message("m", contextId="c-1", metadata={"n": 1, "none": None, "bailiwick/subject": "x"}, unheardOf={"a": 1})
    sent["configuration"] = {"acceptedOutputModes": ["text/plain"], "historyLength": 3}
    async with opened(script) as (world, agent):
        answer = await rpc(world, "paul", "message/send", sent)
        assert answer == {"jsonrpc": "2.0", "id": "1", "result": task()}
        (got,) = agent.requests
        assert got.headers["a2a-version"] == "0.3"
        assert got.rpc["method"] == "message/send"
        named = got.rpc["params"]["message"]["contextId"]
        assert named != "c-1"
        assert got.rpc["params"] == {
            "message": {
                "kind": "message", "messageId": "m", "role": "user", "contextId": named,
                "parts": [{"kind": "text", "text": "hi"}], "metadata": {"n": 1, "none": None},
            },
            "configuration": {"acceptedOutputModes": ["text/plain"], "historyLength": 3},
        }  # fmt: skip


@pytest.mark.parametrize("blocking", [True, False, None])
async def test_whether_the_agent_waits_is_the_clients_word_or_the_agents_choice(opened: Opened, *, blocking: bool | None) -> None:
    async def script(request: Request) -> None:
        await request.result(task())

    said = {"historyLength": 2} if blocking is None else {"historyLength": 2, "blocking": blocking}
    async with opened(script) as (world, agent):
        await rpc(world, "paul", "message/send", message() | {"configuration": said})
        assert agent.requests[0].rpc["params"]["configuration"] == said


async def test_events_are_0_3_objects_and_the_last_one_says_so(opened: Opened) -> None:
    piece = {"kind": "artifact-update", "taskId": "t-1", "contextId": "c-1", "append": True, "lastChunk": False}
    piece["artifact"] = {"artifactId": "a", "parts": [{"kind": "data", "data": {"n": 1, "m": None}}]}
    said = [task("submitted"), update("working", final=False), piece, update("input-required", final=True)]

    async def script(request: Request) -> None:
        for event in said:
            await request.event(event)
        await request.gone()  # what says that it is the last one ends the stream, though its agent leaves it open

    async with opened(script) as (world, _):
        assert [each["result"] for each in await events(world)] == said
        assert world.ledger.entries[-1].fields["outcome"]["status"] == "ok"


@pytest.mark.parametrize("stamp", ["2026-12-01T08:00:00", "2026-12-01T08:00:00Z", "2026-12-01T09:00:00+01:00"])
async def test_a_time_is_the_same_however_it_was_written(opened: Opened, stamp: str) -> None:
    async def script(request: Request) -> None:
        await request.result(task() | {"status": {"state": "working", "timestamp": stamp}})

    async with opened(script) as (world, _):
        answer = await rpc(world, "paul", "message/send", message())
        assert answer["result"]["status"]["timestamp"] == "2026-12-01T08:00:00Z"


BAD_ANSWERS: dict[str, Any] = {
    "no kind": {"id": "t-1", "contextId": "c-1", "status": {"state": "working"}},
    "a kind that is none": task() | {"kind": "letter"},
    "an event where an answer belongs": update("working", final=False),
    "an answer of 1.0": {"task": {"id": "t-1", "contextId": "c-1", "status": {"state": "TASK_STATE_WORKING"}}},
    "a state of 1.0": task() | {"status": {"state": "TASK_STATE_WORKING"}},
    "both spellings": task() | {"context_id": "c-2"},
    "a part of two contents": task(artifacts=[{"artifactId": "a", "parts": [{"kind": "text", "text": "x", "data": {}}]}]),
    "a number for an id": task() | {"id": 5},
    "a number that no reader holds": task(metadata={"a": 10**400}),
    "a time before there was any": task() | {"status": {"state": "working", "timestamp": "0001-01-01T00:00:00+14:00"}},
    "a time after all": task() | {"status": {"state": "working", "timestamp": "9999-12-31T23:59:59-12:00"}},
    "no task": [],
}


@pytest.mark.parametrize("bad", BAD_ANSWERS)
async def test_an_answer_that_is_not_0_3_is_an_invalid_response(opened: Opened, bad: str) -> None:
    async def script(request: Request) -> None:
        await request.result(BAD_ANSWERS[bad])

    async with opened(script) as (world, _):
        assert (await rpc(world, "paul", "message/send", message()))["error"]["code"] == -32006


async def test_an_error_mid_stream_is_an_event_that_clients_of_0_3_can_read(opened: Opened) -> None:
    async def script(request: Request) -> None:
        await request.event(task("working"))
        await request.raw(b"data: nonsense\n\n")
        await request.end()

    async with opened(script) as (world, _):
        first, last = await events(world)
        assert first["result"]["kind"] == "task"
        assert last["error"]["code"] == -32006


# --- whose it is


async def test_somebody_elses_task_is_unknown_in_0_3(world: World) -> None:
    mine = (await rpc(world, "paul", "message/send", message("tck-input-required-1")))["result"]
    for method, params in (
        ("tasks/get", {"id": mine["id"]}),
        ("tasks/cancel", {"id": mine["id"]}),
        ("tasks/resubscribe", {"id": mine["id"]}),
        ("message/send", message("m", taskId=mine["id"])),
        ("message/send", message("m", task_id=mine["id"])),
        ("message/send", message("m", referenceTaskIds=[mine["id"]])),
        ("message/stream", message("m", taskId=mine["id"])),
        ("tasks/pushNotificationConfig/get", {"id": mine["id"], "pushNotificationConfigId": "x"}),
        ("tasks/pushNotificationConfig/get", {"id": mine["id"]}),
        ("tasks/pushNotificationConfig/list", {"id": mine["id"]}),
        ("tasks/pushNotificationConfig/delete", {"id": mine["id"], "pushNotificationConfigId": "x"}),
    ):
        answer = await rpc(world, "mia", method, params)
        assert answer["error"]["code"] == -32001, method
        assert mine["id"] not in json.dumps(answer)
    foreign = (await rpc(world, "mia", "message/send", message("tck-input-required-2", contextId=mine["contextId"])))["result"]
    assert foreign["contextId"] == mine["contextId"]
    listed = (await world.rpc("paul", "ListTasks", {"contextId": mine["contextId"]})).json()["result"]
    assert [each["id"] for each in listed["tasks"]] == [mine["id"]]
    assert (await rpc(world, "paul", "tasks/get", {"id": mine["id"]}))["result"]["id"] == mine["id"]


async def test_a_task_is_its_persons_in_either_version(world: World) -> None:
    made = (await rpc(world, "paul", "message/send", message("tck-input-required-1")))["result"]["id"]
    assert (await world.rpc("paul", "GetTask", {"id": made})).json()["result"]["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    assert (await world.rpc("mia", "GetTask", {"id": made})).json()["error"]["code"] == -32001


# --- push notifications


def config(url: str, **more: Any) -> dict[str, Any]:
    return {
        "url": url,
        "token": "client-token",
        "authentication": {"schemes": ["Bearer"], "credentials": "client-secret"},
        **more,
    }


async def test_configurations_of_0_3_are_the_clients_own_words(tmp_path: Path, old_agent: str) -> None:
    async with (
        receiver() as (url, place, _),
        gateway(tmp_path, {"ref": old_agent}, peers={"ref": BOTH}, allowed=Allowed(private=(place,))) as world,
    ):
        made = (await rpc(world, "paul", "message/send", message("tck-input-required-p")))["result"]["id"]
        mine = {"taskId": made, "pushNotificationConfig": config(url, id="one")}
        names = {"id": made, "pushNotificationConfigId": "one"}
        assert (await rpc(world, "paul", "tasks/pushNotificationConfig/set", mine))["result"] == mine
        assert (await rpc(world, "paul", "tasks/pushNotificationConfig/get", names))["result"] == mine
        assert (await rpc(world, "paul", "tasks/pushNotificationConfig/list", {"id": made}))["result"] == [mine]
        assert (await rpc(world, "paul", "tasks/pushNotificationConfig/delete", names))["result"] is None
        assert (await rpc(world, "paul", "tasks/pushNotificationConfig/list", {"id": made}))["result"] == []
        unnamed = {"taskId": made, "pushNotificationConfig": config(url)}
        assert "result" in await rpc(world, "paul", "tasks/pushNotificationConfig/set", unnamed)
        found = await rpc(world, "paul", "tasks/pushNotificationConfig/get", {"id": made})
        assert found["result"]["pushNotificationConfig"]["url"] == url


@pytest.mark.parametrize("shows", ["token", "authorization"])
@pytest.mark.parametrize("says", ["bare", "event"])
async def test_news_reaches_a_client_of_0_3_as_a_bare_task(opened: Opened, shows: str, says: str) -> None:
    told: dict[str, Any] = {}

    async def script(request: Request) -> None:
        told.update(request.rpc["params"]["configuration"]["pushNotificationConfig"])
        await request.result(task("working"))

    async with receiver() as (url, place, hook), opened(script, allowed=Allowed(private=(place,))) as (world, _):
        asked = message("m") | {"configuration": {"blocking": False, "pushNotificationConfig": config(url)}}
        assert (await rpc(world, "paul", "message/send", asked))["result"]["id"] == "t-1"
        assert told["url"].startswith(f"{world.url}/a2a-callback/")
        assert "client" not in json.dumps(told)
        secret = told["authentication"]["credentials"]
        header = (
            {"authorization": f"Bearer {secret}"} if shows == "authorization" else {"x-a2a-notification-token": told["token"]}
        )
        done = {"taskId": "t-1", "contextId": "c-1", "status": {"state": "TASK_STATE_COMPLETED"}}
        news = task("completed") if says == "bare" else {"statusUpdate": done}
        assert (await world.client.post(told["url"], json=news, headers=header)).status_code == 200
        (seen,) = await hook.got(1)
        assert seen.rpc == task("completed")
        assert seen.headers["authorization"] == "Bearer client-secret"
        assert seen.headers["x-a2a-notification-token"] == "client-token"
        wrong = await world.client.post(told["url"], json=news, headers={"x-a2a-notification-token": "x" * 43})
        assert wrong.status_code == 404
