"""A request of 0.3 that two readers could read differently, or that could not be carried as it was checked, goes nowhere."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.a2a import v03
from gateway.a2a.wire import UnreadableError
from tests.a2a.agents import Agent, Request, scripted
from tests.a2a.world import World, gateway

TEXT: dict[str, Any] = {"kind": "text", "text": "hi"}


@pytest.fixture
async def agent() -> AsyncIterator[tuple[str, Agent]]:
    async def script(request: Request) -> None:
        await request.result({"kind": "message", "messageId": "a", "role": "agent", "parts": [TEXT]})

    async with scripted(script) as found:
        yield found


@pytest.fixture
async def world(tmp_path: Path, agent: tuple[str, Agent]) -> AsyncIterator[World]:
    async with gateway(tmp_path, {"ref": agent[0]}, peers={"ref": {"versions": ("1.0", "0.3")}}) as running:
        yield running


def sent(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"message": {"messageId": "m", "role": "user", "parts": list(parts) or [TEXT], **more}}


def file(**content: Any) -> dict[str, Any]:
    return {"kind": "file", "file": content}


def webhook(**more: Any) -> dict[str, Any]:
    return sent() | {"configuration": {"pushNotificationConfig": {"url": "https://hooks.example/", **more}}}


AMBIGUOUS: dict[str, tuple[str, Any]] = {
    "both spellings of taskId": ("message/send", sent(taskId="mine", task_id="theirs")),
    "both spellings of contextId": ("message/send", sent(contextId="mine", context_id="theirs")),
    "both spellings of referenceTaskIds": ("message/send", sent(referenceTaskIds=[], reference_task_ids=["theirs"])),
    "both spellings of messageId": ("message/send", {"message": {**sent()["message"], "message_id": "n"}}),
    "both spellings in the configuration": (
        "message/send",
        sent() | {"configuration": {"historyLength": 1, "history_length": 2}},
    ),
    "both spellings of the webhook": (
        "message/send",
        sent() | {"configuration": {"pushNotificationConfig": {"url": "a"}, "push_notification_config": {"url": "b"}}},
    ),
    "both spellings of a config's task": (
        "tasks/pushNotificationConfig/set",
        {"taskId": "a", "task_id": "b", "pushNotificationConfig": {"url": "https://hooks.example/"}},
    ),
    "a part of no kind": ("message/send", sent({"text": "hi"})),
    "a part of an unknown kind": ("message/send", sent({"kind": "telepathy", "text": "hi"})),
    "a part of another kind than it says": ("message/send", sent({"kind": "text", "data": {}})),
    "a part of two contents": ("message/send", sent({**TEXT, "file": {"uri": "https://files.example/"}})),
    "a part that is 1.0's": ("message/send", sent({"kind": "text", "text": "a", "data": {"b": 1}})),
    "a kind that is no text": ("message/send", sent({"kind": ["text"], "text": "hi"})),
    "a file with bytes and an address": ("message/send", sent(file(bytes="aGk=", uri="https://files.example/"))),
    "a file of neither": ("message/send", sent(file(name="x"))),
    "bytes in another alphabet": ("message/send", sent(file(bytes="aGk-_w=="))),
    "bytes that end too early": ("message/send", sent(file(bytes="aGk"))),
    "bytes with something between": ("message/send", sent(file(bytes="aG k="))),
    "a message of another kind": ("message/send", sent(kind="task")),
    "a role by 1.0's name": ("message/send", {"message": {**sent()["message"], "role": "ROLE_USER"}}),
    "a number for a text": ("message/send", sent(contextId=5)),
    "a text for a number": ("message/send", sent() | {"configuration": {"historyLength": "3"}}),
    "a number that no proto holds": ("message/send", sent() | {"configuration": {"historyLength": 2**40}}),
    "a text for a truth": ("message/send", sent() | {"configuration": {"blocking": "false"}}),
    "a negative history": ("message/send", sent() | {"configuration": {"historyLength": -1}}),
    "data that is no object, as the SDK marks it, and is one": (
        "message/send",
        sent({"kind": "data", "data": {"value": {"a": 1}}, "metadata": {"data_part_compat": True}}),
    ),
    "data that is no object, as the SDK marks it, and more": (
        "message/send",
        sent({"kind": "data", "data": {"value": 1, "other": "unseen"}, "metadata": {"data_part_compat": True}}),
    ),
    "more schemes than one": ("message/send", webhook(authentication={"schemes": ["Bearer", "Basic"], "credentials": "x"})),
    "metadata that no question of 1.0 has": ("tasks/get", {"id": "t", "metadata": {"a": 1}}),
    "an id that is no text": ("tasks/get", {"id": ["t"]}),
    "a number that no reader holds": ("message/send", sent(metadata={"a": 10**400})),
    "no message": ("message/send", {}),
    "a list for a message": ("message/send", {"message": []}),
    "no parts": ("message/send", {"message": {**sent()["message"], "parts": []}}),
    "a subscription to nothing": ("tasks/resubscribe", {}),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_what_readers_of_0_3_could_read_differently_is_refused(world: World, agent: tuple[str, Agent], name: str) -> None:
    method, params = AMBIGUOUS[name]
    body = {"jsonrpc": "2.0", "id": "1", "method": method, "params": params}
    answer = await world.client.post("/a2a/ref/", json=body, headers=world.token("paul"))
    assert answer.json()["error"]["code"] == -32602
    assert agent[1].requests == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":"1","method":"message/send","params":{},"params":{}}',
        b'{"jsonrpc":"2.0","id":"1","method":"message/send","params":{"message":{"messageId":"m","messageId":"n"}}}',
    ],
)
async def test_a_member_that_stands_twice_is_refused_in_0_3(world: World, agent: tuple[str, Agent], body: bytes) -> None:
    answer = await world.client.post(
        "/a2a/ref/", content=body, headers=world.token("paul") | {"content-type": "application/json"}
    )
    assert answer.json()["error"]["code"] == -32700
    assert agent[1].requests == []


async def test_the_other_spelling_alone_is_checked_and_sent_on_as_the_first(world: World, agent: tuple[str, Agent]) -> None:
    params = {"message": {"message_id": "m", "context_id": "c", "role": "user", "parts": [TEXT]}}
    body = {"jsonrpc": "2.0", "id": "1", "method": "message/send", "params": params}
    assert "result" in (await world.client.post("/a2a/ref/", json=body, headers=world.token("paul"))).json()
    for person in ("mia", "paul"):
        await world.client.post("/a2a/ref/", json=body, headers=world.token(person))
    first, theirs, again = [request.rpc["params"]["message"] for request in agent[1].requests]
    assert first == again == {
        "kind": "message", "messageId": "m", "contextId": first["contextId"], "role": "user", "parts": [TEXT],
    }  # fmt: skip
    assert len({"c", first["contextId"], theirs["contextId"]}) == 3  # what the spelling named is paul's word, and mia's another


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
structs = st.dictionaries(texts.filter(lambda key: key != "data_part_compat"), values, min_size=1, max_size=3)
parts = st.one_of(
    st.fixed_dictionaries({"kind": st.just("text"), "text": texts}, optional={"metadata": structs}),
    st.fixed_dictionaries({"kind": st.just("data"), "data": structs}, optional={"metadata": structs}),
    st.fixed_dictionaries(
        {
            "kind": st.just("file"),
            "file": st.fixed_dictionaries({"uri": texts}, optional={"name": texts.filter(bool), "mimeType": texts.filter(bool)}),
        }
    ),
)
requests = st.fixed_dictionaries(
    {
        "message": st.fixed_dictionaries(
            {
                "kind": st.just("message"),
                "messageId": texts,
                "role": st.sampled_from(["user", "agent"]),
                "parts": st.lists(parts, min_size=1, max_size=3),
            },
            optional={
                "taskId": texts.filter(bool),
                "contextId": texts.filter(bool),
                "referenceTaskIds": st.lists(texts, min_size=1, max_size=3),
                "metadata": structs,
            },
        )
    },
    optional={
        "metadata": structs,
        "configuration": st.fixed_dictionaries(
            {}, optional={"blocking": st.booleans(), "historyLength": st.integers(1, 99)}
        ).filter(bool),
    },
)


@given(requests)
def test_what_was_checked_of_0_3_is_all_that_was_said(request: Any) -> None:
    message, leaves = v03.read("message/send", request)
    assert v03.written("SendMessage", message, leaves_waiting=leaves) == ("message/send", request)


@given(values, st.sampled_from(sorted(v03.METHODS)))
def test_reading_0_3_fails_in_one_way_only(value: Any, method: str) -> None:
    for wrapped in (value, {"message": value, "id": "a"}, sent(value, metadata=value)):
        with suppress(UnreadableError):
            v03.read(method, json.loads(json.dumps(wrapped)))


@given(values, st.sampled_from(["SendMessage", "SubscribeToTask", "GetTask", "ListTaskPushNotificationConfigs"]))
def test_reading_an_answer_of_0_3_fails_in_one_way_only(value: Any, operation: str) -> None:
    for wrapped in (value, {"kind": "task", "status": value}, {"kind": value}, [value]):
        with suppress(UnreadableError):
            v03.answer(operation, wrapped)
