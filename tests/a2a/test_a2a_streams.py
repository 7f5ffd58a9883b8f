"""Streams from agents that behave, and from agents that do not."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.model import wall_clock
from gateway.settings import Limits
from tests.a2a.agents import Agent, Answering, Request, scripted, status, task
from tests.a2a.world import DENY, World, gateway

Opened = Callable[..., AbstractAsyncContextManager[tuple[World, Agent]]]
PARAMS = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}}


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    @asynccontextmanager
    async def open_(script: Answering, **options: Any) -> AsyncIterator[tuple[World, Agent]]:
        async with scripted(script) as (url, agent), gateway(tmp_path, {"ref": url}, **options) as world:
            yield world, agent

    return open_


@asynccontextmanager
async def streaming(world: World, person: str = "paul") -> AsyncIterator[tuple[Any, AsyncIterator[str]]]:
    body = {"jsonrpc": "2.0", "id": 7, "method": "SendStreamingMessage", "params": PARAMS}
    headers = world.token(person) | {"a2a-version": "1.0"}
    async with world.client.stream("POST", "/a2a/ref", json=body, headers=headers) as answer:
        yield answer, answer.aiter_lines()


async def events(world: World) -> list[tuple[str, Any]]:
    """(event name, parsed data) of one whole stream."""
    found, name = [], ""
    async with streaming(world) as (_, lines):
        async for line in lines:
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                found.append((name, json.loads(line[6:])))
                name = ""
    return found


async def next_data(lines: AsyncIterator[str]) -> Any:
    async for line in lines:
        if line.startswith("data: "):
            return json.loads(line[6:])
    raise AssertionError("the stream ended")


async def test_an_event_is_released_while_the_stream_goes_on(opened: Opened) -> None:
    seen = asyncio.Event()

    async def script(request: Request) -> None:
        await request.event(task("WORKING"))
        await seen.wait()
        await request.event(status("COMPLETED"))
        await request.end()

    async with opened(script) as (world, _), streaming(world) as (answer, lines):
        first = await next_data(lines)
        assert first["id"] == 7
        assert first["result"]["task"]["id"] == "t-1"
        seen.set()
        assert (await next_data(lines))["result"]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["bailiwick-decision"]
        assert answer.headers["bailiwick-workflow"].startswith("wf-")


async def test_a_task_is_its_persons_before_anybody_hears_of_it(opened: Opened) -> None:
    async def script(request: Request) -> None:
        if request.rpc["method"] == "GetTask":
            await request.result(task("WORKING")["task"])
            return
        await request.event(task("WORKING"))
        await request.gone()

    async with opened(script) as (world, _), streaming(world) as (_, lines):
        assert await next_data(lines)
        mine, theirs = [await world.rpc(who, "GetTask", {"id": "t-1"}) for who in ("paul", "mia")]
        assert mine.json()["result"]["id"] == "t-1"
        assert theirs.json()["error"]["code"] == -32001


async def test_a_task_that_asks_for_authorisation_is_heard_while_its_stream_stays_open(opened: Opened) -> None:
    authorised = asyncio.Event()

    async def script(request: Request) -> None:
        await request.event(task("AUTH_REQUIRED"))
        await authorised.wait()
        await request.event(status("COMPLETED"))
        await request.end()

    async with opened(script) as (world, _), streaming(world) as (_, lines):
        assert (await next_data(lines))["result"]["task"]["status"]["state"] == "TASK_STATE_AUTH_REQUIRED"
        authorised.set()
        assert (await next_data(lines))["result"]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_a_stream_may_end_long_after_its_task_began_to_wait(opened: Opened) -> None:
    heard = asyncio.Event()

    async def script(request: Request) -> None:
        await request.event(task("INPUT_REQUIRED"))
        await heard.wait()
        await request.end()

    async with opened(script) as (world, _):
        async with streaming(world) as (_, lines):
            await next_data(lines)
            heard.set()
            assert [line async for line in lines if line.startswith("data")] == []
        assert world.ledger.entries[-1].fields["outcome"]["status"] == "ok"


async def test_a_stream_that_stays_open_after_its_task_ended_is_closed_by_the_gateway(opened: Opened) -> None:
    agent_saw = asyncio.Event()

    async def script(request: Request) -> None:
        await request.event(task("COMPLETED"))
        await request.gone()
        agent_saw.set()

    async with opened(script) as (world, _):
        assert len(await events(world)) == 1
        await agent_saw.wait()


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\r\r"], ids=["crlf", "lf", "cr"])
async def test_events_are_read_whatever_their_line_ends_and_chunks(opened: Opened, end: bytes) -> None:
    async def script(request: Request) -> None:
        data = json.dumps({"jsonrpc": "2.0", "id": request.rpc["id"], "result": task("COMPLETED")}).encode()
        for byte in b": a comment" + end + b"id: 1" + end[: len(end) // 2] + b"data:" + data + end + b": the end" + end:
            await request.raw(bytes([byte]))
        await request.end()

    async with opened(script) as (world, _):
        ((_, event),) = await events(world)
        assert event["result"]["task"]["id"] == "t-1"


async def test_a_silent_stream_is_kept_alive_by_comments(opened: Opened) -> None:
    async def script(request: Request) -> None:
        await request.event(task("WORKING"))
        await request.gone()

    async with opened(script, heartbeat=0.05) as (world, _), streaming(world) as (_, lines):
        await next_data(lines)
        comments = 0
        async for line in lines:
            comments += line == ":"
            if comments == 3:
                break


async def test_a_client_that_leaves_closes_the_agents_stream_and_is_recorded(opened: Opened) -> None:
    agent_saw = asyncio.Event()

    async def script(request: Request) -> None:
        await request.event(task("WORKING"))
        await request.gone()
        agent_saw.set()

    async with opened(script) as (world, _):
        async with streaming(world) as (_, lines):
            await next_data(lines)
        await agent_saw.wait()
        await world.ledger.holds(2)
        assert world.ledger.entries[-1].fields["outcome"]["status"] == "interrupted"


async def test_a_client_that_leaves_before_the_first_event_closes_the_agents_call(opened: Opened) -> None:
    came, agent_saw = asyncio.Event(), asyncio.Event()

    async def script(request: Request) -> None:
        came.set()
        await request.gone()
        agent_saw.set()

    async with opened(script) as (world, _):
        call = asyncio.create_task(world.rpc("paul", "SendMessage", PARAMS))
        await came.wait()
        call.cancel()
        await agent_saw.wait()


BAD_EVENTS = {
    "another request's id": '{"jsonrpc":"2.0","id":"zz","result":{}}',
    "no JSON": "hello",
    "nothing in it": '{"jsonrpc":"2.0","id":"ID","result":{}}',
    "result and error": '{"jsonrpc":"2.0","id":"ID","result":{},"error":{"code":1,"message":""}}',
    "a task without an id": '{"jsonrpc":"2.0","id":"ID","result":{"task":{"contextId":"c"}}}',
    "a state by number": '{"jsonrpc":"2.0","id":"ID","result":{"task":{"id":"t","status":{"state":3}}}}',
    "an unknown state": '{"jsonrpc":"2.0","id":"ID","result":{"task":{"id":"t","status":{"state":"TASK_STATE_DREAMING"}}}}',
    "both spellings": '{"jsonrpc":"2.0","id":"ID","result":{"statusUpdate":{"taskId":"t","task_id":"u"}}}',
}


@pytest.mark.parametrize("bad", BAD_EVENTS)
async def test_an_event_that_is_not_a2a_ends_the_stream_with_an_error(opened: Opened, bad: str) -> None:
    async def script(request: Request) -> None:
        await request.event(task("WORKING"))
        await request.raw(f"data: {BAD_EVENTS[bad]}\n\n".replace("ID", request.rpc["id"]).encode())
        await request.end()

    async with opened(script) as (world, _):
        (_, first), (name, last) = await events(world)
        assert first["result"]["task"]["id"] == "t-1"
        assert name == "error"
        assert last["id"] == 7
        assert last["error"]["code"] == -32006


async def test_a_stream_that_breaks_off_is_an_error_and_not_an_end(opened: Opened) -> None:
    async def script(request: Request) -> None:
        await request.event(task("WORKING"))
        await request.end()

    async with opened(script) as (world, _):
        (_, _), (name, last) = await events(world)
        assert (name, last["error"]["code"]) == ("error", -32603)
        assert world.ledger.entries[-1].fields["outcome"]["status"] == "upstream-error"


@pytest.mark.parametrize(
    "named", [task("WORKING", "t-paul", "c-x"), status("WORKING", "t-2", "c-paul"), task("WORKING", "t-3", "c-paul")]
)
async def test_an_agent_cannot_hand_out_what_belongs_to_somebody_else(opened: Opened, named: Any) -> None:
    async def script(request: Request) -> None:
        if request.rpc["method"] == "SendMessage":
            await request.result(task("COMPLETED", "t-paul", "c-paul"))
        else:
            await request.event(named)
            await request.end()

    async with opened(script) as (world, _):
        assert "result" in await world.send("paul", "m")
        body = {"jsonrpc": "2.0", "id": 7, "method": "SendStreamingMessage", "params": PARAMS}
        answer = await world.client.post("/a2a/ref", json=body, headers=world.token("mia") | {"a2a-version": "1.0"})
        assert answer.json()["error"]["code"] == -32006
        assert "paul" not in answer.text


async def test_an_error_before_the_first_event_is_a_plain_answer(opened: Opened) -> None:
    async def script(request: Request) -> None:
        await request.error(
            {"code": -32004, "message": "no streams\x1b[31m here", "data": [{"@type": "secret", "url": "http://x"}]}
        )

    async with opened(script) as (world, _), streaming(world) as (answer, _):
        assert answer.headers["content-type"] == "application/json"
        said = json.loads(await answer.aread())
        assert said == {"jsonrpc": "2.0", "id": 7, "error": {"code": -32004, "message": "no streams [31m here"}}


async def test_a_call_that_takes_too_long_is_ended(opened: Opened) -> None:
    async def script(request: Request) -> None:
        await request.event(task("WORKING"))
        await request.gone()

    async with opened(script, limits=Limits(stream_seconds=0.3)) as (world, _):
        (_, _), (name, last) = await events(world)
        assert (name, last["error"]["code"]) == ("error", -32603)


async def test_a_call_that_is_not_answered_in_time_is_ended(opened: Opened) -> None:
    async def script(request: Request) -> None:
        await request.gone()

    async with opened(script, limits=Limits(call_seconds=0.3)) as (world, _):
        assert (await world.send("paul", "m"))["error"]["code"] == -32603


async def test_a_stream_goes_on_beyond_the_time_that_one_answer_may_take(opened: Opened) -> None:
    async def script(request: Request) -> None:
        await request.event(task("WORKING"))
        await asyncio.sleep(0.6)
        await request.event(status("COMPLETED"))
        await request.end()

    async with opened(script, limits=Limits(call_seconds=0.3)) as (world, _):
        assert [name for name, _ in await events(world)] == ["", ""]


FORMS = {"json-rpc": "rpc", "http+json": "rest"}


@asynccontextmanager
async def standing_in(world: World, form: str, person: str = "paul") -> AsyncIterator[AsyncIterator[str]]:
    """A stream of either binding, as its lines."""
    body = PARAMS if form == "rest" else {"jsonrpc": "2.0", "id": 7, "method": "SendStreamingMessage", "params": PARAMS}
    path = "/a2a/ref/rest/message:stream" if form == "rest" else "/a2a/ref/"
    headers = world.token(person) | {"a2a-version": "1.0"}
    async with world.client.stream("POST", path, json=body, headers=headers) as answer:
        yield answer.aiter_lines()


async def rest_of(lines: AsyncIterator[str]) -> tuple[str, Any]:
    """(event name, parsed data) of the only event that is still to come."""
    said = [line async for line in lines if line and line != ":"]
    assert [line.partition(":")[0] for line in said] == ["event", "data"]
    return said[0].removeprefix("event: "), json.loads(said[1].removeprefix("data: "))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_a_stream_ends_when_policy_no_longer_lets_it_stand(opened: Opened, form: str) -> None:
    agent_saw = asyncio.Event()

    async def script(request: Request) -> None:
        await request.event(task("WORKING"))
        await request.gone()
        agent_saw.set()

    async with opened(script) as (world, _), standing_in(world, form) as lines:
        await next_data(lines)
        world.enforce("a2a:other", DENY)  # of somebody else: it stands
        world.enforce("a2a:ref", DENY)
        name, told = await rest_of(lines)
        assert name == "error"
        if form == "rest":
            assert (told["error"]["code"], told["error"]["status"]) == (403, "PERMISSION_DENIED")
        else:
            assert (told["id"], told["error"]["code"]) == (7, -32000)
        details = told["error"]["details" if form == "rest" else "data"]
        assert details[0]["reason"] == "POLICY_DENIED"
        await agent_saw.wait()
        end = world.ledger.entries[-1].fields["outcome"]
        assert end["status"] == "interrupted"
        assert "policy no longer lets the stream stand" in end["detail"]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_a_stream_ends_with_the_authority_under_which_it_began(opened: Opened, form: str) -> None:
    agent_saw = asyncio.Event()

    async def script(request: Request) -> None:
        await request.event(task("WORKING"))
        await request.gone()
        agent_saw.set()

    later = [0]
    async with opened(script, clock=lambda: wall_clock() + later[0]) as (world, _):
        claims = json.loads(urlsafe_b64decode(world.token("paul")["authorization"].split(".")[1] + "=="))
        later[0] = int((claims["exp"] - wall_clock() / 1e6 - 2) * 1e6)
        async with standing_in(world, form) as lines:
            await next_data(lines)
            name, told = await rest_of(lines)
            assert name == "error"
            error = told["error"]
            assert (error["code"], error["message"]) == (401 if form == "rest" else -32000, "Authentication is required.")
            await agent_saw.wait()
            assert world.ledger.entries[-1].fields["outcome"]["status"] == "interrupted"


async def test_a_call_that_waits_for_one_answer_keeps_the_decision_it_was_given(opened: Opened) -> None:
    came, allowed = asyncio.Event(), asyncio.Event()

    async def script(request: Request) -> None:
        came.set()
        await allowed.wait()
        await request.result(task("COMPLETED"))

    async with opened(script) as (world, _):
        call = asyncio.create_task(world.send("paul", "m"))
        await came.wait()
        world.enforce("a2a:ref", DENY)
        allowed.set()
        assert "result" in await call
        assert (await world.send("paul", "m"))["error"]["code"] == -32000
