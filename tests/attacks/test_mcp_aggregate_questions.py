"""Attacks on questions and answers at `/mcp`: foreign, forged, late and second answers, and servers that ask too much."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.errors import POLICY
from gateway.model import Refused
from gateway.reasons import Code
from tests.mcp.aggregate_world import of_era
from tests.mcp.scripted import FORM_QUESTION, SSE, asking, event, in_session, scripted, where, whole
from tests.mcp.test_aggregate_held import again
from tests.mcp.test_aggregate_held import asked as held_asked
from tests.mcp.test_aggregate_questions import ASKS, BOTH, FORM, Asker, answered, both, calling
from tests.mcp.world import DENY, MODERN, World, answer_of, gateway, reference_server
from tests.upstream.wire import Reader, Upstream, Writer, upstream

ACCEPT = {"result": {"action": "accept", "content": {"username": "eve", "email": "e", "name": "eve"}}}


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with reference_server() as url:
        yield url


@pytest.fixture
async def world(tmp_path: Path, server_url: str) -> AsyncIterator[World]:
    async with gateway(tmp_path, both(server_url)) as running:
        yield running


@pytest.mark.parametrize("server", BOTH)
async def test_a_question_put_to_one_is_answered_by_nobody_else_nor_in_another_session_nor_in_another_form(
    world: World, server: str
) -> None:
    anna, again = [await world.handshake("anna", "", capabilities=ASKS) for _ in range(2)]
    ben = await world.handshake("ben", "", capabilities=ASKS)
    mount = await world.handshake("anna", server, capabilities=ASKS) if server == "old" else "none"
    async with calling(world, anna, FORM[server][0], **FORM[server][1]) as stream:
        question = await stream.until("elicitation/create")
        accept = {"jsonrpc": "2.0", "id": question["id"], **ACCEPT}
        for person, headers, at, status in (
            ("ben", in_session(ben), "", 400),
            ("ben", in_session(anna), "", 404),
            ("anna", in_session(again), "", 400),
            ("anna", in_session(mount), server, 400 if server == "old" else 404),
            ("anna", {"mcp-protocol-version": "2025-11-25"}, "", 400),
            ("anna", {"mcp-protocol-version": MODERN}, "", 400),
            (None, in_session(anna), "", 401),
        ):
            assert (await world.post(person, accept, server=at, headers=headers)).status_code == status, (person, at)
        for body in (
            {**accept, "result": {"action": "maybe"}},
            {**accept, "result": {"role": "assistant"}},
            {**accept, "error": {"code": 1, "message": "x"}},
            {**accept, "Result": {}},
            {**accept, "id": question["id"][:-2] + "AA"},
            {**accept, "id": question["id"] + "="},
        ):
            assert (await world.post("anna", body, server="", headers=in_session(anna))).status_code == 400, body
        assert await answered(world, anna, question["id"], result={"action": "decline"}) == 202
        said = json.dumps(await stream.next())
    assert "eve" not in said
    told = [entry for entry in world.ledger.entries if entry.fields.get("said")]
    assert [entry.fields["said"][0]["action"] for entry in told] == ["decline"]  # type: ignore[index]


@pytest.mark.parametrize("server", BOTH)
async def test_a_second_answer_and_one_after_the_end_are_as_unknown_ones(world: World, server: str) -> None:
    session = await world.handshake("anna", "", capabilities=ASKS)
    async with calling(world, session, FORM[server][0], **FORM[server][1]) as stream:
        question = await stream.until("elicitation/create")
        statuses = await asyncio.gather(*(answered(world, session, question["id"]) for _ in range(5)))
        assert sorted(statuses) == [202, 400, 400, 400, 400]
        await stream.next()
    refusals = []
    for known in (question["id"], "q-1", "", "1", "g:old:s:1"):
        answer = await world.post("anna", {"jsonrpc": "2.0", "id": known, **ACCEPT}, server="", headers=in_session(session))
        error = answer.json()["error"]
        del error["data"]["decision"]
        refusals.append((answer.status_code, json.dumps(error)))
    assert len(set(refusals)) == 1
    assert refusals[0][0] == 400
    assert len([entry for entry in world.ledger.entries if entry.fields.get("said")]) == 1
    late = [entry for entry in world.ledger.entries if entry.kind == "decision.deny"]
    assert len(late) == 4 + 5


async def test_an_answer_that_a_client_of_handshakes_brings_unasked_goes_to_no_server(tmp_path: Path) -> None:
    asker = Asker(rounds=0)
    async with asker.served() as url, gateway(tmp_path, {"srv": of_era("srv", url, "modern")}) as world:
        session = await world.handshake("anna", "", capabilities=ASKS)
        more = {"inputResponses": {"name": ACCEPT["result"]}, "requestState": "1"}
        await world.legacy("anna", "tools/call", server="", session=session, name="srv__t", arguments={}, **more)
    assert [sorted(params.keys() - {"_meta"}) for params in asker.params] == [["arguments", "name"]]


@pytest.mark.parametrize("withdrawn", [True, False])
async def test_a_server_that_asks_what_it_may_not_gets_an_error_and_the_client_no_question(
    tmp_path: Path, withdrawn: bool
) -> None:
    """Policy changed after the handshake; or the server never cared what was declared."""
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    async with (
        upstream(asking(FORM_QUESTION, told)) as there,
        Asker().served() as url,
        gateway(tmp_path, {"old": of_era("old", where(there), "legacy"), "new": of_era("new", url, "modern")}) as world,
    ):
        session = await world.handshake("anna", "", capabilities=ASKS if withdrawn else {"sampling": {}})
        params = {"session": session, "arguments": {}}
        if withdrawn:
            await world.legacy("anna", "tools/list", server="", session=session)  # the session at the server stands
            world.verdicts |= {("*", f"elicitation:{server}"): DENY for server in BOTH}
        old = await world.legacy("anna", "tools/call", server="", name="old__t", **params)
        new = await world.legacy("anna", "tools/call", server="", name="new__t", **params)
        error = (await asyncio.wait_for(told.get(), 10))["error"]
    assert error["code"] == POLICY
    assert answer_of(old)["result"]["content"][0]["text"] == "went on"
    assert "not allowed here" in answer_of(new)["result"]["content"][0]["text"]
    assert "What is your name" not in old.text + new.text
    assert [entry.kind for entry in world.ledger.entries if entry.fields.get("direction") == "question"] == ["decision.deny"] * 2


async def test_a_server_that_asks_without_end_is_cut_off(tmp_path: Path) -> None:
    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        writer.write(SSE + b"".join(event({**FORM_QUESTION, "id": n}) for n in range(200)))

    many = {str(n): FORM_QUESTION for n in range(33)}
    async with (
        upstream(scripted(say)) as there,
        Asker(**many).served() as url,
        gateway(tmp_path, {"old": of_era("old", where(there), "legacy"), "new": of_era("new", url, "modern")}) as world,
    ):
        session = await world.handshake("anna", "", capabilities=ASKS)
        params = {"session": session, "arguments": {}}
        for server, asked in (("old", 64), ("new", 0)):
            answer = await world.legacy("anna", "tools/call", server="", name=f"{server}__t", **params)
            lines = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
            asks = [said["id"] for said in lines if said.get("method")]
            assert len(asks) == asked
            assert answer_of(answer)["error"]["data"]["code"] == "upstream-protocol"
            for known in asks[:2]:
                assert await answered(world, session, known) == 400


@pytest.mark.parametrize("method", ["tools/list", "prompts/list", "resources/list"])
@pytest.mark.parametrize("kind", ["input_required", "task", "anything"])
@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_list_that_says_that_it_is_unfinished_is_filtered_all_the_same(
    tmp_path: Path, method: str, kind: str, era: Any
) -> None:
    member, key = {"tools": ("tools", "name"), "prompts": ("prompts", "name"), "resources": ("resources", "uri")}[method[:-5]]

    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        while request := await there.request(reader):
            body = json.loads(request.partition(b"\r\n\r\n")[2] or b"{}")
            result: dict[str, Any] = {"protocolVersion": "2025-11-25", "capabilities": {}, "supportedVersions": [MODERN]}
            if body["method"] == method:
                result = {member: [{key: "file:///hidden", "name": "hidden", "inputSchema": {"type": "object"}}]}
            result["resultType"] = kind
            head = (b"mcp-session-id: s-1",) if body["method"] == "initialize" else ()
            writer.write(whole({"jsonrpc": "2.0", "id": body.get("id"), "result": result}, *head))

    async with upstream(script) as there, gateway(tmp_path, {"srv": of_era("srv", where(there), era)}) as world:
        for hidden in ("srv.hidden", "prompt:srv/hidden", "res:srv/file:///hidden"):
            world.verdicts["*", hidden] = DENY
        session = await world.handshake("anna", "srv") if era == "legacy" else ""
        ask = world.modern if era == "modern" else world.legacy
        extra = {"session": session} if session else {}
        assert "hidden" not in (await ask("anna", method, server="srv", **extra)).text
        assert "hidden" not in (await ask("anna", method, server="")).text


async def test_a_held_call_goes_on_for_nobody_else_nor_with_other_arguments_nor_twice(world: World) -> None:
    question = await held_asked(world)
    for person, more in (
        ("ben", again(question)),
        ("anna", again(question, arguments={"message": "other"})),
        ("anna", again(question, name="old__test_elicitation_sep1034_defaults")),
        ("anna", again(question, name="new__test_input_required_result_elicitation")),
        ("anna", again(question, requestState=question["requestState"][:-2] + "AA")),
        ("anna", again(question, requestState="s1")),
    ):
        assert (await held_asked(world, person=person, **more))["code"] == -32602, (person, more)
    said = await asyncio.gather(*(held_asked(world, **again(question)) for _ in range(5)))
    assert sorted("Ada" in json.dumps(each) for each in said) == [False] * 4 + [True]
    assert {each["code"] for each in said if "code" in each} == {-32602}
    assert (await held_asked(world, **again(question)))["code"] == -32602
    tools = [entry.fields["tool"] for entry in world.ledger.entries if entry.kind == "call.start" and entry.fields["tool"]]
    assert tools == ["test_elicitation"]  # none of it made a second call


async def test_a_state_of_the_servers_own_making_is_no_held_call(world: World) -> None:
    question = await held_asked(world)
    session = await world.handshake("anna", "", capabilities=ASKS)
    more = {"name": "old__test_elicitation", "arguments": {"message": "Who are you?"}, **again(question)}
    answer = await world.legacy("anna", "tools/list", server="", session=session)
    assert answer.status_code == 200
    async with calling(world, session, "old__test_elicitation", message="Who are you?") as stream:  # of the other era: a new call
        assert (await stream.until("elicitation/create"))["id"] != question["requestState"]
    assert (await world.modern("anna", "tools/call", server="old", **more)).json()["error"]["code"] == -32602


async def test_calls_that_are_held_are_bounded_and_the_one_too_many_ends(
    tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.mcp.aggregate.held.OF_ONE", 2)
    async with gateway(tmp_path, both(server_url)) as world:
        questions = [await held_asked(world) for _ in range(2)]
        refused = await held_asked(world)
        assert (refused["isError"], refused["_meta"]["bailiwick/code"]) == (True, "question-unanswered")
        assert refused["resultType"] == "complete"
        assert "inputRequests" in await held_asked(world, person="ben")
        for question in questions:
            assert "Ada" in json.dumps(await held_asked(world, **again(question)))
        assert "inputRequests" in await held_asked(world)


async def test_a_person_whose_authority_ends_while_they_are_asked_is_not_gone_on_for(world: World) -> None:
    question = await held_asked(world)
    assert world.running.end(lambda _: Refused(Code.REVOKED, "killed")) == 1
    said = await held_asked(world, **again(question))
    assert "Ada" not in json.dumps(said)
    assert "revoked" in json.dumps(said)


@pytest.mark.parametrize("denied", ["old.test_elicitation", "elicitation:old"])
async def test_an_answer_that_policy_forbids_by_now_reaches_no_call_that_is_held(world: World, denied: str) -> None:
    question = await held_asked(world)
    world.verdicts["*", denied] = DENY
    world.enforce()
    assert "Ada" not in json.dumps(await held_asked(world, **again(question)))
    assert not [
        entry for entry in world.ledger.entries if entry.kind == "call.start" and entry.fields.get("direction") == "answer"
    ]
