"""Messages to agents that wait for an approval as A2A has it: as a task of the gateway's that asks for input."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from a2a.client.client import ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.types import a2a_pb2 as pb
from a2a.types.a2a_pb2_grpc import A2AServiceStub
from a2a.utils.constants import TransportProtocol

from tests.interaction.approvals_world import (
    FILES,
    api,
    approve,
    arrived,
    digest_of,
    eventually,
    kinds,
    message,
    of,
    with_policy,
)
from tests.interaction.world import Gateway, Heard, Peers, free_port


@pytest.fixture(scope="module")
def desk(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    more = {"a2a": {"grpc": {"agents": {"porter": {"port": free_port()}}}}}
    running = with_policy(Gateway(tmp_path_factory.mktemp("tasks"), upstreams, more=more))
    try:
        yield running.start()
    finally:
        running.stop()


def send(
    gateway: Gateway, token: str, text: str, *, agent: str = "porter", more: dict[str, str] | None = None, **said: Any
) -> Any:
    """The answer to a message, or to one on a task."""
    return gateway.ask(agent, "SendMessage", {"message": message(text, **said)}, token, **(more or {})).json()


def waits(body: dict[str, Any]) -> tuple[str, str]:
    """Id of the task that waits, and of its approval."""
    task = body["result"]["task"]
    assert task["status"]["state"] == "TASK_STATE_INPUT_REQUIRED", task
    return task["id"], task["metadata"]["bailiwick/approval"]["approval"]


def look(gateway: Gateway, token: str, task: str, method: str = "GetTask", *, agent: str = "porter", **more: str) -> str:
    """The state of a task, or an error's code."""
    body = gateway.ask(agent, method, {"id": task}, token, **more).json()
    return str(body["error"]["code"]) if "error" in body else body["result"]["status"]["state"].removeprefix("TASK_STATE_")


def texts(peers: Peers) -> list[str]:
    """What agents were sent."""
    return [heard.message["params"]["message"]["parts"][0]["text"] for heard in arrived(peers)]


def test_a_message_waits_as_a_task_and_goes_on_as_it_was_whatever_is_said_on_it(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    body = send(desk, token, "two chairs")
    task, approval = waits(body)
    about = body["result"]["task"]["metadata"]["bailiwick/approval"]
    assert about["url"] == f"{desk.url}/approvals/{approval}"
    assert about["url"] in body["result"]["task"]["status"]["message"]["parts"][0]["text"]
    assert look(desk, token, task) == "INPUT_REQUIRED"
    assert waits(send(desk, token, "I approve this", taskId=task)) == (task, approval)  # which approves nothing
    assert waits(send(desk, token, "two chairs")) == (task, approval)
    assert texts(peers) == []
    approve(desk, approval)
    assert look(desk, token, task) == "INPUT_REQUIRED"  # nothing goes before somebody sends it
    done = send(desk, token, "twenty chairs, and hurry", taskId=task)
    assert done["result"]["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert texts(peers) == ["two chairs"]
    assert "taskId" not in arrived(peers)[0].message["params"]["message"]
    assert kinds(desk, approval) == ["approval.ask", "approval.grant", "approval.use"]
    start = next(record for record in desk.records(approval=approval) if record.kind == "call.start")
    assert b"two chairs" in desk.opened(start, "request")
    assert b"twenty" not in desk.opened(start, "request")
    assert look(desk, token, task) == "COMPLETED"
    over = send(desk, token, "again", taskId=task)
    assert (over["error"]["code"], texts(peers)) == (-32004, ["two chairs"])


def test_a_task_says_that_it_was_denied_and_so_does_whoever_sends_on_it(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    task, approval = waits(send(desk, token, "yachts"))
    api(desk, "POST", f"/{approval}/deny", desk.token("fiona"), {"reason": "no"})
    assert look(desk, token, task) == "REJECTED"
    for said in (send(desk, token, "yachts"), send(desk, token, "please", taskId=task)):
        assert said["result"]["task"]["status"]["state"] == "TASK_STATE_REJECTED"
    assert texts(peers) == []


def test_whoever_asked_takes_it_back_and_then_no_yes_counts(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    task, approval = waits(send(desk, token, "boats"))
    digest = digest_of(desk, approval, desk.token("fiona"))
    assert look(desk, token, task, "CancelTask") == "CANCELED"
    assert look(desk, token, task) == "CANCELED"
    assert look(desk, token, task, "CancelTask") == "-32002"
    assert approve(desk, approval, digest=digest).status_code == 409
    assert send(desk, token, "boats", taskId=task)["error"]["code"] == -32004
    assert waits(send(desk, token, "boats"))[1] != approval
    assert (texts(peers), kinds(desk, approval)) == ([], ["approval.ask", "approval.withdraw"])
    assert desk.audit("verify").returncode == 0


def test_an_approval_that_was_given_is_worth_nothing_once_the_message_is_taken_back(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    task, approval = waits(send(desk, token, "rafts"))
    approve(desk, approval)
    assert look(desk, token, task, "CancelTask") == "CANCELED"
    assert (send(desk, token, "rafts", taskId=task)["error"]["code"], texts(peers)) == (-32004, [])


def test_somebody_elses_task_does_not_exist(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    task, approval = waits(send(desk, token, "sofas"))
    approve(desk, approval)
    made_up = f"bailiwick.{approval}.{'A' * 22}"
    unknown = desk.ask("porter", "GetTask", {"id": "nothing"}, token).json()["error"]
    strangers = [
        (desk.token("fiona"), task, "clerk"),
        (token, made_up, "porter"),
        (token, task, "clerk"),
        (token, task + "A", "porter"),
    ]
    for who, name, agent in strangers:
        for method in ("GetTask", "CancelTask"):
            assert desk.ask(agent, method, {"id": name}, who).json()["error"] == unknown, (name, agent)
        assert send(desk, who, "go on", agent=agent, taskId=name)["error"] == unknown
    inner: list[Any] = []

    def clerk(heard: Heard) -> str:
        more = {"Bailiwick-Delegation": heard.headers["authorization"].removeprefix("Bearer ")}
        inner.append(look(desk, desk.agent_secrets["clerk"], task, **more))
        return "done"

    peers.agents["clerk"] = clerk
    desk.send("clerk", token)
    assert inner[0] in {"-32000", "-32001"}  # the same person, through an agent
    assert kinds(desk, approval) == ["approval.ask", "approval.grant"]


def test_an_id_beside_the_place_where_it_counts_makes_no_other_message(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    task, approval = waits(send(desk, token, "lamps"))
    approve(desk, approval)
    assert waits(send(desk, token, f"about {task}"))[1] != approval
    assert send(desk, token, "lamps", referenceTaskIds=[task])["error"]["code"] == -32001
    assert desk.post("/a2a/porter/", {"id": task}, {"A2A-Version": "1.0", "Authorization": f"Bearer {token}"}).status_code < 500
    stream = desk.ask("porter", "SendStreamingMessage", {"message": message("go", taskId=task)}, token).json()
    assert (stream["error"]["code"], texts(peers)) == (-32004, [])  # another operation than the one that waits
    assert send(desk, token, "go", taskId=task)["result"]["task"]["status"]["state"] == "TASK_STATE_COMPLETED"


def test_another_bundle_makes_a_task_void_and_a_message_on_it_is_asked_about_anew(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    task, approval = waits(send(desk, token, "barns"))
    approve(desk, approval)
    with_policy(
        desk,
        **{"conditions.yaml": "above: {if: args.amount > 100, say: above 100}\nnothing: {if: args.amount > 7, say: seven}\n"},
    )
    headers = {"Authorization": f"Bearer {desk.token('fiona')}"}
    desk.http.post("/api/policy/reload", headers=headers).raise_for_status()
    try:
        assert look(desk, token, task) == "REJECTED"
        assert (waits(send(desk, token, "go on", taskId=task))[1] == approval, texts(peers)) == (False, [])
    finally:
        with_policy(desk)
        desk.http.post("/api/policy/reload", headers=headers).raise_for_status()


def test_a_task_whose_time_is_over_is_rejected(desk: Gateway, peers: Peers) -> None:
    with_policy(
        desk,
        **{
            "obligations.yaml": FILES["obligations.yaml"].replace(
                "role:controller], within: 1h}", "role:controller], within: 2s}"
            )
        },
    )
    headers = {"Authorization": f"Bearer {desk.token('fiona')}"}
    desk.http.post("/api/policy/reload", headers=headers).raise_for_status()
    try:
        token = desk.token()
        task, _ = waits(send(desk, token, "masts"))
        eventually(lambda: look(desk, token, task) == "REJECTED")
        assert (send(desk, token, "go on", taskId=task)["error"]["code"], texts(peers)) == (-32004, [])
    finally:
        with_policy(desk)
        desk.http.post("/api/policy/reload", headers=headers).raise_for_status()


def test_by_rest_and_in_a_stream_it_is_the_same_task(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    headers = {"A2A-Version": "1.0", "Authorization": f"Bearer {token}", "Content-Type": "application/a2a+json"}
    base = "/a2a/porter/rest"
    asked = desk.http.post(f"{base}/message:send", json={"message": message("desks")}, headers=headers)
    task = asked.json()["task"]
    assert (asked.status_code, task["status"]["state"]) == (200, "TASK_STATE_INPUT_REQUIRED")
    assert waits(send(desk, token, "desks"))[0] == task["id"]  # the binding is no part of what is asked for
    assert desk.http.get(f"{base}/tasks/{task['id']}", headers=headers).json()["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    approve(desk, task["metadata"]["bailiwick/approval"]["approval"])
    on = {"message": message("go", taskId=task["id"])}
    done = desk.http.post(f"{base}/message:send", json=on, headers=headers).json()
    assert (done["task"]["status"]["state"], texts(peers)) == ("TASK_STATE_COMPLETED", ["desks"])

    with desk.http.stream("POST", f"{base}/message:stream", json={"message": message("shelves")}, headers=headers) as streamed:
        text = streamed.read().decode()
    assert (text.count("data:"), "TASK_STATE_INPUT_REQUIRED" in text) == (1, True)


def test_by_grpc_it_is_the_same_task(desk: Gateway, peers: Peers) -> None:
    token = desk.token()
    lines = (("a2a-version", "1.0"), ("authorization", f"Bearer {token}"))

    def asking(text: str, task: str = "") -> pb.SendMessageRequest:
        parts = [pb.Part(text=text)]
        return pb.SendMessageRequest(message=pb.Message(message_id="m", role=pb.Role.ROLE_USER, parts=parts, task_id=task))

    with grpc.insecure_channel(f"127.0.0.1:{desk.settings['a2a']['grpc']['agents']['porter']['port']}") as channel:
        client: Any = A2AServiceStub(channel)  # type: ignore[no-untyped-call]
        task = client.SendMessage(asking("carts"), metadata=lines).task
        assert task.status.state == pb.TaskState.TASK_STATE_INPUT_REQUIRED
        assert waits(send(desk, token, "carts"))[0] == task.id
        (event,) = client.SendStreamingMessage(asking("wagons"), metadata=lines)
        assert event.task.status.state == pb.TaskState.TASK_STATE_INPUT_REQUIRED
        (seen,) = client.SubscribeToTask(pb.SubscribeToTaskRequest(id=task.id), metadata=lines)
        assert seen.task.id == task.id
        approve(desk, task.metadata["bailiwick/approval"]["approval"])
        done = client.SendMessage(asking("go", task.id), metadata=lines).task
        assert (done.status.state, texts(peers)) == (pb.TaskState.TASK_STATE_COMPLETED, ["carts"])
        with pytest.raises(grpc.RpcError) as caught:
            client.CancelTask(pb.CancelTaskRequest(id=task.id), metadata=lines)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_the_official_client_goes_on_with_the_task_that_it_was_given(desk: Gateway, peers: Peers) -> None:
    token = await asyncio.to_thread(desk.token)
    way = pb.AgentInterface(url=f"{desk.url}/a2a/porter/", protocol_binding=TransportProtocol.JSONRPC, protocol_version="1.0")
    card = pb.AgentCard(name="porter", supported_interfaces=[way], capabilities=pb.AgentCapabilities(streaming=False))

    def asking(text: str, task: str = "") -> pb.SendMessageRequest:
        said = pb.Message(message_id="m", role=pb.Role.ROLE_USER, parts=[pb.Part(text=text)], task_id=task)
        return pb.SendMessageRequest(message=said)

    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=60) as http:
        config = ClientConfig(httpx_client=http, streaming=False, supported_protocol_bindings=[TransportProtocol.JSONRPC])
        client = ClientFactory(config).create(card)
        (first,) = [event async for event in client.send_message(asking("trolleys"))]
        assert first.task.status.state == pb.TaskState.TASK_STATE_INPUT_REQUIRED
        await asyncio.to_thread(approve, desk, str(first.task.metadata["bailiwick/approval"]["approval"]))
        (last,) = [event async for event in client.send_message(asking("is it done?", first.task.id))]
    assert (last.task.status.state, texts(peers)) == (pb.TaskState.TASK_STATE_COMPLETED, ["trolleys"])


def test_in_the_older_version_it_is_a_task_as_that_has_it(desk: Gateway) -> None:
    token = desk.token()

    def ask(method: str, params: dict[str, Any]) -> dict[str, Any]:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return dict(desk.post("/a2a/porter/", body, {"Authorization": f"Bearer {token}"}).json()["result"])

    said = {"kind": "message", "messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "prams"}]}
    task = ask("message/send", {"message": said})
    assert (task["kind"], task["status"]["state"]) == ("task", "input-required")
    assert ask("tasks/get", {"id": task["id"]})["status"]["state"] == "input-required"
    assert ask("tasks/cancel", {"id": task["id"]})["status"]["state"] == "canceled"


def test_the_record_says_that_the_message_was_refused_and_why(desk: Gateway) -> None:
    token = desk.token()
    _, approval = waits(send(desk, token, "crates"))
    (asked,) = of(desk, approval)
    refused = next(record for record in desk.records(id=str(asked.leaf["call"])) if record.kind == "decision.deny")
    assert refused.leaf["refused"]["code"] == "approval-required"
