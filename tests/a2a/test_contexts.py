"""A word that a client made up for a conversation means one of that person's alone: nobody else's, and no word of the agent's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from a2a.types import a2a_pb2 as pb

from gateway.a2a.steps import A2aSteps
from gateway.a2a.webhook import Allowed
from gateway.model import Arrival, Call, Principal, Trace
from gateway.state import State
from tests.a2a.agents import Request, scripted, status, task
from tests.a2a.conformance.verdicts import WIRES
from tests.a2a.pairs import Hook, Side
from tests.a2a.test_push import config, receiver
from tests.a2a.world import World, gateway

TRACE = Trace("0" * 32, "0" * 16)
WORD = "our talk: Žofie & Šimon"


@pytest.fixture
async def served(tmp_path: Path, upstream: str) -> AsyncIterator[World]:
    """The agent by each of its bindings, to clients of each."""
    async with gateway(tmp_path, {"ref": upstream}, grpc=False) as running:
        yield running


async def heard(world: World, person: str, word: str, agent: str = "ref", *, called: str = "", **headers: str) -> str:
    """Which context the agent hears of; called: what its owner calls it, where that is not what they said."""
    said = {"messageId": "gw-message-x", "role": "ROLE_USER", "parts": [{"text": "x"}], "contextId": word}
    answer = (await world.rpc(person if not headers else None, "SendMessage", {"message": said}, agent=agent, **headers)).json()
    message = answer["result"]["message"]
    assert message["contextId"] == (called or word)
    return str(json.loads(message["parts"][0]["text"])["contextId"])


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON", "GRPC"])
async def test_every_answer_says_the_callers_word_and_the_agent_never_hears_it(served: World, binding: str) -> None:
    base = f"{served.url}/a2a/ref"
    places = {"JSONRPC": f"{base}/", "HTTP+JSON": f"{base}/rest", "GRPC": f"127.0.0.1:{served.doors['ref']}"}
    card = {"supportedInterfaces": [{"url": url, "protocolBinding": name} for name, url in places.items()]}
    inner = await heard(served, "paul", WORD)
    wire = WIRES[binding](Side("through", f"{base}/", served.token("paul")), served.client, Hook(), card)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(wire.close)
        made = await wire.task("tck-input-required", contextId=WORD)
        again = await wire.task("tck-input-required-b", taskId=made["id"], contextId=WORD)
        read = (await wire.ask("GetTask", {"id": made["id"]})).result
        listed = (await wire.ask("ListTasks", {"contextId": WORD})).result
        every = (await wire.ask("ListTasks", {})).result
        events = await wire.events("SendStreamingMessage", wire.message("tck-stream-artifact-chunked", contextId=WORD))
        mixed = await wire.ask("SendMessage", wire.message("plain", taskId=made["id"], contextId="another"))
        ended = (await wire.ask("CancelTask", {"id": made["id"]})).result
        answers = [made, again, read, listed, every, events, ended]
    assert {each["contextId"] for each in (made, again, read, ended, *listed["tasks"], *every["tasks"])} == {WORD}
    assert [each["id"] for each in listed["tasks"]] == [made["id"]]
    assert listed["totalSize"] == 1
    kinds = [next(iter(event)) for event in events]
    assert {"task", "statusUpdate", "artifactUpdate"} == set(kinds)
    assert {event[kind]["contextId"] for event, kind in zip(events, kinds, strict=True)} == {WORD}
    assert mixed.error is not None
    assert inner not in json.dumps([answers, mixed.whole])
    spoken = [message for answer in (again, read, ended) for message in answer["history"]]
    assert {message["contextId"] for message in spoken if message.get("contextId")} == {WORD}


async def test_a_word_means_the_same_after_a_restart_and_for_that_person_alone(tmp_path: Path, agent_url: str) -> None:
    agents = {"ref": agent_url, "other": agent_url}
    async with gateway(tmp_path, agents) as world:
        pauls, mias, elsewhere = (
            await heard(world, "paul", "w"),
            await heard(world, "mia", "w"),
            await heard(world, "paul", "w", "other"),
        )
    async with gateway(tmp_path, agents) as world:
        assert await heard(world, "paul", "w") == pauls
        assert await heard(world, "mia", "w") == mias
        assert await heard(world, "paul", pauls, called="w") == pauls, "who heard of it from the agent may say it"
        theirs = await heard(world, "mia", pauls)
    assert len({pauls, mias, elsewhere, theirs, "w"}) == 5


async def test_what_the_agent_named_goes_on_as_it_is(served: World) -> None:
    made = (await served.send("paul", "tck-input-required-1"))["result"]["task"]
    assert await heard(served, "paul", made["contextId"]) == made["contextId"]
    assert "context" not in served.ledger.entries[-2].fields
    assert await heard(served, "mia", made["contextId"]) not in {made["contextId"], ""}


async def test_both_names_are_on_record(served: World) -> None:
    inner = await heard(served, "paul", WORD)
    start = next(entry for entry in served.ledger.entries if entry.kind == "call.start")
    assert start.fields["context"] == inner
    (asked,) = [value.data for value in start.values if value.name == "request"]
    assert json.loads(asked)["params"]["message"]["contextId"] == WORD
    await served.rpc("paul", "ListTasks", {"contextId": WORD})
    assert served.ledger.entries[-2].fields["context"] == inner


async def test_an_agent_passes_on_its_context_to_another_for_the_same_person(world: World) -> None:
    """Before its own answer is out: what it was told is a word like any other to whoever it calls."""
    said = {"messageId": "gw-headers-1", "role": "ROLE_USER", "parts": [{"text": "x"}], "contextId": WORD}
    answer = (await world.rpc("paul", "SendMessage", {"message": said})).json()
    token = json.loads(answer["result"]["message"]["parts"][0]["text"])["authorization"].removeprefix("Bearer ")
    secret = {"authorization": f"Bearer {world.secrets['ref']}", "bailiwick_delegation": token}
    inner = await heard(world, "paul", WORD)
    onward = await heard(world, "nobody", inner, "other", **secret)
    assert onward not in {inner, WORD}
    assert await heard(world, "nobody", inner, "other", **secret) == onward
    assert await heard(world, "paul", inner, "other") == onward, "it is the person's, whoever acts for them"
    assert await heard(world, "mia", inner, "other") != onward


@pytest.mark.parametrize("before", ["claim", "refuse"])
async def test_what_was_somebodys_before_stays_as_it_was(tmp_path: Path, agent_url: str, before: str) -> None:
    async with gateway(tmp_path, {"ref": agent_url}, peers={"ref": {"contexts": "claim"}}) as world:
        assert await heard(world, "paul", "early") == "early"
    async with gateway(tmp_path, {"ref": agent_url}) as world:
        assert await heard(world, "paul", "early") == "early"
        assert await heard(world, "mia", "early") != "early"
        mapped = await heard(world, "paul", "later")
    async with gateway(tmp_path, {"ref": agent_url}, peers={"ref": {"contexts": before}}) as world:
        assert await heard(world, "paul", "early") == "early"
        assert await heard(world, "paul", "later") == mapped


async def test_an_agents_error_and_its_mentions_are_in_the_callers_words(tmp_path: Path) -> None:
    async def agent(request: Request) -> None:
        context = request.rpc["params"]["message"]["contextId"]
        if "error" in request.rpc["params"]["message"]["messageId"]:
            detail = {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "R",
                "domain": "d",
                "metadata": {"c": context},
            }
            await request.error({"code": -32602, "message": f"no such talk: {context}", "data": [detail]})
            return
        made = task("COMPLETED", "t-1", context)
        first = next((each.rpc["params"]["message"]["contextId"] for each in seen.requests), context)
        made["task"]["history"] = [{"messageId": "h", "role": "ROLE_AGENT", "parts": [{"text": context}], "contextId": first}]
        await request.result(made if context == first else {"message": made["task"]["history"][0]})

    async with scripted(agent) as (url, seen), gateway(tmp_path, {"ref": url}) as world:
        first = (await world.send("paul", "m", contextId="one"))["result"]["task"]
        assert (first["contextId"], first["history"][0]["contextId"]) == ("one", "one")
        inner = seen.requests[0].rpc["params"]["message"]["contextId"]
        assert first["history"][0]["parts"] == [{"text": inner}], "what an agent says is its own"
        other = (await world.send("paul", "m", contextId="two"))["result"]["message"]
        assert other["contextId"] == "one"
        error = (await world.send("paul", "error", contextId="two"))["error"]
        assert error["message"] == "no such talk: two"
        assert error["data"][0]["metadata"] == {"c": "two"}


async def test_an_agent_that_hands_a_persons_context_to_another_is_withheld(tmp_path: Path) -> None:
    async def agent(request: Request) -> None:
        first = seen.requests[0].rpc["params"]["message"]["contextId"]
        await request.result(task("COMPLETED", f"t-{len(seen.requests)}", first))

    async with scripted(agent) as (url, seen), gateway(tmp_path, {"ref": url}) as world:
        assert "result" in await world.send("paul", "m", contextId="w")
        assert (await world.send("mia", "m", contextId="w"))["error"]["code"] == -32006


async def test_attack_an_agent_that_says_where_a_message_is_approved_is_not_passed_on(tmp_path: Path) -> None:
    async def agent(request: Request) -> None:
        made = task("INPUT_REQUIRED", f"t-{len(seen.requests)}", request.rpc["params"]["message"]["contextId"])
        made["task"]["metadata"] = {"bailiwick/approval": {"url": "https://evil.example/approvals/x"}, "own": "said"}
        await request.result(made)

    async with scripted(agent) as (url, seen), gateway(tmp_path, {"ref": url}) as world:
        answer = (await world.send("paul", "m", contextId="w"))["result"]["task"]
        assert "evil.example" not in json.dumps(answer)
        assert answer["metadata"]["own"] == "said"


@pytest.mark.parametrize("event", ["task", "status"])
async def test_news_says_the_clients_word(tmp_path: Path, event: str) -> None:
    async def agent(request: Request) -> None:
        params = request.rpc["params"]
        context, told = params["message"]["contextId"], params["configuration"]["taskPushNotificationConfig"]
        news = task("WORKING", "t-1", context) if event == "task" else status("WORKING", "t-1", context)
        shown = {"authorization": f"Bearer {told['authentication']['credentials']}", "content-type": "application/json"}
        answer = await worlds[0].client.post(told["url"], content=json.dumps(news), headers=shown)
        assert answer.status_code == 200
        await request.result(task("WORKING", "t-1", context))

    worlds: list[World] = []
    async with (
        receiver() as (url, place, hook),
        scripted(agent) as (where, _),
        gateway(tmp_path, {"ref": where}, allowed=Allowed(private=(place,))) as world,
    ):
        worlds.append(world)
        said = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "x"}], "contextId": WORD}
        params: dict[str, Any] = {"message": said, "configuration": {"taskPushNotificationConfig": config(url)}}
        assert (await world.rpc("paul", "SendMessage", params)).json()["result"]["task"]["contextId"] == WORD
        (news,) = await hook.got(1)
        assert next(iter(json.loads(news.body).values()))["contextId"] == WORD


@pytest.mark.parametrize("word", ["x" * 257, "a\nb", "a\0b"])
async def test_a_word_is_bounded(world: World, word: str) -> None:
    assert (await world.send("paul", "m", contextId=word))["error"]["code"] == -32602
    assert (await world.send("paul", "plain", contextId="x" * 256))["result"]["task"]["contextId"] == "x" * 256


async def test_of_two_workflows_that_begin_by_one_word_at_once_the_later_knows_of_the_earlier(tmp_path: Path) -> None:
    """Before either is sent, and on whichever replica each is: so their labels are shared from the start."""
    replicas = [State.open(f"sqlite:///{tmp_path / 'state.db'}") for _ in range(2)]
    readers = [A2aSteps(state.tasks, state.contexts, {"ref"}) for state in replicas]
    message = pb.SendMessageRequest(message=pb.Message(context_id=WORD))
    call = Call(Arrival("id", "a2a", "ref", (), b"", 1, TRACE), "SendMessage", "ref", message, TRACE)
    mine, other = (Principal("user:dev/paul", (), "acme", workflow, 9, "bearer", "") for workflow in ("wf-1", "wf-2"))
    try:
        joins = await asyncio.gather(readers[0].joins(call, mine), readers[1].joins(call, other))
        assert sorted(joins) in ([(), ("wf-1",)], [(), ("wf-2",)])
        assert await readers[0].joins(call, msgspec.structs.replace(mine, subject="user:dev/mia", workflow="wf-3")) == ()
    finally:
        for state in replicas:
            await state.close()
