"""gRPC says the same of extensions, traces, authorisation and streams that stand too long as the other bindings do."""

from __future__ import annotations

import asyncio
from pathlib import Path

from a2a.types import a2a_pb2 as pb

from gateway.a2a.extensions import Declared
from tests.a2a.agents import Request, scripted, task
from tests.a2a.calls import asking, error_of, metadata, said, stub
from tests.a2a.test_extensions import ALLOWED, AP2, OTHER, completed
from tests.a2a.world import DENY, gateway


async def test_extensions_are_negotiated_and_narrowed_as_elsewhere(tmp_path: Path) -> None:
    async with scripted(completed) as (url, agent), gateway(tmp_path, {"ref": url}, peers={"ref": ALLOWED}, grpc=False) as world:
        request = asking("m", extensions=[AP2, OTHER])
        request.message.metadata.update({f"{AP2}/mandate": "x", f"{OTHER}/y": "no"})
        async with stub(world) as client:
            lines = metadata(world, "paul", ("a2a-extensions", f"{AP2}, {OTHER}"))
            call = client.SendMessage(request, metadata=lines)
            await call
            first = dict(await call.initial_metadata())
        assert first["a2a-extensions"] == AP2
        assert agent.requests[0].headers["a2a-extensions"] == AP2
        message = agent.requests[0].rpc["params"]["message"]
        assert (message["extensions"], message["metadata"]) == ([AP2], {f"{AP2}/mandate": "x"})


async def test_an_extension_that_is_required_is_a_failed_precondition(tmp_path: Path) -> None:
    options = {"declaring": lambda _: Declared(frozenset({AP2}), frozenset({AP2}))}
    async with (
        scripted(completed) as (url, agent),
        gateway(tmp_path, {"ref": url}, peers={"ref": ALLOWED}, grpc=False, **options) as world,
        stub(world) as client,
    ):
        error = await error_of(client.SendMessage(asking("m"), metadata=metadata(world, "paul")))
        assert said(error)[:2] == ("FAILED_PRECONDITION", "EXTENSION_SUPPORT_REQUIRED")
        assert agent.requests == []


async def test_a_stream_ends_when_policy_no_longer_lets_it_stand(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def script(request: Request) -> None:
        await request.event(task("WORKING"))
        await request.gone()
        left.set()

    async with scripted(script) as (url, _), gateway(tmp_path, {"ref": url}, grpc=False) as world, stub(world) as client:
        call = client.SendStreamingMessage(asking("m"), metadata=metadata(world, "paul"))
        assert (await call.read()).task.id == "t-1"
        world.enforce("a2a:ref", DENY)
        assert said(await error_of(call.read()))[:2] == ("PERMISSION_DENIED", "POLICY_DENIED")
        await left.wait()
        await world.ledger.when(lambda entries: entries[-1].kind == "call.end")
        assert world.ledger.entries[-1].fields["outcome"]["status"] == "interrupted"


async def test_a_task_that_asks_for_authorisation_is_on_record_and_its_trace_and_baggage_go_on(tmp_path: Path) -> None:
    async def script(request: Request) -> None:
        await request.result(task("AUTH_REQUIRED"))

    peer = {"baggage": frozenset({"tenant"})}
    async with scripted(script) as (url, agent), gateway(tmp_path, {"ref": url}, peers={"ref": peer}, grpc=False) as world:
        lines = metadata(world, "paul", ("baggage", "user=paul,tenant=acme"), ("tracestate", "vendor=1"))
        traced = (*lines, ("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"))
        async with stub(world) as client:
            answer = await client.SendMessage(asking("m"), metadata=traced)
        assert answer.task.status.state == pb.TaskState.TASK_STATE_AUTH_REQUIRED
        assert "authorisation.ask" in world.ledger.kinds()
        got = agent.requests[0].headers
        assert (got["baggage"], got["tracestate"], got["traceparent"].split("-")[1]) == ("tenant=acme", "vendor=1", "a" * 32)
