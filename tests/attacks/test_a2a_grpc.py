"""Attacks on the gRPC face by agents and by clients, byte by byte where no client would do it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import grpc.aio
import pytest
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import ParseDict

from gateway.a2a.errors import ERROR_INFO
from gateway.settings import Limits
from tests.a2a.agents import Request, scripted, status, task
from tests.a2a.calls import asking, error_of, info_of, metadata, said, stub
from tests.a2a.grpc_agents import Asked, scripted_grpc
from tests.a2a.world import gateway


@pytest.mark.parametrize("letter", ["a", "\N{LATIN SMALL LETTER E WITH ACUTE}", "\N{PILE OF POO}", "%"])
async def test_an_agent_cannot_make_its_refusal_too_large_to_be_read(tmp_path: Path, letter: str) -> None:
    info = {"@type": ERROR_INFO, "reason": "R", "domain": "d", "metadata": {f"k{number}": letter * 256 for number in range(16)}}

    async def agent(request: Request) -> None:
        await request.error({"code": -32004, "message": letter * 1000, "data": [info] * 8})

    async with scripted(agent) as (url, _), gateway(tmp_path, {"ref": url}, grpc=False) as world, stub(world) as client:
        error = await error_of(client.SendMessage(asking("m"), metadata=metadata(world, "paul")))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert (error.details() or "").strip(letter) == ""
        assert info_of(error).reason == "R"
        decision = dict(error.trailing_metadata() or ())["bailiwick-decision"]
        assert decision == world.ledger.entries[-1].fields["call"]


async def test_an_agent_that_takes_connections_and_says_nothing_holds_each_caller_no_longer_than_one(tmp_path: Path) -> None:
    """They share one attempt; in a queue the last of them would wait for all the others' too."""
    connections: list[asyncio.StreamWriter] = []

    async def mute(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    async with await asyncio.start_server(mute, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with gateway(tmp_path, {"ref": f"grpc://127.0.0.1:{port}"}) as world:
            answers = await asyncio.gather(*(world.send("paul", f"m-{number}") for number in range(6)))
            assert {each["error"]["data"][0]["reason"] for each in answers} == {"AGENT_UNAVAILABLE"}
            assert len(connections) < len(answers)
        for writer in connections:
            writer.close()


async def test_a_caller_that_leaves_does_not_take_the_connection_from_who_waits_for_it_too(tmp_path: Path) -> None:
    async def agent(asked: Asked) -> None:
        await asked.say(ParseDict(task("COMPLETED"), pb.SendMessageResponse()))

    async with scripted_grpc(agent) as (port, _), gateway(tmp_path, {"ref": f"grpc://127.0.0.1:{port}"}) as world:
        first, second = (asyncio.create_task(world.send("paul", name)) for name in ("m-1", "m-2"))
        await world.ledger.holds(1)
        first.cancel()
        assert (await second)["result"]["task"]["id"] == "t-1"
        await asyncio.gather(first, return_exceptions=True)


async def test_what_an_agent_compresses_is_not_unpacked(tmp_path: Path) -> None:
    """A small message could be a large one then."""

    async def agent(asked: Asked) -> None:
        answer = ParseDict(task("COMPLETED"), pb.SendMessageResponse())
        answer.task.artifacts.add(artifact_id="a", parts=[pb.Part(text="a" * 4_000_000)])
        asked.compress()
        await asked.say(answer)

    async with scripted_grpc(agent) as (port, _), gateway(tmp_path, {"ref": f"grpc://127.0.0.1:{port}"}) as world:
        assert (await world.send("paul", "m"))["error"]["code"] == -32006
        assert world.ledger.entries[-1].fields["outcome"]["status"] == "upstream-error"


@pytest.mark.parametrize("people", [("paul", "mia"), ("mia", "paul")])
async def test_two_credentials_in_one_call_are_none(tmp_path: Path, people: tuple[str, str]) -> None:
    async def agent(_: Asked) -> None:
        raise AssertionError("sent")

    async with (
        scripted_grpc(agent) as (port, sent),
        gateway(tmp_path, {"ref": f"grpc://127.0.0.1:{port}"}, grpc=False) as world,
        stub(world) as client,
    ):
        one, other = (("authorization", world.token(person)["authorization"]) for person in people)
        error = await error_of(client.SendMessage(asking("m"), metadata=(("a2a-version", "1.0"), one, other)))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert world.ledger.kinds() == ["auth.refused"]
        assert sent.asked == []


async def test_streams_that_stand_keep_no_call_of_anybody_waiting(tmp_path: Path) -> None:
    """Neither those over gRPC nor those over HTTP; and of one too many its own caller hears."""

    async def agent(asked: Asked) -> None:
        number = len(told.asked)
        await asked.say(ParseDict(status("WORKING", f"t-{number}", f"c-{number}"), pb.StreamResponse()))
        await asyncio.Event().wait()

    limits = Limits(concurrent_calls=2, concurrent_streams=3)
    async with (
        scripted_grpc(agent) as (port, told),
        gateway(tmp_path, {"ref": f"grpc://127.0.0.1:{port}"}, grpc=False, limits=limits) as world,
        stub(world) as client,
        AsyncExitStack() as streams,
    ):
        calls = []
        for number in range(3):
            calls.append(client.SendStreamingMessage(asking(f"m-{number}"), metadata=metadata(world, "paul")))
            assert (await calls[-1].read()).status_update.task_id
        error = await error_of(client.SendStreamingMessage(asking("m-4"), metadata=metadata(world, "paul")))
        assert said(error)[1] == "UNAVAILABLE"
        for number in range(3):
            message = {"messageId": f"h-{number}", "role": "ROLE_USER", "parts": [{"text": "hi"}]}
            body = {"jsonrpc": "2.0", "id": "1", "method": "SendStreamingMessage", "params": {"message": message}}
            headers = world.token("paul") | {"a2a-version": "1.0"}
            opened = await streams.enter_async_context(world.client.stream("POST", "/a2a/ref/", json=body, headers=headers))
            assert "WORKING" in await anext(opened.aiter_lines())
        unknown = await error_of(client.GetTask(pb.GetTaskRequest(id="x"), metadata=metadata(world, "mia")))
        assert unknown.code() is grpc.StatusCode.NOT_FOUND
        assert (await world.rpc("mia", "GetTask", {"id": "x"})).json()["error"]["code"] == -32001
        for call in calls:
            call.cancel()
