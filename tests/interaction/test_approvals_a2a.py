"""Approvals of messages to agents by every way to send one: each is parked, approved, and goes on once, as it was approved."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import pytest
from a2a.types import a2a_pb2 as pb
from a2a.types.a2a_pb2_grpc import A2AServiceStub
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import ErrorInfo

from tests.interaction.approvals_world import FILES, Said, approve, by_a2a, eventually, kinds, of, with_policy
from tests.interaction.world import Gateway, Heard, Peers, free_port
from tests.interaction.world import peers as scripted

EXTENSION = "https://ext.example/v1"
SENDS = frozenset({"SendMessage", "SendStreamingMessage", "message/send", "message/stream"})
DOORS = {"hermit": free_port(), "clerk": free_port()}
Way = Callable[..., Said]


class Agents(Peers):
    """Agents that answer in events, and in the words of 0.3, to those who ask so."""

    def _task(self, name: str, method: str, params: dict[str, Any], heard: Heard) -> Any:
        if method not in SENDS:
            return super()._task(name, method, params, heard)
        task = super()._task(name, "SendMessage", params, heard)
        if "/" in method:
            said = task["task"]
            artifacts = [{"artifactId": "1", "parts": [{"kind": "text", "text": "done"}]}]
            old = {"kind": "task", "id": said["id"], "contextId": said["contextId"], "status": {"state": "completed"}}
            return [old | {"artifacts": artifacts}] if method == "message/stream" else old | {"artifacts": artifacts}
        return [task] if method == "SendStreamingMessage" else task


@pytest.fixture(scope="module")
def agents() -> Iterator[Agents]:
    with scripted(Agents()) as world:
        assert isinstance(world, Agents)
        yield world


@pytest.fixture(scope="module")
def desk(agents: Agents, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("approvals"), agents)
    gateway.settings["a2a"] = {"grpc": {"agents": {name: {"port": port} for name, port in DOORS.items()}}}
    for name in DOORS:
        gateway.settings["agents"][name] |= {"versions": ["1.0", "0.3"], "extensions": [EXTENSION]}
    gateway.config.write_text(json.dumps(gateway.settings))
    held = "p, *, acme, a2a:clerk, send, require, -, held-open, SEC-20\n"
    duties = FILES["obligations.yaml"].replace("wait: 30s", "wait: 30s, asks: error")  # who is asked by a task is asked at once
    with_policy(gateway, **{"grants/guardrails.csv": FILES["grants/guardrails.csv"] + held, "obligations.yaml": duties})
    try:
        yield gateway.start()
    finally:
        gateway.stop()


@pytest.fixture(autouse=True)
def _nothing_heard(agents: Agents) -> None:
    agents.heard.clear()


def arrived(agents: Agents) -> list[Heard]:
    return [each for each in agents.heard if each.message["method"] in SENDS]


# --- the ways


def message(text: str) -> dict[str, Any]:
    return {"messageId": str(uuid.uuid4()), "role": "ROLE_USER", "parts": [{"text": text}]}


def last(text: str) -> dict[str, Any]:
    """The last event of a stream, or the one answer that there is in place of it."""
    lines = [line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:")]
    said: dict[str, Any] = json.loads(lines[-1] if lines else text)
    return said


def said(body: dict[str, Any]) -> Said:
    """An answer of JSON-RPC, whole or as an event."""
    if "error" not in body:
        return Said("done" if "done" in json.dumps(body) else "nothing")
    told = body["error"]["data"][0]["metadata"]
    return Said(told["code"], told.get("approval", ""), body["error"]["message"])


def headers(token: str, version: str = "1.0") -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} | ({"A2A-Version": "1.0"} if version == "1.0" else {})


def by_stream(gateway: Gateway, token: str, text: str = "chairs", agent: str = "hermit", **more: str) -> Said:
    answer = gateway.ask(agent, "SendStreamingMessage", {"message": message(text)}, token, **more)
    return said(last(answer.text))


def by_rest(gateway: Gateway, token: str, text: str = "chairs", agent: str = "hermit", **more: str) -> Said:
    return rest(gateway, token, f"/a2a/{agent}/rest/message:send", text, more)


def by_rest_stream(gateway: Gateway, token: str, text: str = "chairs", agent: str = "hermit", **more: str) -> Said:
    return rest(gateway, token, f"/a2a/{agent}/rest/message:stream", text, more)


def rest(gateway: Gateway, token: str, path: str, text: str, more: dict[str, str]) -> Said:
    answer: httpx.Response = gateway.http.post(path, json={"message": message(text)}, headers=headers(token) | more)
    body = last(answer.text)
    if "error" not in body:
        return Said("done" if "done" in answer.text else "nothing")
    told = body["error"]["details"][0]["metadata"]
    return Said(told["code"], told.get("approval", ""), body["error"]["message"])


def by_grpc(gateway: Gateway, token: str, text: str = "chairs", agent: str = "hermit", **more: str) -> Said:
    return rpc("SendMessage", agent, headers(token) | more, text)


def by_grpc_stream(gateway: Gateway, token: str, text: str = "chairs", agent: str = "hermit", **more: str) -> Said:
    return rpc("SendStreamingMessage", agent, headers(token) | more, text)


def rpc(method: str, agent: str, lines: dict[str, str], text: str) -> Said:
    request = pb.SendMessageRequest(
        message=pb.Message(message_id=str(uuid.uuid4()), role=pb.Role.ROLE_USER, parts=[pb.Part(text=text)])
    )
    metadata = tuple((name.lower(), value) for name, value in lines.items())
    with grpc.insecure_channel(f"127.0.0.1:{DOORS[agent]}") as channel:
        client: Any = A2AServiceStub(channel)  # type: ignore[no-untyped-call]
        try:
            answer = getattr(client, method)(request, metadata=metadata)
            text = str(answer if method == "SendMessage" else list(answer))
            return Said("done" if "done" in text else "nothing")
        except grpc.RpcError as error:
            details = dict(error.trailing_metadata())["grpc-status-details-bin"]
            info = ErrorInfo()
            status_pb2.Status.FromString(details).details[0].Unpack(info)
            return Said(info.metadata["code"], info.metadata.get("approval", ""), str(error.details()))


def by_old(gateway: Gateway, token: str, text: str = "chairs", agent: str = "hermit", **more: str) -> Said:
    return old(gateway, token, "message/send", text, agent, more)


def by_old_stream(gateway: Gateway, token: str, text: str = "chairs", agent: str = "hermit", **more: str) -> Said:
    return old(gateway, token, "message/stream", text, agent, more)


def old(gateway: Gateway, token: str, method: str, text: str, agent: str, more: dict[str, str]) -> Said:
    told = {"kind": "message", "messageId": str(uuid.uuid4()), "role": "user", "parts": [{"kind": "text", "text": text}]}
    asked = {"jsonrpc": "2.0", "id": 7, "method": method, "params": {"message": told}}
    return said(last(gateway.post(f"/a2a/{agent}/", asked, headers(token, "0.3") | more).text))


WAYS: dict[str, Way] = {
    "stream": by_stream,
    "rest": by_rest,
    "rest-stream": by_rest_stream,
    "grpc": by_grpc,
    "grpc-stream": by_grpc_stream,
    "0.3": by_old,
    "0.3-stream": by_old_stream,
}


@pytest.fixture(params=list(WAYS))
def ask(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


# --- the promises


def test_a_message_waits_for_its_approval_and_then_goes_on_once(desk: Gateway, agents: Agents, ask: Way) -> None:
    token = desk.token()
    first = ask(desk, token)
    assert (first.word, arrived(agents)) == ("approval-required", [])
    assert "very same" in first.text
    assert ask(desk, token).approval == first.approval, "asked again too early, it waits for the same one"
    assert ask(desk, token, text="two chairs").approval not in {"", first.approval}
    assert approve(desk, first.approval).json()["state"] == "granted"
    assert ask(desk, token).word == "done"
    assert len(arrived(agents)) == 1
    assert kinds(desk, first.approval) == ["approval.ask", "approval.grant", "approval.use"]
    again = ask(desk, token)
    assert (again.word, again.approval == first.approval, len(arrived(agents))) == ("approval-required", False, 1)


def test_a_message_that_was_denied_is_told_so_and_goes_nowhere(desk: Gateway, agents: Agents, ask: Way) -> None:
    token, fiona = desk.token(), desk.token("fiona")
    first = ask(desk, token, text="denied")
    denied = desk.http.post(
        f"/api/approvals/{first.approval}/deny", json={"reason": "no"}, headers={"Authorization": f"Bearer {fiona}"}
    )
    assert denied.status_code == 200, denied.text
    assert [ask(desk, token, text="denied").word, arrived(agents)] == ["approval-denied", []]


def test_a_message_that_is_held_open_goes_on_as_soon_as_somebody_approves(desk: Gateway, agents: Agents, ask: Way) -> None:
    token, text = desk.token(), f"held {ask.__name__}"
    before = {record.leaf["approval"] for record in desk.records(kind="approval.ask")}

    def parked() -> set[str]:
        return {record.leaf["approval"] for record in desk.records(kind="approval.ask")} - before

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, desk, token, text, "clerk")
        eventually(lambda: bool(parked()))
        assert not waiting.done()
        assert arrived(agents) == []
        (approval,) = parked()
        approve(desk, approval)
        assert waiting.result().word == "done"
    assert len(arrived(agents)) == 1
    assert [record.kind for record in of(desk, approval)] == ["approval.ask", "approval.grant", "approval.use"]


def test_one_approval_is_for_one_message_by_whichever_binding_it_comes(desk: Gateway, agents: Agents) -> None:
    """The same operation with the same words is the same call; one that streams is another."""
    token = desk.token()
    found = {name: way(desk, token, text="lamps").approval for name, way in {**WAYS, "json-rpc": by_whole}.items()}
    whole = {found[name] for name in ("json-rpc", "rest", "grpc", "0.3")}
    streamed = {found[name] for name in ("stream", "rest-stream", "grpc-stream", "0.3-stream")}
    assert (len(whole), len(streamed), whole & streamed) == (1, 1, set())
    approve(desk, whole.pop())
    assert by_stream(desk, token, text="lamps").word == "approval-required"
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(way, desk, token, text="lamps") for way in (by_whole, by_rest, by_grpc, by_old)]
        words = sorted(each.result().word for each in asked)
    assert words == ["approval-required"] * 3 + ["done"]
    assert len(arrived(agents)) == 1


def by_whole(gateway: Gateway, token: str, text: str = "chairs", **more: str) -> Said:
    return by_a2a(gateway, token, text=text, **more)


def test_attack_an_extension_that_was_not_approved_makes_another_message(desk: Gateway, agents: Agents, ask: Way) -> None:
    """What an agent is to read into a message is said beside it, in a header."""
    token, name = desk.token(), "X-A2A-Extensions" if "old" in ask.__name__ else "A2A-Extensions"
    first = ask(desk, token, text="stools")
    approve(desk, first.approval)
    other = ask(desk, token, text="stools", **{name: EXTENSION})
    assert (other.word, other.approval == first.approval, arrived(agents)) == ("approval-required", False, [])
    assert ask(desk, token, text="stools").word == "done"
