"""`/mcp`: servers of both eras ask clients of handshakes, on the stream of the call that they ask for, and get the answer."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from gateway.mcp import lists
from gateway.mcp.errors import UPSTREAM
from gateway.mcp.questions import Rules
from gateway.model import wall_clock
from tests.mcp.aggregate_world import Heard, of_era
from tests.mcp.scripted import FORM_QUESTION, SSE, done, event, in_session, scripted, where, whole
from tests.mcp.world import DENY, MODERN, World, answer_of, control, gateway, plain_server
from tests.upstream.wire import Reader, Upstream, Writer, upstream

ASKS = {"elicitation": {}, "sampling": {}, "roots": {}}
FORM = {"old": ("old__test_elicitation", {"message": "Who are you?"}), "new": ("new__test_input_required_result_elicitation", {})}
SAMPLE = {"old": ("old__test_sampling", {"prompt": "hi"}), "new": ("new__test_input_required_result_sampling", {})}
BOTH = ["old", "new"]


def both(url: str) -> dict[str, Any]:
    """The reference server as one that is spoken to in sessions, and as one that is not."""
    return {"old": of_era("old", url, "legacy"), "new": of_era("new", url, "modern")}


@pytest.fixture
async def world(tmp_path: Path, server_url: str) -> AsyncIterator[World]:
    async with gateway(tmp_path, both(server_url)) as running:
        yield running


class Person:
    """Answers what its client is asked, and keeps what it was asked."""

    def __init__(self, name: str = "Ada") -> None:
        self.name = name
        self.seen: list[Any] = []
        self.heard: list[str] = []
        self.says: Any = None

    async def elicit(self, _: Any, params: Any) -> Any:
        self.seen.append(params)
        self.heard.append("question")
        if self.says is not None:
            return self.says
        fields = params.requested_schema["properties"]
        values = {key: (True if field["type"] == "boolean" else self.name) for key, field in fields.items()}
        return types.ElicitResult(action="accept", content=values)

    async def sample(self, _: Any, params: Any) -> Any:
        self.seen.append(params)
        if self.says is not None:
            return self.says
        text = types.TextContent(text=f"{self.name} says hello")
        return types.CreateMessageResult(role="assistant", content=text, model="m")

    async def roots(self, _: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri="file:///work", name="work")])

    async def log(self, params: Any) -> None:
        self.heard.append(str(params.data))


@asynccontextmanager
async def client_of(world: World, answers: Person, person: str = "anna", mode: str = "legacy") -> AsyncIterator[Client]:
    """The official client, of either era, at `/mcp`."""
    async with httpx2.AsyncClient(headers=world.token(person), timeout=30, trust_env=False) as http:
        transport = streamable_http_client(f"{world.url}/mcp", http_client=http)
        async with Client(
            transport,
            mode=mode,
            elicitation_callback=answers.elicit,
            sampling_callback=answers.sample,
            list_roots_callback=answers.roots,
            logging_callback=answers.log,
        ) as client:
            yield client


class Asker:
    """A stateless server that asks before it does anything; `rounds` times, and in its own words."""

    def __init__(self, rounds: int = 1, **asked: Any) -> None:
        self.rounds = rounds
        self.asked = asked or {"name": {key: FORM_QUESTION[key] for key in ("method", "params")}}
        self.params: list[dict[str, Any]] = []
        self.ids: list[Any] = []

    @property
    def answers(self) -> list[Any]:
        """What it was answered, a call each."""
        return [params["inputResponses"] for params in self.params if "inputResponses" in params]

    def said(self, params: dict[str, Any]) -> dict[str, Any]:
        at = int(params.get("requestState", "0"))
        if at < self.rounds:
            return {"resultType": "input_required", "inputRequests": self.asked, "requestState": str(at + 1)}
        return {"resultType": "complete", "content": [{"type": "text", "text": "done"}]}

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
            while request := await there.request(reader):
                body = json.loads(request.partition(b"\r\n\r\n")[2] or b"{}")
                if body["method"] == "server/discover":
                    said = {"resultType": "complete", "supportedVersions": [MODERN], "capabilities": {"tools": {}}}
                    writer.write(whole({"jsonrpc": "2.0", "id": body["id"], "result": said}))
                    continue
                self.params.append(body["params"])
                self.ids.append(body["id"])
                writer.write(whole({"jsonrpc": "2.0", "id": body["id"], "result": self.said(body["params"])}))

        async with upstream(script) as there:
            yield where(there)


async def result_of(client: Client, tool: str, arguments: dict[str, Any]) -> Any:
    return await asyncio.wait_for(client.call_tool(tool, arguments), 20)


@asynccontextmanager
async def calling(world: World, session: str, name: str, person: str = "anna", **arguments: Any) -> AsyncIterator[Heard]:
    """A tool call in a session, whose answer is read as it comes."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    headers = in_session(session) | world.token(person) | {"accept": "application/json, text/event-stream"}
    async with asyncio.timeout(20), world.client.stream("POST", "/mcp", json=body, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Heard(response)


async def answered(world: World, session: str, rpc_id: Any, person: str = "anna", **said: Any) -> int:
    """The status of a client's answer."""
    message = {"jsonrpc": "2.0", "id": rpc_id, **(said or {"result": {"action": "accept", "content": {"name": "Ada"}}})}
    return (await world.post(person, message, server="", headers=in_session(session))).status_code


@pytest.mark.parametrize("server", BOTH)
async def test_a_person_is_asked_by_the_servers_name_and_the_answer_comes_back(world: World, server: str) -> None:
    ada = Person()
    async with client_of(world, ada) as client:
        result = await result_of(client, *FORM[server])
    assert "Ada" in result.content[0].text
    assert ada.seen[0].message.startswith(f"{server} asks: ")
    put = next(entry for entry in world.ledger.entries if entry.kind == "question.ask")
    answers = [entry for entry in world.ledger.entries if put.id in entry.fields.get("about", ())]  # type: ignore[operator]
    assert [entry.kind for entry in answers] == ["call.start"]
    assert answers[0].fields["said"] == [{"question": put.id, "kind": "elicitation.form", "action": "accept"}]
    assert answers[0].fields["target"] == put.fields["target"] == server
    assert (put.fields["action"], put.fields["resource"], put.fields["direction"]) == (
        "form",
        f"elicitation:{server}",
        "question",
    )


@pytest.mark.parametrize("server", BOTH)
async def test_a_model_is_asked_for_no_more_than_the_cap(tmp_path: Path, server_url: str, server: str) -> None:
    ada = Person()
    async with gateway(tmp_path, both(server_url), rules=Rules(max_tokens=7)) as world, client_of(world, ada) as client:
        result = await result_of(client, *SAMPLE[server])
    assert "Ada says hello" in result.content[0].text
    assert ada.seen[0].max_tokens == 7


async def test_the_folders_of_a_client_are_told_to_the_server_that_asks_for_them(world: World) -> None:
    async with client_of(world, Person()) as client:
        assert "file:///work" in (await result_of(client, "new__test_input_required_result_list_roots", {})).content[0].text


async def test_several_questions_of_one_result_are_asked_at_once_and_answered_together(world: World) -> None:
    ada = Person()
    async with client_of(world, ada) as client:
        result = await result_of(client, "new__test_input_required_result_multiple_inputs", {})
    assert result.content[0].text == "all three arrived"
    assert world.ledger.kinds().count("question.ask") == 3


async def test_a_server_may_ask_again_after_an_answer_and_its_state_travels_along(world: World) -> None:
    ada = Person()
    async with client_of(world, ada) as client:
        assert (await result_of(client, "new__test_input_required_result_request_state", {})).content[0].text == "state-ok"
        assert (await result_of(client, "new__test_input_required_result_multi_round", {})).content[0].text == "Ada likes Ada"
    assert [params.message.partition("?")[0] for params in ada.seen[1:]] == [
        "new asks: Step 1: What is your name",
        "new asks: Step 2: What is your favorite color",
    ]


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_person_who_declines_has_answered_and_the_server_hears_it(tmp_path: Path, server_url: str, action: Any) -> None:
    ada, asker = Person(), Asker()
    ada.says = types.ElicitResult(action=action)
    async with (
        asker.served() as url,
        gateway(tmp_path, both(server_url) | {"mine": of_era("mine", url, "modern")}) as world,
        client_of(world, ada) as client,
    ):
        assert f"action={action}" in (await result_of(client, *FORM["old"])).content[0].text
        assert (await result_of(client, "mine__t", {})).content[0].text == "done"
    assert asker.answers == [{"name": {"action": action}}]


@pytest.mark.parametrize("server", BOTH)
async def test_two_clients_at_once_are_each_asked_their_own_question(world: World, server: str) -> None:
    async with (
        client_of(world, Person("Ada")) as one,
        client_of(world, Person("Ben"), "ben") as other,
        client_of(world, Person("Eve")) as third,
    ):
        calls = [result_of(client, *FORM[server]) for client in (one, other, third) for _ in range(3)]
        results = await asyncio.gather(*calls)
    said = [next(name for name in ("Ada", "Ben", "Eve") if name in result.content[0].text) for result in results]
    assert said == ["Ada"] * 3 + ["Ben"] * 3 + ["Eve"] * 3


@pytest.mark.parametrize("server", BOTH)
async def test_what_a_server_says_before_and_after_a_question_stays_in_its_order(
    tmp_path: Path, server_url: str, server: str
) -> None:
    """The elicitation deadlock, and its order: notices before the question come before it, and all of it before the end."""

    def notice(text: str) -> bytes:
        return event({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": text}})

    told = asyncio.Event()

    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        if server == "new":
            first = "requestState" not in body["params"]
            asked = Asker().said({}) if first else done(0)["result"]
            final = event({"jsonrpc": "2.0", "id": body["id"], "result": asked})
            writer.write(SSE + notice("one" if first else "three") + notice("two" if first else "four") + final + b"0\r\n\r\n")
            return
        writer.write(SSE + notice("one") + notice("two") + event(FORM_QUESTION))
        await told.wait()
        writer.write(notice("three") + notice("four") + event(done(body["id"])) + b"0\r\n\r\n")

    base = scripted(say)

    async def script(there: Upstream, reader: Reader, writer: Writer) -> None:
        async def watched(reader: Reader) -> bytes:
            request = await Upstream.request(there, reader)
            if b'"method"' not in request.partition(b"\r\n\r\n")[2]:
                told.set()
            return request

        there.request = watched  # type: ignore[method-assign]
        await base(there, reader, writer)

    async with upstream(script) as there:
        era: Any = "legacy" if server == "old" else "modern"
        async with gateway(tmp_path, {"srv": of_era("srv", where(there), era)}) as world:
            session = await world.handshake("anna", "", capabilities=ASKS)
            heard = []
            async with calling(world, session, "srv__t") as stream:
                while said := await stream.next():
                    heard.append(said["params"]["data"] if said.get("method") == "notifications/message" else said)
                    if said.get("method") == "elicitation/create":
                        assert await answered(world, session, said["id"]) == 202
    assert [each if isinstance(each, str) else each.get("method", "end") for each in heard] == [
        "one",
        "two",
        "elicitation/create",
        "three",
        "four",
        "end",
    ]
    assert heard[-1]["id"] == 1
    assert "resultType" not in heard[-1]["result"]


async def test_a_client_that_declared_nothing_is_asked_nothing_and_servers_hear_that(world: World, server_url: str) -> None:
    for capabilities in ({}, {"roots": {}}):
        session = await world.handshake("anna", "", capabilities=capabilities)
        for server, told in (("old", "client has no elicitation capability"), ("new", "which is not allowed here")):
            name, arguments = FORM[server]
            answer = await world.legacy("anna", "tools/call", server="", session=session, name=name, arguments=arguments)
            assert told in json.dumps(answer_of(answer)), (server, capabilities)
            assert "elicitation/create" not in [
                json.loads(line[6:]).get("method") for line in answer.text.splitlines() if line.startswith("data: {")
            ]


async def test_what_policy_forbids_is_not_declared_to_the_server(world: World) -> None:
    world.verdicts |= {("*", f"elicitation:{server}"): DENY for server in BOTH}
    session = await world.handshake("anna", "", capabilities=ASKS)
    answer = await world.legacy("anna", "tools/call", server="", session=session, name=FORM["old"][0], arguments={"message": "x"})
    assert "client has no elicitation capability" in answer.text
    async with calling(world, session, "new__test_input_required_result_capabilities") as stream:
        assert (await stream.next())["method"] == "sampling/createMessage"
    assert [entry.fields["resource"] for entry in world.ledger.entries if entry.kind == "question.ask"] == ["sampling:new"]


async def test_a_client_is_told_which_tools_its_model_may_be_given_and_pages_have_the_id_that_its_era_asks_for(
    tmp_path: Path,
) -> None:
    page = {"mode": "url", "message": "Pay", "url": "https://pay.example.com/7"}
    asker = Asker(page={"method": "elicitation/create", "params": page})
    rules = Rules(url_hosts=frozenset({"pay.example.com"}))
    async with asker.served() as url, gateway(tmp_path, {"srv": of_era("srv", url, "modern")}, rules=rules) as world:
        capabilities = {"sampling": {"tools": {}, "context": {}}, "elicitation": {"url": {}}, "roots": {"listChanged": True}}
        session = await world.handshake("anna", "", capabilities=capabilities)
        async with calling(world, session, "srv__t") as stream:
            said = await stream.next()
            assert said["params"].pop("elicitationId")
            assert said["params"] == {**page, "message": "srv asks: Pay"}
            assert await answered(world, session, said["id"], result={"action": "accept"}) == 202
            assert (await stream.next())["result"]["content"][0]["text"] == "done"
    declared = [params["_meta"]["io.modelcontextprotocol/clientCapabilities"] for params in asker.params]
    assert declared == [{"sampling": {"tools": {}}, "elicitation": {"url": {}}, "roots": {}}] * 2


async def test_a_call_that_is_made_again_is_the_same_call_under_another_id(tmp_path: Path) -> None:
    asker = Asker(rounds=3)
    async with asker.served() as url, gateway(tmp_path, {"srv": of_era("srv", url, "modern")}) as world:
        session = await world.handshake("anna", "", capabilities=ASKS)
        async with calling(world, session, "srv__t", n=1) as stream:
            for _ in range(3):
                assert await answered(world, session, (await stream.next())["id"]) == 202
            assert (await stream.next())["id"] == 1
    assert [params["arguments"] for params in asker.params] == [{"n": 1}] * 4
    assert [params.get("requestState") for params in asker.params] == [None, "1", "2", "3"]
    assert len(set(asker.ids)) == 4


async def test_a_server_that_wants_time_and_asks_nothing_is_asked_again_by_itself(tmp_path: Path) -> None:
    asker = Asker(rounds=2)
    asker.asked = {}
    async with asker.served() as url, gateway(tmp_path, {"srv": of_era("srv", url, "modern")}) as world:
        session = await world.handshake("anna", "", capabilities=ASKS)
        answer = await world.legacy("anna", "tools/call", server="", session=session, name="srv__t", arguments={})
    assert answer_of(answer)["result"]["content"][0]["text"] == "done"
    assert [params.get("requestState") for params in asker.params] == [None, "1", "2"]


@pytest.mark.parametrize("why", ["error", "time", "rounds"])
async def test_without_an_answer_the_call_ends_in_a_result_that_says_so_on_record_and_the_server_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    asker = Asker(rounds=100, one=Asker().asked["name"], two=Asker().asked["name"])
    if why == "time":
        monkeypatch.setattr("gateway.mcp.aggregate.questions.ANSWER_SECONDS", 0.05)
    async with asker.served() as url, gateway(tmp_path, {"srv": of_era("srv", url, "modern")}) as world:
        session = await world.handshake("anna", "", capabilities=ASKS)
        heard = []
        async with calling(world, session, "srv__t") as stream:
            while said := await stream.next():
                heard.append(said)
                if said.get("method") == "elicitation/create" and why == "rounds":
                    await answered(world, session, said["id"])
                elif said.get("method") == "elicitation/create" and why == "error" and len(heard) == 2:
                    status = await answered(world, session, said["id"], error={"code": -1, "message": "User rejected"})
                    assert status == 202
        asked = [said["id"] for said in heard if said.get("method") == "elicitation/create"]
        back = [said["params"]["requestId"] for said in heard if said.get("method") == "notifications/cancelled"]
        assert back == {"error": asked[:1], "time": asked, "rounds": []}[why]
        result = heard[-1]["result"]
        refused = next(entry for entry in world.ledger.entries if entry.kind == "decision.deny")
        assert [await answered(world, session, known) for known in asked] == [400] * len(asked)
    assert (result["isError"], result["_meta"]["bailiwick/code"]) == (True, "question-unanswered")
    assert result["_meta"]["bailiwick/decision"] == refused.id
    assert refused.id in result["content"][0]["text"]
    assert refused.fields["target"] == "srv"
    assert refused.fields["refused"] == {
        "code": "question-unanswered",
        "detail": {"error": "error -1", "time": "no answer in time", "rounds": "more rounds than one call can have"}[why],
    }
    assert len(asker.params) == (11 if why == "rounds" else 1)


async def test_a_prompt_whose_server_gets_no_answer_is_an_error(world: World) -> None:
    ada = Person()
    ada.says = types.ErrorData(code=-1, message="no")
    async with client_of(world, ada) as client:
        with pytest.raises(MCPError) as refused:
            await client.get_prompt("new__test_input_required_result_prompt")
        assert (refused.value.error.code, refused.value.error.data["code"]) == (UPSTREAM, "question-unanswered")
        ada.says = None
        assert (await client.get_prompt("new__test_input_required_result_prompt")).messages


@pytest.mark.parametrize("server", BOTH)
async def test_a_client_that_hangs_up_has_not_cancelled_and_its_answer_still_counts(
    tmp_path: Path, server_url: str, server: str
) -> None:
    async with gateway(tmp_path, both(server_url)) as world:
        session = await world.handshake("anna", "", capabilities=ASKS)
        name, arguments = FORM[server]
        async with calling(world, session, name, **arguments) as stream:
            question = await stream.until("elicitation/create")
        assert await answered(world, session, question["id"]) == 202
        async with asyncio.timeout(10):
            while [entry.kind for entry in world.ledger.entries][-1] != "call.end" or world.ledger.kinds().count(
                "call.start"
            ) != world.ledger.kinds().count("call.end"):
                world.ledger.grown.clear()
                await world.ledger.grown.wait()
    assert {entry.fields["outcome"]["status"] for entry in world.ledger.entries if entry.kind == "call.end"} == {"ok"}  # type: ignore[index, call-overload]


async def test_a_client_that_cancels_while_it_is_asked_ends_its_call_and_the_question(tmp_path: Path) -> None:
    asker = Asker()
    async with asker.served() as url, gateway(tmp_path, {"srv": of_era("srv", url, "modern")}) as world:
        session = await world.handshake("anna", "", capabilities=ASKS)
        async with calling(world, session, "srv__t") as stream:
            question = await stream.next()
            params = {"requestId": 1}
            await world.legacy("anna", "notifications/cancelled", server="", rpc_id=None, session=session, **params)
            assert (await stream.next())["error"]["code"] == -32800
        assert await answered(world, session, question["id"]) == 400
    assert len(asker.params) == 1


async def test_a_question_that_its_server_takes_back_is_taken_back_by_the_id_that_the_client_knows(tmp_path: Path) -> None:
    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "q-1", "reason": "late"}}
        never = {**cancelled, "params": {"requestId": "q-2"}}
        events = event(FORM_QUESTION) + event(never) + event(cancelled) + event(cancelled) + event(done(body["id"]))
        writer.write(SSE + events + b"0\r\n\r\n")

    async with upstream(scripted(say)) as there, gateway(tmp_path, {"srv": of_era("srv", where(there), "legacy")}) as world:
        session = await world.handshake("anna", "", capabilities=ASKS)
        async with calling(world, session, "srv__t") as stream:
            question, back, final = [await stream.next() for _ in range(3)]
            assert back["params"] == {"requestId": question["id"], "reason": "late"}
            assert final["id"] == 1
        assert await answered(world, session, question["id"]) == 400


async def test_policy_that_changes_while_a_person_thinks_counts_for_the_answer(tmp_path: Path) -> None:
    asker = Asker()
    async with asker.served() as url, gateway(tmp_path, {"srv": of_era("srv", url, "modern")}) as world:
        session = await world.handshake("anna", "", capabilities=ASKS)
        async with calling(world, session, "srv__t") as stream:
            question = await stream.next()
            denying = dataclasses.replace(world.stages, decide=lambda _: DENY)
            world.aggregate.enforce(denying, lists.asking(world.decide, wall_clock))
            assert await answered(world, session, question["id"]) == 202
            result = (await stream.next())["result"]
    assert (result["isError"], result["_meta"]["bailiwick/code"]) == (True, "user-lacks-right")
    assert asker.answers == []


async def test_sessions_at_servers_are_one_clients_where_it_can_be_asked(tmp_path: Path) -> None:
    with plain_server("--era", "legacy", "--name", "old") as url:
        async with gateway(tmp_path, {"old": url}) as world:
            sessions = [await world.handshake("anna", "", capabilities=asks) for asks in (ASKS, ASKS, {}, {})]
            for session in sessions:
                await world.legacy("anna", "tools/call", server="", session=session, name="old__echo", arguments={})
        opened = [heard for heard in control(url)["heard"] if heard["method"] == "initialize"]
    said = [heard["params"]["capabilities"] for heard in opened]
    assert said == [{}, *[{"sampling": {}, "elicitation": {"form": {}}, "roots": {}}] * 2]
