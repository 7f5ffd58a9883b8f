"""Agents that are reached over gRPC: the hop's promises hold there too, whichever binding the caller speaks."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import ParseDict
from pydantic import ValidationError

from gateway.a2a.hop import Bounds, Peer, hop_to
from gateway.settings import Agent, Settings
from gateway.upstream.client import Upstreams, Url
from gateway.upstream.credentials import no_other
from gateway.upstream.registry import agent_targets
from tests.a2a.agents import Request, scripted, status, task
from tests.a2a.calls import asking, metadata, stub
from tests.a2a.grpc_agents import Asked, scripted_grpc
from tests.a2a.world import World, gateway
from tests.upstream.certificates import self_signed

STATE = pb.TaskState


def answer_of(found: dict[str, Any]) -> pb.SendMessageResponse:
    return ParseDict(found, pb.SendMessageResponse())


def event_of(found: dict[str, Any]) -> pb.StreamResponse:
    return ParseDict(found, pb.StreamResponse())


async def done(asked: Asked) -> None:
    await asked.say(answer_of(task("COMPLETED")))


async def send(world: World, person: str = "paul", **message: Any) -> Any:
    """A message over JSON-RPC to the agent."""
    return await world.send(person, "m", **message)


async def test_only_what_was_checked_reaches_the_agent_and_the_gateways_own_words_with_it(tmp_path: Path) -> None:
    async with scripted_grpc(done) as (port, agent):
        own = {"ref": {"headers": ((b"X-Own", b"own"),)}}
        async with gateway(tmp_path, {"ref": f"grpc://127.0.0.1:{port}"}, peers=own) as world:
            trace = f"00-{'a' * 32}-{'b' * 16}-01"
            params = {
                "tenant": "another",
                "message": {
                    "messageId": "m",
                    "role": "ROLE_USER",
                    "parts": [{"text": "hi"}],
                    "unknown": 1,
                    "metadata": {"actorChain": 1, "kept": 1},
                },
            }
            answer = (
                await world.rpc("paul", "SendMessage", params, traceparent=trace, tracestate="v=1", x_secret="s", baggage="b=1")
            ).json()
            assert answer["result"]["task"]["id"] == "t-1"
        (asked,) = agent.asked
    assert asked.method == "SendMessage"
    wanted = asking("m")
    wanted.message.metadata.update({"kept": 1})
    assert pb.SendMessageRequest.FromString(asked.body) == wanted
    assert (asked.every("a2a-version"), asked.every("x-own"), asked.every("tracestate")) == (["1.0"], ["own"], ["v=1"])
    (passed,) = asked.every("traceparent")
    assert str(passed).split("-")[1] == "a" * 32
    assert str(passed) != trace
    (bearer,) = asked.every("authorization")
    assert str(bearer).startswith("Bearer ")
    assert str(bearer) != world.token("paul")["authorization"]
    known = {"a2a-version", "x-own", "tracestate", "traceparent", "authorization", "user-agent"}
    assert {name for name, _ in asked.metadata} <= known


async def test_all_calls_go_over_one_connection(tmp_path: Path) -> None:
    async with scripted_grpc(done) as (port, agent), gateway(tmp_path, {"ref": f"grpc://127.0.0.1:{port}"}) as world:
        found = await asyncio.gather(*(send(world) for _ in range(10)))
        assert {each["result"]["task"]["id"] for each in found} == {"t-1"}
        assert len({asked.peer for asked in agent.asked}) == 1


async def test_an_agent_that_comes_back_is_found_again(tmp_path: Path) -> None:
    async with scripted_grpc(done) as (port, _):
        pass
    async with gateway(tmp_path, {"ref": f"grpc://127.0.0.1:{port}"}) as world:
        for _ in range(2):
            assert (await send(world))["error"]["data"][0]["reason"] == "AGENT_UNAVAILABLE"
            async with scripted_grpc(done, port):
                assert (await send(world))["result"]["task"]["id"] == "t-1"


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        ("NOT_FOUND", "TASK_NOT_FOUND", -32001),
        ("NOT_FOUND", "", -32001),
        ("FAILED_PRECONDITION", "TASK_NOT_CANCELABLE", -32002),
        ("FAILED_PRECONDITION", "PUSH_NOTIFICATION_NOT_SUPPORTED", -32003),
        ("FAILED_PRECONDITION", "UNSUPPORTED_OPERATION", -32004),
        ("FAILED_PRECONDITION", "", -32004),
        ("INVALID_ARGUMENT", "CONTENT_TYPE_NOT_SUPPORTED", -32005),
        ("INVALID_ARGUMENT", "", -32602),
        ("UNIMPLEMENTED", "", -32601),
        ("UNKNOWN", "", -32603),
        ("INTERNAL", "INTERNAL_ERROR", -32603),
        ("INTERNAL", "", -32006),
        ("PERMISSION_DENIED", "", -32006),
        ("RESOURCE_EXHAUSTED", "", -32006),
        ("UNAUTHENTICATED", "", -32006),
        ("UNAVAILABLE", "", -32603),
        ("DEADLINE_EXCEEDED", "", -32603),
    ],
)
async def test_an_agents_status_is_the_error_that_it_stands_for(tmp_path: Path, code: str, reason: str, expected: int) -> None:
    async def no(asked: Asked) -> None:
        asked.end(grpc.StatusCode[code], "secret.internal: no", reason)

    async with scripted_grpc(no) as (port, _), gateway(tmp_path, {"ref": f"grpc://127.0.0.1:{port}"}, grpc=False) as world:
        error = (await send(world))["error"]
        assert error["code"] == expected
        if not reason and code not in {"FAILED_PRECONDITION", "INVALID_ARGUMENT", "UNIMPLEMENTED"}:
            assert "secret" not in json.dumps(error)
        async with stub(world) as client:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.SendMessage(asking("m"), metadata=metadata(world, "paul"))
        if reason:
            assert caught.value.code().name == code


@pytest.mark.parametrize(
    "said",
    [
        [],
        [b"\xff\xff"],
        [answer_of({"task": {"id": "t-1", "contextId": "c-1"}}), answer_of({"task": {"id": "t-2", "contextId": "c-1"}})],
        [pb.SendMessageResponse()],
        [pb.SendMessageResponse(task=pb.Task(id="t", context_id="c", status=pb.TaskStatus(state=99)))],  # type: ignore[arg-type]
        [pb.SendMessageResponse(task=pb.Task(context_id="c"))],
        [pb.SendMessageResponse(task=pb.Task(id="a\nb"))],
    ],
)
async def test_an_answer_that_could_be_read_in_two_ways_or_none_is_the_agents_failure(tmp_path: Path, said: list[Any]) -> None:
    async def answer(asked: Asked) -> None:
        for message in said:
            await asked.say(message)

    async with scripted_grpc(answer) as (port, _), gateway(tmp_path, {"ref": f"grpc://127.0.0.1:{port}"}) as world:
        error = (await send(world))["error"]
        assert error["code"] == -32006
        assert world.ledger.entries[-1].fields["outcome"]["status"] == "upstream-error"


async def test_an_answer_that_is_larger_than_settings_allow_is_not_read(tmp_path: Path) -> None:
    async def answer(asked: Asked) -> None:
        await asked.say(answer_of(task("COMPLETED") | {}) if asked.method != "SendMessage" else b"\x0a" + b"x" * 100_000)

    async with scripted_grpc(answer) as (port, _):
        options = {"bounds": Bounds(response_bytes=50_000)}
        async with gateway(tmp_path, {"ref": f"grpc://127.0.0.1:{port}"}, **options) as world:
            assert (await send(world))["error"]["code"] == -32006
            assert "too-large" in world.ledger.entries[-1].fields["outcome"]["detail"]


async def test_events_come_one_by_one_to_a_client_of_http_and_its_leaving_ends_the_agents_stream(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def answer(asked: Asked) -> None:
        await asked.say(event_of(task("WORKING")))
        await go_on.wait()
        await asked.say(event_of(status("WORKING")))
        await asyncio.Event().wait()

    async with scripted_grpc(answer) as (port, agent), gateway(tmp_path, {"ref": f"grpc://127.0.0.1:{port}"}) as world:
        params = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage", "params": params}).encode()
        headers = {"content-type": "application/json", "a2a-version": "1.0"} | world.token("paul")
        async with world.client.stream("POST", "/a2a/ref/", content=body, headers=headers) as answered:
            lines = (line async for line in answered.aiter_lines() if line.startswith("data: "))
            assert "TASK_STATE_WORKING" in await anext(lines)
            go_on.set()
            assert "statusUpdate" in await anext(lines)
        await asyncio.wait_for(agent.left.wait(), 20)
        assert [asked.method for asked in agent.asked] == ["SendStreamingMessage"]  # nothing was cancelled
        await world.ledger.when(lambda entries: entries[-1].kind == "call.end")
        assert world.ledger.entries[-1].fields["outcome"]["status"] == "interrupted"


async def test_a_stream_ends_with_its_task_or_with_the_agents_status(tmp_path: Path) -> None:
    async def answer(asked: Asked) -> None:
        await asked.say(event_of(task("WORKING")))
        if pb.SendMessageRequest.FromString(asked.body).message.message_id == "breaks":
            asked.end(grpc.StatusCode.UNAVAILABLE)
        else:
            await asked.say(event_of(status("COMPLETED")))

    async with (
        scripted_grpc(answer) as (port, _),
        gateway(tmp_path, {"ref": f"grpc://127.0.0.1:{port}"}, grpc=False) as world,
        stub(world) as client,
    ):
        call = client.SendStreamingMessage(asking("ends"), metadata=metadata(world, "paul"))
        assert [event.WhichOneof("payload") async for event in call] == ["task", "status_update"]
        call = client.SendStreamingMessage(asking("breaks"), metadata=metadata(world, "paul"))
        assert (await call.read()).task.id == "t-1"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_tls_is_held_against_the_name_and_against_whom_the_machine_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = self_signed(tmp_path, "localhost")
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(certificate))  # is not what we go by
    async with scripted_grpc(done, credentials=credentials) as (port, _):
        for trusted, host, works in ((False, "localhost", False), (True, "127.0.0.1", False), (True, "localhost", True)):
            if trusted:
                monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            folder = tmp_path / f"{trusted}-{host}"
            folder.mkdir()
            async with gateway(folder, {"ref": f"grpcs://{host}:{port}"}) as world:
                answer = await send(world)
                assert ("result" in answer) is works, (trusted, host, answer)


async def test_a_proxy_of_the_environment_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = asyncio.Event()

    async def proxy(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server, scripted_grpc(done) as (port, _):
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with gateway(tmp_path, {"ref": f"grpc://localhost:{port}"}) as world:
            assert "result" in await send(world)
    assert not reached.is_set()


async def test_an_address_of_the_machines_metadata_is_not_connected_to(tmp_path: Path) -> None:
    async with gateway(tmp_path, {"ref": "grpc://169.254.169.254:80"}) as world:
        assert (await send(world))["error"]["data"][0]["reason"] == "AGENT_UNAVAILABLE"
        assert "link-local" in world.ledger.entries[-1].fields["outcome"]["detail"]


async def test_the_card_is_where_settings_say_and_nowhere_else(tmp_path: Path) -> None:
    async def extended(asked: Asked) -> None:
        await asked.say(pb.AgentCard(name="Not for everybody", description="", version="1"))

    async def published(request: Request) -> None:
        assert (request.path, request.headers["x-own"]) == ("/card.json", "own")
        await request.reply(b'{"name": "By HTTP", "description": "", "version": "1"}')

    async with scripted_grpc(extended) as (port, agent), scripted(published) as (url, _):
        address, own = f"grpc://127.0.0.1:{port}", {"headers": ((b"x-own", b"own"),)}
        peers = {"two": {"card": Url.parse(f"{url}/card.json", allow_private=True), **own}}
        async with gateway(tmp_path, {"one": address, "two": address}, peers=peers) as world:
            where = "/a2a/{}/.well-known/agent-card.json".format
            card = (await world.client.get(where("two"), headers=world.token("paul"))).json()
            assert card["name"] == "By HTTP"
            assert str(port) not in json.dumps(card)
            assert (await world.client.get(where("one"), headers=world.token("paul"))).status_code == 500
        assert agent.asked == []


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "grpc://clerk.internal:9090/path"},
        {"url": "grpc://"},
        {"url": "ftp://clerk.internal"},
        {"url": "grpc://clerk.internal:9090", "versions": ["1.0", "0.3"]},
        {"url": "https://clerk.internal", "card_url": "https://clerk.internal/card.json"},
    ],
)
def test_settings_that_gRPC_has_no_place_for_are_refused(settings: dict[str, Any]) -> None:  # noqa: N802
    with pytest.raises(ValidationError):
        Agent.model_validate(settings)


def test_an_agents_url_says_how_it_is_reached() -> None:
    agents = {"a": {"url": "grpc://a.internal:9090"}, "b": {"url": "grpcs://b.internal", "card_url": "https://b.internal/card"},
              "c": {"url": "https://c.internal"}}  # fmt: skip
    found = agent_targets(Settings.model_validate({"agents": agents}), str)
    seen = {name: (target.binding, target.url.scheme, target.url.host, target.url.port) for name, target in found.items()}
    assert seen == {
        "a": ("grpc", "http", "a.internal", 9090),
        "b": ("grpc", "https", "b.internal", 443),
        "c": ("jsonrpc", "https", "c.internal", 443),
    }
    card = found["b"].card
    assert card is not None
    assert card.target == b"/card"


@pytest.mark.parametrize("name", [b"authorization", b"te", b"grpc-timeout", b"x-bin", b"a2a-version", b"x!y"])
async def test_a_header_that_would_be_the_gateways_own_or_that_metadata_cannot_carry_is_refused(name: bytes) -> None:
    upstreams = Upstreams()
    peer = Peer("a", Url.parse("http://127.0.0.1:1", allow_private=True), ((name, b"v"),), b"authorization", 1, binding="grpc")
    with pytest.raises(ValueError, match=r"agents\.a"):
        hop_to(peer, upstreams, Bounds(), no_other, None)
    await upstreams.aclose()
    assert os.environ["GRPC_VERBOSITY"] == "NONE"
