"""A whole gateway that serves gRPC as its settings say: the card that clients find it by, the records, and the end."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from tests.interaction.world import Gateway, Peers, free_port

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
