"""gRPC: every operation by the official client, the same as direct; strictly read, errors in gRPC's words, all on record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from a2a.client.transports.grpc import GrpcTransport
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import A2AError
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Value

from gateway.a2a.webhook import Allowed
from gateway.settings import Limits
from tests.a2a.agents import Request, scripted, status, task
from tests.a2a.calls import VERSION, asking, channel, error_of, info_of, metadata, official, raw, said, stub
from tests.a2a.world import DENY, HIDDEN, World, gateway, reference_agent_at


@pytest.fixture
async def world(tmp_path: Path, upstream: str) -> AsyncIterator[World]:
    allowed = Allowed(private=("127.0.0.1:9",))
    async with gateway(tmp_path, {"ref": upstream}, grpc=False, allowed=allowed) as running:
        yield running


def plain(message: Any) -> Any:
    """A message without what is new every time."""
    return _steady(MessageToDict(message))


def _steady(value: Any) -> Any:
    new = {"id", "taskId", "contextId", "messageId", "artifactId", "timestamp", "nextPageToken", "pageSize"}
    if isinstance(value, dict):
        return {key: "…" if key in new else _steady(inner) for key, inner in value.items()}
    return [_steady(inner) for inner in value] if isinstance(value, list) else value


async def transcript(client: GrpcTransport, mark: str) -> list[Any]:
    """Every operation once, some of them in vain: what came back."""
    found: list[Any] = []

    async def note(work: Any) -> Any:
        try:
            answer = await work
        except A2AError as error:
            found.append((type(error).__name__, str(error)))
            return None
        found.append(plain(answer) if answer is not None else None)
        return answer

    made = await note(client.send_message(asking(f"tck-input-required-{mark}")))
    open_task = made.task
    await note(client.send_message(asking(f"tck-message-response-{mark}")))
    found.append([plain(each) async for each in client.send_message_streaming(asking(f"tck-stream-artifact-chunked-{mark}"))])
    await note(client.get_task(pb.GetTaskRequest(id=open_task.id, history_length=1)))
    await note(client.get_task(pb.GetTaskRequest(id="never-was")))
    await note(client.list_tasks(pb.ListTasksRequest(context_id=open_task.context_id)))
    config = pb.TaskPushNotificationConfig(task_id=open_task.id, id="mine", url="http://127.0.0.1:9/hook", token="t")
    await note(client.create_task_push_notification_config(config))
    named = {"task_id": open_task.id, "id": "mine"}
    await note(client.get_task_push_notification_config(pb.GetTaskPushNotificationConfigRequest(**named)))
    wanted = pb.ListTaskPushNotificationConfigsRequest(task_id=open_task.id)
    await note(client.list_task_push_notification_configs(wanted))
    await note(client.delete_task_push_notification_config(pb.DeleteTaskPushNotificationConfigRequest(**named)))
    await note(client.list_task_push_notification_configs(wanted))
    slow = asking(f"test-resubscribe-message-id-{mark}")
    slow.configuration.return_immediately = True
    running = await note(client.send_message(slow))
    events = [each async for each in client.subscribe(pb.SubscribeToTaskRequest(id=running.task.id))]
    found.append([plain(each) for each in events])
    await note(client.cancel_task(pb.CancelTaskRequest(id=open_task.id)))
    await note(client.cancel_task(pb.CancelTaskRequest(id=open_task.id)))
    return found


async def test_the_official_client_gets_the_same_transcript_direct_and_through_the_gateway(
    world: World, both: tuple[str, ...]
) -> None:
    async with official(both[1]) as direct, official(f"127.0.0.1:{world.doors['ref']}", metadata(world, "paul")[1:]) as governed:
        wanted, got = await asyncio.gather(transcript(direct, "direct"), transcript(governed, "governed"))
        for client in (direct, governed):  # there is none, in whichever words
            error = await error_of(client.stub.GetExtendedAgentCard(pb.GetExtendedAgentCardRequest(), metadata=(VERSION,)))
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert len(got) == len(wanted) == 15
    for one, other in zip(got, wanted, strict=True):
        assert json.dumps(one).replace("governed", "direct") == json.dumps(other)


async def test_a_call_is_on_record_with_one_text_for_its_message(world: World) -> None:
    request = asking("tck-complete-task-1")
    request.message.metadata.update({"b": 1, "a": [True, None]})
    request.tenant = "somebody"
    async with stub(world) as client:
        call = client.SendMessage(request, metadata=metadata(world, "paul", ("traceparent", f"00-{'a' * 32}-{'b' * 16}-01")))
        answer = await call
        first = dict(await call.initial_metadata())
    start, end = world.ledger.entries
    assert (start.kind, end.kind) == ("call.start", "call.end")
    assert first["bailiwick-decision"] == start.id
    assert first["bailiwick-workflow"] == start.fields["workflow"]
    assert (start.fields["method"], start.fields["proto_ver"], start.fields["trace"]) == ("SendMessage", "1.0", "a" * 32)
    written = next(value.data for value in start.values if value.name == "request")
    assert written == json.dumps(json.loads(written), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert json.loads(written)["message"]["metadata"] == {"a": [True, None], "b": 1}
    released = next(value.data for value in end.values if value.name == "response")
    assert json.loads(released) == MessageToDict(answer)


async def test_who_is_not_known_or_may_not_is_told_so_in_grpcs_words(world: World) -> None:
    world.verdicts["user:dev/mia", "a2a:ref"] = DENY
    world.verdicts["user:dev/eve", "a2a:ref"] = HIDDEN
    async with stub(world) as client:
        nobody = await error_of(client.SendMessage(asking("m"), metadata=(VERSION,)))
        assert nobody.code() is grpc.StatusCode.UNAUTHENTICATED
        assert dict(nobody.trailing_metadata() or ())["www-authenticate"].startswith("Bearer")
        twice = (*metadata(world, "paul"), *metadata(world, "paul")[1:])
        assert (await error_of(client.SendMessage(asking("m"), metadata=twice))).code() is grpc.StatusCode.UNAUTHENTICATED
        denied = await error_of(client.SendMessage(asking("m"), metadata=metadata(world, "mia")))
        assert denied.code() is grpc.StatusCode.PERMISSION_DENIED
        info, trailing = info_of(denied), dict(denied.trailing_metadata() or ())
        assert (info.reason, info.domain) == ("POLICY_DENIED", "bailiwick")
        assert info.metadata["decisionId"] == trailing["bailiwick-decision"] == world.ledger.entries[-1].id
        assert trailing["bailiwick-workflow"] == world.ledger.entries[-1].fields["workflow"]
        hidden = await error_of(client.GetTask(pb.GetTaskRequest(id="x"), metadata=metadata(world, "eve")))
        assert hidden.code() is grpc.StatusCode.NOT_FOUND
        unknown = await error_of(client.GetTask(pb.GetTaskRequest(id="x"), metadata=metadata(world, "paul")))
        assert said(unknown) == ("NOT_FOUND", "TASK_NOT_FOUND", "Task not found")
        extended = await error_of(client.GetExtendedAgentCard(pb.GetExtendedAgentCardRequest(), metadata=metadata(world, "paul")))
        assert extended.code() is grpc.StatusCode.FAILED_PRECONDITION
        streamed = await error_of(client.SendStreamingMessage(asking("m"), metadata=metadata(world, "mia")))
        assert streamed.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("lines", [(), (("a2a-version", "0.3"),), (("a2a-version", "1.0"), ("a2a-version", "0.3"))])
async def test_another_version_is_not_guessed(world: World, lines: tuple[tuple[str, str], ...]) -> None:
    async with stub(world) as client:
        error = await error_of(client.GetTask(pb.GetTaskRequest(id="x"), metadata=(*lines, *metadata(world, "paul")[1:])))
    assert said(error)[:2] == ("FAILED_PRECONDITION", "VERSION_NOT_SUPPORTED")


UNSERVED = (
    "/lf.a2a.v1.A2AService/Nothing", "/a2a.v1.A2AService/SendMessage", "/grpc.health.v1.Health/Check",
    "/.well-known/agent-card.json", "/rest/tasks/x", "/lf.a2a.v1.A2AService/GetAgentCard",
)  # fmt: skip


@pytest.mark.parametrize("path", UNSERVED)
async def test_a_method_that_is_not_served_is_unimplemented_and_on_record(world: World, path: str) -> None:
    error = await error_of(raw(world, path, b"", metadata(world, "paul")))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert world.ledger.kinds() == ["decision.deny"]
    assert world.ledger.entries[0].fields["refused"]["code"] == "unknown-method"


def odd(**more: Any) -> bytes:
    encoded: bytes = asking("m", **more).SerializeToString()
    return encoded


def nan() -> bytes:
    request = asking("m")
    request.message.metadata.fields["a"].number_value = float("nan")
    encoded: bytes = request.SerializeToString()
    return encoded


def deep(levels: int) -> bytes:
    request = asking("m")
    value = request.message.metadata.fields["a"]
    for _ in range(levels):
        value = value.list_value.values.add()
    encoded: bytes = request.SerializeToString()
    return encoded


def many(nodes: int) -> bytes:
    request = asking("m")
    request.message.metadata.fields["a"].list_value.values.extend([Value(bool_value=True)] * nodes)
    encoded: bytes = request.SerializeToString()
    return encoded


def reference_ids(count: int) -> bytes:
    return odd(reference_task_ids=[f"t-{number}" for number in range(count)])


@pytest.mark.parametrize(
    ("operation", "body", "code"),
    [
        ("SendMessage", b"\xff\xff", "INVALID_ARGUMENT"),
        ("GetTask", b"\x12\x02\xff\xfe", "INVALID_ARGUMENT"),  # no UTF-8
        ("GetTask", b"\x12\x02hi\x12", "INVALID_ARGUMENT"),
        ("SendMessage", odd().replace(b"\x20\x01", b"\x20\x4d"), "INVALID_ARGUMENT"),  # a role that nobody knows
        ("SendMessage", nan(), "INVALID_ARGUMENT"),
        ("SendMessage", deep(70), "INVALID_ARGUMENT"),
        ("SendMessage", many(60_000), "RESOURCE_EXHAUSTED"),
        ("SendMessage", reference_ids(40), "INVALID_ARGUMENT"),
        ("SendMessage", b"", "INVALID_ARGUMENT"),
        ("GetTask", pb.GetTaskRequest(id="a\nb").SerializeToString(), "INVALID_ARGUMENT"),
        ("GetTask", pb.GetTaskRequest(id="a" * 257).SerializeToString(), "INVALID_ARGUMENT"),
        ("ListTasks", pb.ListTasksRequest(page_size=101).SerializeToString(), "INVALID_ARGUMENT"),
        ("ListTasks", pb.ListTasksRequest(page_token="guess").SerializeToString(), "INVALID_ARGUMENT"),
        ("ListTasks", pb.ListTasksRequest(status=77).SerializeToString(), "INVALID_ARGUMENT"),
    ],
)
async def test_what_no_reader_should_read_is_refused_unsent(tmp_path: Path, operation: str, body: bytes, code: str) -> None:
    async def never(request: Request) -> None:
        raise AssertionError("sent")

    async with scripted(never) as (url, agent):
        async with gateway(tmp_path, {"ref": url}, grpc=False) as world:
            error = await error_of(raw(world, operation, body, metadata(world, "paul")))
            assert (error.code().name, world.ledger.kinds()) == (code, ["decision.deny"])
        assert agent.requests == []


async def test_a_message_that_is_too_large_is_refused_and_on_record(tmp_path: Path, both: tuple[str, ...]) -> None:
    async with gateway(tmp_path, {"ref": both[0]}, grpc=False, limits=Limits(body_bytes=4096)) as world:
        error = await error_of(raw(world, "SendMessage", odd(context_id="c" * 5000), metadata(world, "paul")))
        assert said(error)[:2] == ("RESOURCE_EXHAUSTED", "TOO_LARGE")
        far = await error_of(raw(world, "SendMessage", odd(context_id="c" * 200_000), metadata(world, "paul")))
        assert far.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await world.ledger.holds(2)
        assert world.ledger.kinds() == ["auth.refused", "auth.refused"]
        assert all(entry.values == () for entry in world.ledger.entries)


async def test_what_is_compressed_is_not_unpacked(world: World) -> None:
    error = await error_of(raw(world, "SendMessage", odd(), metadata(world, "paul"), compression=grpc.Compression.Gzip))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_second_message_in_a_call_is_refused(world: World) -> None:
    async with channel(world) as opened:
        call = opened.stream_stream("/lf.a2a.v1.A2AService/SendMessage")(metadata=metadata(world, "paul"))
        for _ in range(2):
            await call.write(odd())
        await call.done_writing()
        assert (await error_of(call)).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_web_page_is_turned_away(world: World) -> None:
    error = await error_of(raw(world, "ListTasks", b"", metadata(world, "paul", ("origin", "https://evil.example"))))
    assert said(error)[1] == "BAD_ORIGIN"
    assert world.ledger.kinds() == ["auth.refused"]


async def test_only_what_was_checked_is_sent_on(tmp_path: Path) -> None:
    async def answer(request: Request) -> None:
        await request.result(task("COMPLETED"))

    async with scripted(answer) as (url, agent), gateway(tmp_path, {"ref": url}, grpc=False) as world:
        request = asking("m", extensions=["https://evil.example/ext"])
        request.tenant = "another"
        request.message.metadata.update({"bailiwick-subject": "root", "kept": 1})
        body = request.SerializeToString() + b"\xfa\x3f\x02hi"  # a field that nobody knows
        secret = (("x-secret", "s"), ("baggage", "b=1"), ("x-bin-bin", b"\xff"))
        await raw(world, "SendMessage", body, metadata(world, "paul", *secret))  # type: ignore[arg-type]
        (sent,) = agent.requests
        said_on = sent.rpc["params"]
        assert said_on == {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}], "metadata": {"kept": 1}}}
        assert not {"x-secret", "baggage", "x-bin-bin"} & sent.headers.keys()
        assert sent.headers["authorization"] != world.token("paul")["authorization"]


async def test_an_answer_that_is_none_is_the_agents_failure(tmp_path: Path) -> None:
    async def answer(request: Request) -> None:
        await request.result({"task": {"id": "t", "status": {"state": 99}}})

    async with scripted(answer) as (url, _), gateway(tmp_path, {"ref": url, "gone": "http://127.0.0.1:9"}, grpc=False) as world:
        async with stub(world) as client:
            error = await error_of(client.SendMessage(asking("m"), metadata=metadata(world, "paul")))
            assert said(error)[:2] == ("INTERNAL", "INVALID_AGENT_RESPONSE")
        async with stub(world, "gone") as client:
            error = await error_of(client.SendMessage(asking("m"), metadata=metadata(world, "paul")))
            assert said(error)[:2] == ("UNAVAILABLE", "AGENT_UNAVAILABLE")


async def test_events_come_one_by_one_and_a_client_that_cancels_leaves_the_task_alone(tmp_path: Path) -> None:
    go_on, left = asyncio.Event(), asyncio.Event()

    async def answer(request: Request) -> None:
        await request.event(task("WORKING"))
        await go_on.wait()
        await request.event(status("WORKING"))
        await request.gone()
        left.set()

    async with scripted(answer) as (url, agent), gateway(tmp_path, {"ref": url}, grpc=False) as world:
        async with stub(world) as client:
            call = client.SendStreamingMessage(asking("m"), metadata=metadata(world, "paul"))
            assert (await call.read()).task.id == "t-1"
            go_on.set()
            assert (await call.read()).HasField("status_update")
            call.cancel()
            await asyncio.wait_for(left.wait(), 20)
        await world.ledger.when(lambda entries: entries[-1].kind == "call.end")
        assert world.ledger.entries[-1].fields["outcome"]["status"] == "interrupted"
        assert [request.rpc["method"] for request in agent.requests] == ["SendStreamingMessage"]


async def test_a_deadline_ends_the_call_and_not_the_task(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def answer(request: Request) -> None:
        await request.gone()
        left.set()

    async with scripted(answer) as (url, agent), gateway(tmp_path, {"ref": url}, grpc=False) as world:
        async with stub(world) as client:
            error = await error_of(client.SendMessage(asking("m"), metadata=metadata(world, "paul"), timeout=1.0))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(left.wait(), 20)
        await world.ledger.when(lambda entries: entries[-1].kind == "call.end")
        assert len(agent.requests) == 1


async def test_a_stream_that_breaks_off_says_so_after_what_came(tmp_path: Path) -> None:
    async def answer(request: Request) -> None:
        await request.event(task("WORKING"))
        await request.end()

    async with scripted(answer) as (url, _), gateway(tmp_path, {"ref": url}, grpc=False) as world:
        async with stub(world) as client:
            call = client.SendStreamingMessage(asking("m"), metadata=metadata(world, "paul"))
            assert (await call.read()).task.id == "t-1"
            error = await error_of(call.read())
        assert said(error)[:2] == ("UNAVAILABLE", "AGENT_UNAVAILABLE")


async def test_one_call_too_many_is_told_to_wait(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def answer(request: Request) -> None:
        await go_on.wait()
        await request.result(task("COMPLETED"))

    async with (
        scripted(answer) as (url, agent),
        gateway(tmp_path, {"ref": url}, grpc=False, limits=Limits(concurrent_calls=1)) as w,
        stub(w) as client,
    ):
        first = client.SendMessage(asking("m"), metadata=metadata(w, "paul"))
        await agent.got(1)
        error = await error_of(client.SendMessage(asking("n"), metadata=metadata(w, "paul")))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        go_on.set()
        assert (await first).task.id == "t-1"


async def test_many_at_once_do_not_mix(world: World) -> None:
    people = [f"person-{number}" for number in range(12)]

    async def one(person: str) -> str:
        async with stub(world) as client:
            call = client.SendStreamingMessage(asking(f"plain-{person}", f"from {person}"), metadata=metadata(world, person))
            events = [each async for each in call]
        texts = [each.artifact_update.artifact.parts[0].text for each in events if each.HasField("artifact_update")]
        return ",".join(texts)

    assert await asyncio.gather(*map(one, people)) == [f"echo: from {person}" for person in people]


async def test_the_extended_card_is_the_gateways_own_for_whoever_may_see_it(tmp_path: Path) -> None:
    with reference_agent_at("--grpc", "--extended") as (url, address):
        async with gateway(tmp_path, {"ref": url}, grpc=False) as world, stub(world) as client:
            card = await client.GetExtendedAgentCard(pb.GetExtendedAgentCardRequest(), metadata=metadata(world, "paul"))
            assert "secret" in {skill.id for skill in card.skills}
            text = str(card)
            assert address not in text
            assert url.removeprefix("http://") not in text
            world.verdicts["user:dev/mia", "a2a:ref"] = HIDDEN
            error = await error_of(client.GetExtendedAgentCard(pb.GetExtendedAgentCardRequest(), metadata=metadata(world, "mia")))
            assert error.code() is grpc.StatusCode.NOT_FOUND
