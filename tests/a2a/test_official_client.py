"""The official SDK's client, which knows nothing of the gateway but the card's URL, works through it."""

from __future__ import annotations

import asyncio

import httpx
from a2a.client.client import ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.types import a2a_pb2 as pb

from tests.a2a.world import World


def message(message_id: str, text: str = "hello") -> pb.SendMessageRequest:
    return pb.SendMessageRequest(message=pb.Message(message_id=message_id, role=pb.Role.ROLE_USER, parts=[pb.Part(text=text)]))


async def events_of(world: World, person: str, message_id: str, *, streaming: bool) -> list[pb.StreamResponse]:
    async with httpx.AsyncClient(headers=world.token(person), timeout=30, trust_env=False, verify=False) as http:
        factory = ClientFactory(ClientConfig(streaming=streaming, httpx_client=http))
        client = await factory.create_from_url(f"{world.url}/a2a/ref/")
        return [event async for event in client.send_message(message(message_id, f"from {person}"))]


async def test_a_message_is_answered_by_a_task(world: World) -> None:
    (event,) = await events_of(world, "paul", "plain-1", streaming=False)
    assert event.task.status.state == pb.TaskState.TASK_STATE_COMPLETED
    assert event.task.artifacts[0].parts[0].text == "echo: from paul"


async def test_a_message_is_answered_by_a_message(world: World) -> None:
    (event,) = await events_of(world, "paul", "tck-message-response-1", streaming=False)
    assert event.message.parts[0].text == "Direct message response"


async def test_a_stream_arrives_event_by_event_and_ends(world: World) -> None:
    events = await events_of(world, "paul", "tck-stream-artifact-chunked-1", streaming=True)
    texts = [event.artifact_update.artifact.parts[0].text for event in events if event.HasField("artifact_update")]
    assert texts == ["chunk-1 ", "chunk-2"]
    assert events[-1].status_update.status.state == pb.TaskState.TASK_STATE_COMPLETED


async def test_a_task_that_needs_input_ends_its_stream(world: World) -> None:
    events = await events_of(world, "paul", "tck-input-required-1", streaming=True)
    assert events[-1].status_update.status.state == pb.TaskState.TASK_STATE_INPUT_REQUIRED


async def test_the_owner_reads_its_task(world: World) -> None:
    (event,) = await events_of(world, "paul", "plain-2", streaming=False)
    async with httpx.AsyncClient(headers=world.token("paul"), timeout=30, trust_env=False, verify=False) as http:
        client = await ClientFactory(ClientConfig(httpx_client=http)).create_from_url(f"{world.url}/a2a/ref/")
        task = await client.get_task(pb.GetTaskRequest(id=event.task.id))
    assert task.id == event.task.id
    assert task.status.state == pb.TaskState.TASK_STATE_COMPLETED


async def test_parallel_streams_do_not_mix(world: World) -> None:
    people = [f"person-{number}" for number in range(12)]
    found = await asyncio.gather(*(events_of(world, person, f"plain-{person}", streaming=True) for person in people))
    for person, events in zip(people, found, strict=True):
        texts = [event.artifact_update.artifact.parts[0].text for event in events if event.HasField("artifact_update")]
        assert texts == [f"echo: from {person}"]


async def test_every_call_has_an_intent_and_an_outcome(world: World) -> None:
    await events_of(world, "paul", "plain-3", streaming=True)
    kinds = [kind for kind in world.ledger.kinds() if not kind.startswith("card.")]
    assert kinds == ["call.start", "call.end"] * 2  # the card, the message
    assert [e.fields["outcome"]["status"] for e in world.ledger.entries if e.kind == "call.end"] == ["ok", "ok"]
