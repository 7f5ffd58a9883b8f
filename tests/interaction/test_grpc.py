"""A whole gateway that serves gRPC as its settings say: the card that clients find it by, the records, and the end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc.aio
import pytest
from a2a.client.client import ClientCallContext, ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.types import a2a_pb2 as pb
from a2a.types.a2a_pb2_grpc import A2AServiceStub
from a2a.utils.constants import TransportProtocol
from google.protobuf.json_format import ParseDict

from tests.a2a.world import reference_agent
from tests.interaction.world import Gateway, Heard, Peers, free_port

Made = Callable[..., Gateway]


def asking(text: str) -> pb.SendMessageRequest:
    return pb.SendMessageRequest(message=pb.Message(message_id="m", role=pb.Role.ROLE_USER, parts=[pb.Part(text=text)]))


def served(port: int) -> dict[str, Any]:
    return {"grpc": {"agents": {"clerk": {"port": port}}}}


def test_a_call_is_governed_recorded_and_answered_with_a_receipt(own_gateway: Made, upstreams: Peers) -> None:
    port = free_port()
    gateway = own_gateway(a2a=served(port))
    lines = (("a2a-version", "1.0"), ("authorization", f"Bearer {gateway.token()}"))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        client: Any = A2AServiceStub(channel)  # type: ignore[no-untyped-call]
        answer, call = client.SendMessage.with_call(asking("hello"), metadata=lines)
        decision = dict(call.initial_metadata())["bailiwick-decision"]
        (start,) = [record for record in gateway.records(kind="call.start") if record.id == decision]
        assert (start.leaf["target"], start.leaf["proto"], start.leaf["method"]) == ("clerk", "a2a", "SendMessage")
        assert "bailiwick/receipt" in answer.task.metadata.fields
        again = client.GetTask(pb.GetTaskRequest(id=answer.task.id), metadata=lines)
        assert again.id == answer.task.id
        with pytest.raises(grpc.RpcError) as caught:  # the same wall as over HTTP
            client.GetTask(
                pb.GetTaskRequest(id=answer.task.id), metadata=(lines[0], ("authorization", f"Bearer {gateway.token('mia')}"))
            )
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    gateway.stop()
    assert b"Traceback" not in gateway.log.read_bytes()


async def test_the_official_client_finds_its_way_by_the_card(own_gateway: Made, upstreams: Peers) -> None:
    port = free_port()
    with reference_agent() as reference:
        await by_card(own_gateway(a2a=served(port), agents={"clerk": {"url": reference}}), port)


async def by_card(gateway: Gateway, port: int) -> None:
    token = gateway.token()
    found = gateway.http.get("/a2a/clerk/.well-known/agent-card.json", headers={"Authorization": f"Bearer {token}"}).json()
    assert {"url": f"127.0.0.1:{port}", "protocolBinding": "GRPC", "protocolVersion": "1.0"} in found["supportedInterfaces"]
    channels = []

    def opened(url: str) -> grpc.aio.Channel:
        channels.append(grpc.aio.insecure_channel(url))
        return channels[-1]

    config = ClientConfig(
        supported_protocol_bindings=[TransportProtocol.GRPC], use_client_preference=True, grpc_channel_factory=opened
    )
    client = ClientFactory(config).create(ParseDict(found, pb.AgentCard(), ignore_unknown_fields=True))
    context = ClientCallContext(service_parameters={"authorization": f"Bearer {token}"})
    events = [event async for event in client.send_message(asking("from paul"), context=context)]
    texts = [event.artifact_update.artifact.parts[0].text for event in events if event.HasField("artifact_update")]
    assert texts == ["echo: from paul"]
    await client.close()


def test_a_port_that_is_taken_keeps_the_gateway_from_starting_and_it_says_so(upstreams: Peers, tmp_path: Any) -> None:
    gateway = Gateway(tmp_path, upstreams)
    gateway.settings["a2a"] = served(upstreams.port)
    gateway.config.write_text(json.dumps(gateway.settings))
    assert gateway.attempt() not in {0, None}
    assert f"cannot listen on 127.0.0.1:{upstreams.port}" in gateway.log.read_text()


@pytest.mark.parametrize("method", ["SendMessage", "SendStreamingMessage"])
def test_a_call_that_its_gateway_did_not_survive_is_closed_on_record_and_can_be_made_again(
    own_gateway: Made, upstreams: Peers, method: str
) -> None:
    """The client is told that the gateway is gone; its channel finds the next one; the conversation is the one it named."""
    port = free_port()
    gateway = own_gateway(a2a=served(port))
    arrived, killed = threading.Event(), threading.Event()
    request = asking("hello")
    request.message.context_id = "our-talk"
    before = len(upstreams.heard)

    def wait(_heard: Heard) -> str:
        arrived.set()
        killed.wait(60)
        return "too late"

    def call(client: Any) -> Any:
        lines = (("a2a-version", "1.0"), ("authorization", f"Bearer {gateway.token()}"))
        answer = getattr(client, method)(request, metadata=lines, timeout=60)
        return answer if method == "SendMessage" else list(answer)[-1]

    upstreams.agents["clerk"] = wait
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, ThreadPoolExecutor(1) as pool:
            client: Any = A2AServiceStub(channel)  # type: ignore[no-untyped-call]
            waiting = pool.submit(call, client)
            assert arrived.wait(60)
            gateway.kill()
            killed.set()
            with pytest.raises(grpc.RpcError) as caught:
                waiting.result()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            gateway.start()
            upstreams.agents["clerk"] = lambda _: "done"
            grpc.channel_ready_future(channel).result(60)
            answer = call(client)
    finally:
        killed.set()
        upstreams.agents.pop("clerk", None)
    assert answer.task.artifacts[0].parts[0].text == "done"
    starts = gateway.records(kind="call.start")
    (orphan,) = gateway.records(kind="call.orphaned")
    (end,) = gateway.records(kind="call.end")
    assert (orphan.leaf["call"], orphan.leaf["start_index"]) == (starts[0].id, starts[0].index)
    assert end.leaf["call"] == starts[1].id != starts[0].id
    heard = [each.message["params"]["message"] for each in upstreams.heard[before:] if each.path == "/agents/clerk"]
    assert [each["messageId"] for each in heard] == ["m", "m"], "the agent can tell a retry from another message"
    assert heard[0]["contextId"] == heard[1]["contextId"] == starts[0].leaf["context"] == starts[1].leaf["context"] != "our-talk"
    verdict = gateway.audit("verify")
    assert verdict.returncode == 0, verdict.stdout
