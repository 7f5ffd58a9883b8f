"""`/mcp`: a server with sessions asks a client that has none: its call is held while the client is asked."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest

from gateway.mcp.questions import Rules
from gateway.mcp.sealed import Sealed
from tests.mcp.aggregate_world import Heard, of_era
from tests.mcp.scripted import FORM_QUESTION, SSE, done, event, scripted, where
from tests.mcp.test_aggregate_questions import FORM, SAMPLE, Person, both, client_of, result_of
from tests.mcp.world import DENY, MODERN, World, answer_of, gateway, modern_body, modern_headers
from tests.upstream.wire import Reader, Upstream, Writer, upstream

CAN = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}, "sampling": {}, "roots": {}}}
ACCEPT = {"action": "accept", "content": {"username": "Ada", "email": "e"}}


@pytest.fixture
async def world(tmp_path: Path, server_url: str) -> AsyncIterator[World]:
    async with gateway(tmp_path, both(server_url)) as running:
        yield running


async def asked(world: World, name: str = FORM["old"][0], person: str = "anna", **more: Any) -> dict[str, Any]:
    """What a tool call says, or its error."""
    params = {"name": name, "arguments": FORM["old"][1]} | more
    answer = answer_of(await world.modern(person, "tools/call", server="", meta=CAN, **params))
    found: dict[str, Any] = answer.get("result") or answer["error"]
    return found


def again(question: dict[str, Any], answer: Any = ACCEPT, **more: Any) -> dict[str, Any]:
    """What a call has besides that is made again."""
    responses = dict.fromkeys(question["inputRequests"], answer)
    return {"requestState": question["requestState"], "inputResponses": responses} | more


@pytest.mark.parametrize("what", ["form", "sampling"])
async def test_the_official_client_is_asked_and_its_answer_reaches_the_call_that_waits(
    tmp_path: Path, server_url: str, what: str
) -> None:
    ada = Person()
    rules = Rules(max_tokens=7)
    async with gateway(tmp_path, both(server_url), rules=rules) as world, client_of(world, ada, mode=MODERN) as client:
        result = await result_of(client, *(FORM if what == "form" else SAMPLE)["old"])
    assert "Ada" in result.content[0].text
    assert ada.seen[0].message.startswith("old asks: ") if what == "form" else ada.seen[0].max_tokens == 7
    put = next(entry for entry in world.ledger.entries if entry.kind == "question.ask")
    answers = [entry for entry in world.ledger.entries if put.id in entry.fields.get("about", ())]  # type: ignore[operator]
    assert [(entry.kind, entry.fields["direction"]) for entry in answers] == [("call.start", "answer")]
    calls = [entry for entry in world.ledger.entries if entry.kind == "call.start" and entry.fields["tool"].startswith("test_")]  # type: ignore[attr-defined]
    assert len(calls) == 1  # to the server it is one call


async def test_a_person_who_declines_has_answered_and_the_server_hears_it(world: World) -> None:
    ada = Person()
    ada.says = types.ElicitResult(action="decline")
    async with client_of(world, ada, mode=MODERN) as client:
        assert "action=decline" in (await result_of(client, *FORM["old"])).content[0].text


async def test_a_server_may_ask_again_and_what_it_says_between_reaches_the_request_that_is_open(tmp_path: Path) -> None:
    told: asyncio.Queue[Any] = asyncio.Queue()

    def progress(n: int) -> bytes:
        return event({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": "t-1", "progress": n}})

    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        page = {"mode": "url", "message": "Pay", "url": "https://pay.example.com/7", "elicitationId": "e-1"}
        writer.write(SSE + progress(1) + event(FORM_QUESTION))
        await told.get()
        writer.write(progress(2) + event({**FORM_QUESTION, "id": 7, "params": page}))
        await told.get()
        writer.write(progress(3) + event(done(body["id"])) + b"0\r\n\r\n")

    base = scripted(say)

    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        async def watched(reader: Reader) -> bytes:
            request = await Upstream.request(there, reader)
            content = request.partition(b"\r\n\r\n")[2]
            if content and b'"method"' not in content:
                told.put_nowait(json.loads(content))
            return request

        there.request = watched  # type: ignore[method-assign]
        await base(there, reader, writer)

    rules = Rules(url_hosts=frozenset({"pay.example.com"}))
    heard: list[Any] = []
    async with (
        upstream(script) as there,
        gateway(tmp_path, {"srv": of_era("srv", where(there), "legacy")}, rules=rules) as world,
    ):
        more: dict[str, Any] = {}
        for token in ("t-1", "t-2", None):
            can = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}, "url": {}}}}
            meta = can | ({"progressToken": token} if token else {})
            body = modern_body("tools/call", f"id of {token}", meta, name="srv__t", arguments={}, **more)
            headers = (
                modern_headers("tools/call", name="srv__t")
                | world.token("anna")
                | {"accept": "application/json, text/event-stream"}
            )
            async with asyncio.timeout(20), world.client.stream("POST", "/mcp", json=body, headers=headers) as response:
                stream = Heard(response)
                if "event-stream" in response.headers["content-type"]:
                    while said := await stream.next():
                        heard.append(said)
                else:
                    heard.append(json.loads(await response.aread()))
            if "inputRequests" in heard[-1]["result"]:
                more = again(heard[-1]["result"], {"action": "accept", "content": {"name": "x"}})
    assert [said["id"] if "id" in said else (said["params"]["progress"], said["params"]["progressToken"]) for said in heard] == [
        (1, "t-1"),
        "id of t-1",
        (2, "t-2"),
        "id of t-2",
        "id of None",
    ]
    (page,) = heard[3]["result"]["inputRequests"].values()
    assert page["params"] == {"mode": "url", "message": "srv asks: Pay", "url": "https://pay.example.com/7"}
    assert heard[-1]["result"]["resultType"] == "complete"


async def test_a_call_that_comes_again_without_the_answer_is_asked_again_and_the_old_state_counts_no_more(world: World) -> None:
    first = await asked(world)
    second = await asked(world, requestState=first["requestState"])
    assert [*second["inputRequests"].values()] == [*first["inputRequests"].values()]
    assert (await asked(world, **again(first)))["code"] == -32602
    assert "Ada" in json.dumps(await asked(world, **again(second)))


async def test_an_answer_that_is_none_is_refused_and_the_call_still_waits(world: World) -> None:
    question = await asked(world)
    assert (await asked(world, **again(question, {"action": "maybe"})))["code"] == -32602
    assert "Ada" in json.dumps(await asked(world, **again(question)))


async def test_a_call_whose_client_does_not_come_back_ends_and_its_server_is_told(
    tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.mcp.aggregate.held.ANSWER_SECONDS", 0.05)
    async with gateway(tmp_path, both(server_url)) as world:
        question = await asked(world)
        refused = await asyncio.wait_for(world.ledger.until("decision.deny"), 10)
        assert refused.fields["refused"] == {"code": "question-unanswered", "detail": "no answer in time"}
        told = [entry for entry in world.ledger.entries if entry.fields.get("method") == "notifications/cancelled"]
        assert [entry.fields["target"] for entry in told if entry.kind == "call.start"] == ["old"]
        assert (await asked(world, **again(question)))["code"] == -32602


async def test_the_state_of_a_call_that_is_held_means_nothing_to_another_replica_and_begins_no_second_call(
    tmp_path: Path, server_url: str
) -> None:
    sealed = Sealed([secrets.token_bytes(32)])
    async with (
        gateway(tmp_path, both(server_url), sealed=sealed) as first,
        gateway(tmp_path, both(server_url), sealed=sealed, public_url=first.url) as second,
    ):
        question = await asked(first)
        assert (await asked(second, **again(question)))["code"] == -32602
        assert not [entry for entry in second.ledger.entries if entry.fields.get("tool") == "test_elicitation"]
        assert "Ada" in json.dumps(await asked(first, **again(question)))


async def test_a_client_that_can_be_asked_nothing_is_asked_nothing_and_the_server_hears_that(world: World) -> None:
    answer = await world.modern("anna", "tools/call", server="", name=FORM["old"][0], arguments=FORM["old"][1])
    assert "client has no elicitation capability" in answer.text
    world.verdicts["*", "elicitation:old"] = DENY
    assert "client has no elicitation capability" in json.dumps(await asked(world))
    assert "question.ask" not in world.ledger.kinds()


async def test_a_client_that_hangs_up_while_its_call_goes_on_has_cancelled_it(tmp_path: Path) -> None:
    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        writer.write(
            SSE + event({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}})
        )

    async with upstream(scripted(say)) as there, gateway(tmp_path, {"srv": of_era("srv", where(there), "legacy")}) as world:
        body = modern_body("tools/call", 1, CAN | {"progressToken": 1}, name="srv__t", arguments={})
        headers = (
            modern_headers("tools/call", name="srv__t") | world.token("anna") | {"accept": "application/json, text/event-stream"}
        )
        async with asyncio.timeout(20), world.client.stream("POST", "/mcp", json=body, headers=headers) as response:
            await Heard(response).next()
        async with asyncio.timeout(10):
            while "interrupted" not in [
                entry.fields["outcome"]["status"]  # type: ignore[index, call-overload]
                for entry in world.ledger.entries
                if entry.kind == "call.end"
            ]:
                world.ledger.grown.clear()
                await world.ledger.grown.wait()
        assert any(b"notifications/cancelled" in request for request in there.requests)


async def test_what_is_asked_while_a_list_is_made_goes_to_nobody_and_the_server_is_told_at_once(tmp_path: Path) -> None:
    told = asyncio.Event()

    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while request := await there.request(reader):
            body = json.loads(request.partition(b"\r\n\r\n")[2] or b"{}")
            if body.get("method") == "tools/list":
                writer.write(SSE + event(FORM_QUESTION))
                await told.wait()
                result = {"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}
                writer.write(event({"jsonrpc": "2.0", "id": body["id"], "result": result}) + b"0\r\n\r\n")
                continue
            if "method" not in body:
                assert "error" in body
                told.set()
            await scripted(_nothing)(_One(request), reader, writer)  # type: ignore[arg-type]

    async with upstream(script) as there, gateway(tmp_path, {"srv": of_era("srv", where(there), "legacy")}) as world:
        answer = await world.modern("anna", "tools/list", server="", meta=CAN)
    assert [tool["name"] for tool in answer_of(answer)["result"]["tools"]] == ["srv__t"]


async def _nothing(*_: Any) -> None:
    pass


class _One:
    """One request that was read already."""

    def __init__(self, request: bytes) -> None:
        self._requests = [request]

    async def request(self, _: Reader) -> bytes:
        return self._requests.pop() if self._requests else b""
