"""Servers' questions through the gateway, in both eras, with the official client on this side and the official server on that."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from gateway.mcp.errors import POLICY
from gateway.mcp.questions import Rules
from gateway.mcp.standing import StreamTerms
from tests.mcp.scripted import (
    ELICITS,
    END,
    FORM_QUESTION,
    SSE,
    asking,
    done,
    event,
    in_session,
    next_message,
    saying_json,
    scripted,
    streamed,
    where,
)  # fmt: skip
from tests.mcp.world import DENY, MODERN, World, answer_of, gateway
from tests.upstream.wire import Upstream, Writer, upstream

ERAS = ["legacy", MODERN]


@asynccontextmanager
async def asked(world: World, mode: str, person: str = "anna", name: str = "Ada") -> AsyncIterator[Client]:
    """A client that answers what it is asked, and keeps it in `client.seen`."""
    seen: list[Any] = []

    async def elicit(_: Any, params: Any) -> types.ElicitResult:
        seen.append(params)
        fields = params.requested_schema["properties"]
        values = {key: (True if field["type"] == "boolean" else name) for key, field in fields.items()}
        return types.ElicitResult(action="accept", content=values)

    async def sample(_: Any, params: Any) -> types.CreateMessageResult:
        seen.append(params)
        text = types.TextContent(text=f"{name} says hello")
        return types.CreateMessageResult(role="assistant", content=text, model="m")

    async def roots(_: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri="file:///work", name="work")])

    async with httpx2.AsyncClient(headers=world.token(person), timeout=30, trust_env=False) as http:
        transport = streamable_http_client(f"{world.url}/mcp/ref", http_client=http)
        async with Client(
            transport, mode=mode, elicitation_callback=elicit, sampling_callback=sample, list_roots_callback=roots
        ) as client:
            client.seen = seen  # type: ignore[attr-defined]
            yield client


def text_of(result: Any) -> str:
    return str(result.content[0].text)


FORM = {"legacy": ("test_elicitation", {"message": "Who are you?"}), MODERN: ("test_input_required_result_elicitation", {})}
SAMPLE = {"legacy": ("test_sampling", {"prompt": "hi"}), MODERN: ("test_input_required_result_sampling", {})}


@pytest.mark.parametrize("mode", ERAS)
async def test_a_person_is_asked_by_the_servers_name_and_the_answer_comes_back(world: World, mode: str) -> None:
    tool, arguments = FORM[mode]
    async with asked(world, mode) as client:
        result = await asyncio.wait_for(client.call_tool(tool, arguments), 20)
        assert "Ada" in text_of(result)
        assert client.seen[0].message.startswith("ref asks: ")  # type: ignore[attr-defined]
    put = next(entry for entry in world.ledger.entries if entry.kind == "question.ask")
    answers = [entry for entry in world.ledger.entries if put.id in entry.fields.get("about", ())]  # type: ignore[operator]
    assert [entry.kind for entry in answers] == ["call.start"]
    assert answers[0].fields["said"] == [{"question": put.id, "kind": "elicitation.form", "action": "accept"}]
    assert (put.fields["action"], put.fields["resource"], put.fields["direction"]) == ("form", "elicitation:ref", "question")


@pytest.mark.parametrize("mode", ERAS)
async def test_a_model_is_asked_for_no_more_than_the_cap(tmp_path: Path, server_url: str, mode: str) -> None:
    tool, arguments = SAMPLE[mode]
    async with gateway(tmp_path, {"ref": server_url}, rules=Rules(max_tokens=7)) as world, asked(world, mode) as client:
        result = await asyncio.wait_for(client.call_tool(tool, arguments), 20)
        assert "Ada says hello" in text_of(result)
        assert client.seen[0].max_tokens == 7  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ERAS)
async def test_two_clients_at_once_are_each_asked_their_own_question(world: World, mode: str) -> None:
    tool, arguments = FORM[mode]
    async with asked(world, mode, "anna", "Ada") as one, asked(world, mode, "ben", "Ben") as other:
        calls = [client.call_tool(tool, arguments) for client in (one, other) for _ in range(3)]
        results = await asyncio.wait_for(asyncio.gather(*calls), 30)
    assert [("Ada" if "Ada" in text_of(result) else "Ben") for result in results] == ["Ada"] * 3 + ["Ben"] * 3


async def test_the_first_question_reaches_the_client_while_its_call_is_open_and_nothing_waits_for_the_end(world: World) -> None:
    """The elicitation deadlock: a gateway that collects a stream waits for an end that waits for the answer."""
    session = await world.handshake("anna", capabilities={"elicitation": {}})
    async with streamed(world, session, "tools/call", name="test_elicitation", arguments={"message": "hello"}) as lines:
        question = await next_message(lines)
        assert question["method"] == "elicitation/create"
        answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}}
        taken = await world.post("anna", answer, headers=in_session(session))
        assert (taken.status_code, taken.content) == (202, b"")
        final = await next_message(lines)
    assert "decline" in final["result"]["content"][0]["text"]


async def test_a_question_that_policy_forbids_is_not_declared_and_the_tool_is_told_so(world: World) -> None:
    world.verdicts["*", "elicitation:ref"] = DENY
    session = await world.handshake("anna", capabilities={"elicitation": {}, "sampling": {}})
    said = answer_of(
        await world.legacy("anna", "tools/call", session=session, name="test_elicitation", arguments={"message": "x"})
    )
    assert "client has no elicitation capability" in str(said)


@pytest.mark.parametrize("withdrawn", ["elicitation:ref", ""])
async def test_a_server_that_asks_all_the_same_gets_an_error_and_the_client_no_question(tmp_path: Path, withdrawn: str) -> None:
    """Policy changed after the handshake; or the server never cared what was declared."""
    answered: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    async with upstream(asking(FORM_QUESTION, answered)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        declared = {"elicitation": {}} if withdrawn else {}
        session = await world.handshake("anna", capabilities=declared)
        if withdrawn:
            world.verdicts["*", withdrawn] = DENY
        result = answer_of(await world.legacy("anna", "tools/call", session=session, name="t", arguments={}))["result"]
        told = await asyncio.wait_for(answered.get(), 10)
    assert told["id"] == "q-1"
    assert told["error"]["code"] == POLICY
    assert result["content"][0]["text"] == "went on"
    denied = next(entry for entry in world.ledger.entries if entry.fields.get("direction") == "question")
    assert denied.kind == "decision.deny"
    assert denied.fields["refused"]["code"] == ("user-lacks-right" if withdrawn else "question-refused")  # type: ignore[index]


@pytest.mark.parametrize("method", ["tools/call", "prompts/get"])
async def test_a_result_that_asks_for_what_is_forbidden_is_an_error_that_names_the_decision(tmp_path: Path, method: str) -> None:
    asks = {"q": {"method": "elicitation/create", "params": FORM_QUESTION["params"]}}
    body = {"jsonrpc": "2.0", "id": 1, "result": {"resultType": "input_required", "inputRequests": asks, "requestState": "s"}}
    async with upstream(saying_json(body)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        said = answer_of(await world.modern("anna", method, name="t", arguments={}, meta=ELICITS))
        world.verdicts["*", "elicitation:ref"] = DENY
        refused = answer_of(await world.modern("anna", method, name="t", arguments={}, meta=ELICITS))
    assert said["result"]["inputRequests"]["q"]["params"]["message"].startswith("ref asks: ")
    assert said["result"]["requestState"] != "s"
    assert "not allowed here" in json.dumps(refused)
    assert "What is your name" not in json.dumps(refused)
    assert refused["result"]["isError"] if method == "tools/call" else refused["error"]["code"] == POLICY


async def test_a_server_that_takes_its_question_back_says_so_under_the_id_that_the_client_knows(tmp_path: Path) -> None:
    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        taken_back = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "q-1"}}
        writer.write(SSE + b"".join(map(event, (FORM_QUESTION, taken_back, done(body["id"])))) + END)

    async with upstream(scripted(say)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        session = await world.handshake("anna", capabilities={"elicitation": {}})
        answer = await world.legacy("anna", "tools/call", session=session, name="t", arguments={})
    question, back, _ = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert back["params"]["requestId"] == question["id"] != "q-1"


async def test_an_answer_is_decided_again_and_goes_nowhere_once_the_right_is_gone(world: World) -> None:
    session = await world.handshake("anna", capabilities={"elicitation": {}})
    async with streamed(world, session, "tools/call", name="test_elicitation", arguments={"message": "hello"}) as lines:
        question = await next_message(lines)
        world.verdicts["*", "elicitation:ref"] = DENY
        answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}}
        assert "error" in (await world.post("anna", answer, headers=in_session(session))).json()
        world.verdicts.clear()
        assert (await world.post("anna", answer, headers=in_session(session))).status_code == 202
        await next_message(lines)


async def test_answers_that_nobody_asked_for_are_on_record_as_that_and_stay_behind_where_settings_say_so(
    tmp_path: Path, server_url: str
) -> None:
    async def ask(**options: Any) -> tuple[dict[str, Any], list[Any]]:
        async with gateway(tmp_path / str(len(options)), {"ref": server_url}, **options) as world:
            said = answer_of(
                await world.modern(
                    "anna", "tools/call", name="test_input_required_result_elicitation", arguments={}, meta=ELICITS,
                    inputResponses={"user_name": {"action": "accept", "content": {"name": "Eve"}}},
                )
            )  # fmt: skip
            return said["result"], [entry.fields.get("said") for entry in world.ledger.entries if entry.kind == "call.start"]

    passed, recorded = await ask()
    assert "Hello, Eve" in passed["content"][0]["text"]
    assert recorded == [[{"question": "", "kind": "elicitation.form", "action": "accept"}]]
    dropped, recorded = await ask(streams=StreamTerms(strict=frozenset({"ref"})))
    assert (dropped["resultType"], recorded) == ("input_required", [None])


async def test_a_page_that_a_server_sends_people_to_by_an_error_is_a_question_too(tmp_path: Path) -> None:
    page = {"mode": "url", "message": "Pay", "url": "https://pay.example.com/", "elicitationId": "1"}
    error = {"code": -32042, "message": "needed", "data": {"elicitations": [page]}}
    async with upstream(saying_json({"jsonrpc": "2.0", "id": 1, "error": error})) as there:
        rules = Rules(url_hosts=frozenset({"pay.example.com"}))
        async with gateway(tmp_path / "a", {"ref": where(there)}, rules=rules) as listed:
            passed = await paid(listed)
        async with gateway(tmp_path / "b", {"ref": where(there)}) as other:
            refused = await paid(other)
    assert passed["error"]["data"]["elicitations"] == [{**page, "message": "ref asks: Pay"}]
    assert "pay.example.com" not in json.dumps(refused)


async def paid(world: World) -> dict[str, Any]:
    session = await world.handshake("anna", capabilities={"elicitation": {"url": {}}})
    return answer_of(await world.legacy("anna", "tools/call", session=session, name="t", arguments={}))
