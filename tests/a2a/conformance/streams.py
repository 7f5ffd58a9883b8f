"""Streams (A2A 1.0 §3.1.2, §3.1.6, §9.4.2, §11.7): their order, their end, long ones, many at once, and joining one."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.a2a.conformance.verdicts import check, each
from tests.a2a.conformance.wires import Wire

LONG = 10
OVER = {"TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_CANCELED", "TASK_STATE_REJECTED"}
HEADS = {"JSONRPC": (200, "text/event-stream"), "HTTP+JSON": (200, "text/event-stream"), "GRPC": (0, "application/grpc")}
STREAMS = {
    "text": "tck-stream-artifact-text",
    "a file": "tck-stream-artifact-file",
    "chunks": "tck-stream-artifact-chunked",
    "nothing but its end": "tck-stream-002",
    "an order": "tck-stream-ordering-001",
}


def kinds_of(events: list[Any]) -> list[str]:
    return [next(iter(event)) for event in events]


@each(STREAMS, kinds=("full", "auth"))
async def a_stream_begins_with_its_task_and_ends_with_its_end(wire: Wire, prefix: str) -> None:
    events = await wire.events("SendStreamingMessage", wire.message(prefix))
    assert kinds_of(events)[0] == "task", events
    task = events[0]["task"]
    for event in events[1:]:
        (said,) = event.values()
        assert (said["taskId"], said["contextId"]) == (task["id"], task["contextId"])
    states = [event["statusUpdate"]["status"]["state"] for event in events if "statusUpdate" in event]
    assert [state in OVER for state in states] == [False] * (len(states) - 1) + [True]
    assert kinds_of(events)[-1] == "statusUpdate"


@check(kinds=("full", "auth"))
async def a_stream_has_the_head_of_one(wire: Wire) -> None:
    async with wire.stream("SendStreamingMessage", wire.message("tck-stream-artifact-text")) as stream:
        assert (stream.status, stream.kind) == HEADS[wire.binding]
        assert [event async for event in stream.events]
    if wire.binding == "JSONRPC":
        assert {(frame["jsonrpc"], frame["id"]) for frame in stream.frames} == {("2.0", "stream-1")}


@check()
async def chunks_come_in_their_order_and_say_which_is_the_last(wire: Wire) -> None:
    events = await wire.events("SendStreamingMessage", wire.message("tck-stream-artifact-chunked"))
    chunks = [event["artifactUpdate"] for event in events if "artifactUpdate" in event]
    assert [chunk["artifact"]["parts"][0]["text"] for chunk in chunks] == ["chunk-1 ", "chunk-2"]
    assert [(chunk.get("append", False), chunk.get("lastChunk", False)) for chunk in chunks] == [(False, False), (True, True)]
    assert {chunk["artifact"]["artifactId"] for chunk in chunks} == {"a1"}


@check()
async def a_stream_of_a_message_is_that_message(wire: Wire) -> None:
    events = await wire.events("SendStreamingMessage", wire.message("tck-message-response"))
    assert kinds_of(events) == ["message"]


@check()
async def a_stream_ends_where_its_task_waits_for_input(wire: Wire) -> None:
    events = await wire.events("SendStreamingMessage", wire.message("tck-input-required"))
    assert events[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"


@check()
async def what_a_stream_said_is_what_the_task_is(wire: Wire) -> None:
    events = await wire.events("SendStreamingMessage", wire.message("tck-stream-artifact-chunked"))
    read = (await wire.ask("GetTask", {"id": events[0]["task"]["id"]})).result
    assert [part["text"] for part in read["artifacts"][0]["parts"]] == ["chunk-1 ", "chunk-2"]
    assert read["status"]["state"] == "TASK_STATE_COMPLETED"


@check()
async def long_streams_at_once_come_event_by_event(wire: Wire) -> None:
    """Ten seconds and more: while the first chunks are there, the task is not over, whoever asks."""

    async def one() -> list[str]:
        texts: list[str] = []
        async with wire.stream("SendStreamingMessage", wire.message(f"gw-ticks-{LONG}")) as stream:
            async for event in stream.events:
                if "artifactUpdate" not in event:
                    continue
                texts.append(event["artifactUpdate"]["artifact"]["parts"][0]["text"])
                if len(texts) == LONG // 2:
                    read = await wire.ask("GetTask", {"id": event["artifactUpdate"]["taskId"]})
                    assert read.result["status"]["state"] == "TASK_STATE_WORKING"
        last = stream.frames[-1]
        assert last.get("result", last)["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
        return texts

    for texts in await asyncio.gather(*(one() for _ in range(5))):
        assert texts == [f"tick-{number} " for number in range(LONG)]


@check(kinds=("full", "auth"))
async def a_task_is_joined_while_it_goes_on_by_as_many_as_like(wire: Wire) -> None:
    task = await wire.task("gw-auth-open", configuration={"returnImmediately": True})
    opened: asyncio.Queue[None] = asyncio.Queue()
    key = str(task["history"][0]["messageId"]).removeprefix("gw-auth-open-")

    async def one() -> list[Any]:
        events = []
        async with wire.stream("SubscribeToTask", {"id": task["id"]}) as stream:
            async for event in stream.events:
                events.append(event)
                if len(events) == 1:
                    opened.put_nowait(None)
        return events

    async def release() -> None:
        for _ in range(3):
            await opened.get()
        await wire.ask("SendMessage", wire.message(f"gw-release-{key}", messageId=f"gw-release-{key}"))

    *found, _ = await asyncio.gather(*(one() for _ in range(3)), release())
    for events in found:
        assert events[0]["task"]["id"] == task["id"]
        assert events[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"


@check(kinds=("full", "auth"))
async def a_task_that_is_over_is_not_joined(wire: Wire) -> None:
    task = await wire.task("tck-complete-task")
    async with wire.stream("SubscribeToTask", {"id": task["id"]}) as stream:
        events = [event async for event in stream.events]
    assert events == []
    said = stream.answer.whole if stream.answer else stream.frames[0]
    assert "UNSUPPORTED_OPERATION" in str(said)


@each({op: op for op in ("SendStreamingMessage", "SubscribeToTask")}, kinds=("full",))
async def a_stream_of_an_unknown_task_is_an_error_and_no_stream(wire: Wire, op: str) -> None:
    params = {"id": "never-was"} if op == "SubscribeToTask" else wire.message("plain", taskId="never-was")
    async with wire.stream(op, params) as stream:
        assert [event async for event in stream.events] == []
    assert stream.answer is not None
    assert stream.answer.reason == "TASK_NOT_FOUND"
    if wire.binding != "GRPC":
        assert stream.status == (200 if wire.binding == "JSONRPC" else 404)


@check(kinds=("minimal",))
async def an_agent_without_streams_says_so(wire: Wire) -> None:
    assert not wire.card["capabilities"].get("streaming")
    async with wire.stream("SendStreamingMessage", wire.message("plain")) as stream:
        assert [event async for event in stream.events] == []
    assert stream.answer is not None
    assert stream.answer.reason == "UNSUPPORTED_OPERATION"
