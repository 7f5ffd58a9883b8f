"""Attacks on what travels with clients: foreign, expired, changed and displaced values are all answered as unknown."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.mcp.errors import POLICY
from gateway.mcp.sealed import Purpose, Sealed, UnknownValueError
from gateway.model import Principal
from tests.mcp.scripted import (
    ELICITS,
    FORM_QUESTION,
    SSE,
    asking,
    event,
    in_session,
    next_event,
    next_message,
    scripted,
    streamed,
    where,
)
from tests.mcp.test_sealed import paging
from tests.mcp.test_tasks import about, called
from tests.mcp.world import MODERN, World, answer_of, gateway, reference_server
from tests.upstream.wire import Upstream, Writer, upstream

KEY = b"k" * 32
ANNA = Principal("user:dev/anna", ("agent:one",), "acme", "wf", 0, "bearer", "0" * 64)
OTHERS = [
    replace(ANNA, subject="user:dev/ben"),
    replace(ANNA, tenant="other"),
    replace(ANNA, actors=()),
    replace(ANNA, actors=("agent:two",)),
    replace(ANNA, actors=("agent:one", "agent:two")),
]


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("other", OTHERS)
def test_a_value_of_one_principal_is_unknown_for_every_other(purpose: Purpose, other: Principal) -> None:
    sealed = Sealed([KEY])
    text = sealed.seal(purpose, "secret", server="ref", principal=ANNA)
    with pytest.raises(UnknownValueError):
        sealed.open(purpose, text, server="ref", principal=other)


@pytest.mark.parametrize("purpose", Purpose)
def test_a_value_of_one_purpose_server_or_call_is_unknown_for_every_other(purpose: Purpose) -> None:
    sealed = Sealed([KEY])
    text = sealed.seal(purpose, "secret", server="ref", principal=ANNA, bound="tools/call\0a")
    for other in Purpose:
        if other is not purpose:
            with pytest.raises(UnknownValueError):
                sealed.open(other, text, server="ref", principal=ANNA, bound="tools/call\0a")
    for server, bound in (("other", "tools/call\0a"), ("ref", "tools/call\0b"), ("ref", "")):
        with pytest.raises(UnknownValueError):
            sealed.open(purpose, text, server=server, principal=ANNA, bound=bound)


def test_a_value_that_was_changed_anywhere_is_unknown_and_so_is_a_second_spelling() -> None:
    sealed = Sealed([KEY])
    text = sealed.seal(Purpose.TASK, "t", server="ref", principal=ANNA)
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    changed = [bytes((*raw[:at], raw[at] ^ 1, *raw[at + 1 :])) for at in range(len(raw))]
    texts = [base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in changed]
    texts += [text[:-4], text + "AAAA", text + "=", text + "\n", " " + text, text.replace("_", "/"), "", "ü", "A" * (1 << 20)]
    if len(text) % 4:  # the last letter has bits that mean nothing
        texts += [text[:-1] + letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"]
    for each in set(texts) - {text}:
        with pytest.raises(UnknownValueError):
            sealed.open(Purpose.TASK, each, server="ref", principal=ANNA)
    for no_text in (None, 7, [text], {"a": text}):
        with pytest.raises(UnknownValueError):
            sealed.open(Purpose.TASK, no_text, server="ref", principal=ANNA)


async def test_a_foreign_displaced_or_invented_cursor_never_reaches_the_server(tmp_path: Path) -> None:
    async with upstream(paging) as there:
        url = f"http://127.0.0.1:{there.port}/mcp"
        async with gateway(tmp_path, {"ref": url, "other": url}) as world:
            cursor = answer_of(await world.modern("anna", "tools/list"))["result"]["nextCursor"]
            before = len(there.requests)
            tried = [
                await world.modern("ben", "tools/list", cursor=cursor),
                await world.modern("anna", "tools/list", server="other", cursor=cursor),
                await world.modern("anna", "tools/list", cursor="page:2"),
                await world.modern("anna", "tools/list", cursor=cursor[:-2] + "AA"),
            ]
            assert len(there.requests) == before
    said = [answer_of(answer)["error"] for answer in tried]
    assert {error["code"] for error in said} == {-32602}
    assert len({error["message"] for error in said}) == 1


@pytest.fixture(scope="module")
def two_servers() -> object:
    with reference_server() as url:
        yield {"ref": url, "other": url}


async def test_token_b_with_session_a_is_answered_404_as_an_unknown_session(tmp_path: Path, two_servers: dict[str, str]) -> None:
    async with gateway(tmp_path, two_servers) as world:
        session = await world.handshake("anna")
        bodies = [await _status(world, "ben", session), await _status(world, "anna", session[:-2] + "AA")]
        assert await _status(world, "anna", session) == (200, "")
    assert bodies[0] == bodies[1]
    assert bodies[0][0] == 404


async def test_a_session_of_one_server_is_unknown_at_another(tmp_path: Path, two_servers: dict[str, str]) -> None:
    async with gateway(tmp_path, two_servers) as world:
        session = await world.handshake("anna")
        answer = await world.legacy("anna", "tools/list", server="other", session=session)
    assert answer.status_code == 404


async def _status(world: World, person: str, session: str) -> tuple[int, str]:
    answer = await world.legacy(person, "tools/list", session=session)
    return answer.status_code, answer_of(answer).get("error", {}).get("message", "")


# --- what only a conversation shows


async def test_a_state_is_unknown_for_another_person_server_tool_or_method_and_when_it_was_changed(
    tmp_path: Path, two_servers: dict[str, str]
) -> None:
    tool = "test_input_required_result_request_state"
    answers = {"confirm": {"action": "accept", "content": {"ok": True}}}

    async def again(person: str, state: str, name: str = tool, server: str = "ref", method: str = "tools/call") -> dict[str, Any]:
        params = {"name": name, "arguments": {}, "inputResponses": answers, "requestState": state}
        return answer_of(await world.modern(person, method, server=server, meta=ELICITS, **params))

    async with gateway(tmp_path, two_servers) as world:
        asked = answer_of(await world.modern("anna", "tools/call", meta=ELICITS, name=tool, arguments={}))["result"]
        state = asked["requestState"]
        tried = [
            await again("ben", state),
            await again("anna", state, server="other"),
            await again("anna", state, name="test_input_required_result_tampered_state"),
            await again("anna", state, name="test_input_required_result_prompt", method="prompts/get"),
            await again("anna", state[:-3] + "AAA"),
            await again("anna", "nonce-1"),
            await again("anna", ""),
        ]
        assert (await again("anna", state))["result"]["content"][0]["text"] == "state-ok"
    assert {said["error"]["code"] for said in tried} == {-32602}
    assert len({said["error"]["message"] for said in tried}) == 1


async def test_an_expired_state_or_session_is_unknown(tmp_path: Path, two_servers: dict[str, str]) -> None:
    now = [1_700_000_000.0]
    async with gateway(tmp_path, two_servers, sealed=Sealed([KEY], now=lambda: now[0])) as world:
        params = {"name": "test_input_required_result_request_state", "arguments": {}}
        asked = answer_of(await world.modern("anna", "tools/call", meta=ELICITS, **params))["result"]
        session = await world.handshake("anna")
        now[0] += 13 * 3600
        said = answer_of(await world.modern("anna", "tools/call", meta=ELICITS, requestState=asked["requestState"], **params))
        assert said["error"]["code"] == -32602
        assert (await _status(world, "anna", session))[0] == 404


async def test_answers_to_what_was_not_asked_stay_behind_where_the_question_is_known(
    tmp_path: Path, two_servers: dict[str, str]
) -> None:
    """Three are asked in the second tool; the first one's state does not carry answers to them."""
    async with gateway(tmp_path, two_servers) as world:
        params = {"name": "test_input_required_result_elicitation", "arguments": {}}
        asked = answer_of(await world.modern("anna", "tools/call", meta=ELICITS, **params))["result"]
        forged = {"other_name": {"action": "accept", "content": {"name": "Eve"}}}
        state = asked["requestState"]
        said = answer_of(
            await world.modern("anna", "tools/call", meta=ELICITS, inputResponses=forged, requestState=state, **params)
        )
        starts = [entry for entry in world.ledger.entries if entry.kind == "call.start"]
    assert said["result"]["resultType"] == "input_required"
    assert "said" not in starts[-1].fields


@pytest.mark.parametrize("rpc_id", ["q-1", "1", "", "g:ref:s:q-1"])
async def test_a_client_that_answers_what_it_was_never_asked_is_refused_and_the_server_hears_nothing(
    tmp_path: Path, rpc_id: str
) -> None:
    async with upstream(scripted(nothing)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        session = await world.handshake("anna", capabilities={"elicitation": {}})
        before = len(there.requests)
        answer = await world.post("anna", _accept(rpc_id), headers=in_session(session))
        assert (answer.status_code, len(there.requests)) == (400, before)


async def test_a_question_put_to_one_is_answered_by_nobody_else_nor_in_another_session_nor_without_one(
    tmp_path: Path, two_servers: dict[str, str]
) -> None:
    async with gateway(tmp_path, two_servers) as world:
        anna, again = [await world.handshake("anna", capabilities={"elicitation": {}}) for _ in range(2)]
        ben = await world.handshake("ben", capabilities={"elicitation": {}})
        async with streamed(world, anna, "tools/call", name="test_elicitation", arguments={"message": "x"}) as lines:
            question = await next_message(lines)
            accept = _accept(question["id"])
            for person, headers, status in (
                ("ben", in_session(ben), 400),
                ("ben", in_session(anna), 404),
                ("anna", in_session(again), 400),
                ("anna", {"mcp-protocol-version": "2025-11-25"}, 400),
                ("anna", {"mcp-protocol-version": MODERN}, 400),
                (None, in_session(anna), 401),
            ):
                assert (await world.post(person, accept, headers=headers)).status_code == status
            malformed = [
                {**accept, "result": {"action": "maybe"}},
                {**accept, "error": {"code": 1, "message": "x"}},
                {**accept, "Result": {}},
            ]
            for body in malformed:
                assert (await world.post("anna", body, headers=in_session(anna))).status_code == 400
            assert (await world.post("anna", accept, headers=in_session(anna))).status_code == 202
            assert "accept" in str(await next_message(lines))


async def test_a_question_to_a_client_that_did_not_declare_it_is_not_put(tmp_path: Path) -> None:
    answered: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    async with upstream(asking(FORM_QUESTION, answered)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        session = await world.handshake("anna", capabilities={"sampling": {}})
        answer = await world.legacy("anna", "tools/call", session=session, name="t", arguments={})
        told = await asyncio.wait_for(answered.get(), 10)
    assert "What is your name" not in answer.text
    assert told["error"]["code"] == POLICY


async def test_an_event_of_somebody_elses_answer_cannot_be_resumed(tmp_path: Path, two_servers: dict[str, str]) -> None:
    async with gateway(tmp_path, two_servers) as world:
        session, bens = await world.handshake("anna"), await world.handshake("ben")
        async with streamed(world, session, "tools/call", name="test_reconnection", arguments={}) as lines:
            await next_event(lines)
        last = lines.last_id
        for person, where_, event_id in (
            ("ben", bens, last),
            ("ben", session, last),
            ("anna", await world.handshake("anna"), last),
            ("anna", session, "1"),
            ("anna", session, last[:-2] + "AA"),
        ):
            headers = world.token(person) | in_session(where_) | {"last-event-id": event_id, "accept": "text/event-stream"}
            assert (await world.client.get("/mcp/ref", headers=headers)).status_code == 404


async def test_a_task_is_unknown_to_everybody_else_and_at_every_other_server(tmp_path: Path, two_servers: dict[str, str]) -> None:
    async with gateway(tmp_path, two_servers) as world:
        task = (await called(world, "slow_compute", seconds=0))["taskId"]
        inner = "x" * 32
        for method, more in (("tasks/get", {}), ("tasks/update", {"inputResponses": {}}), ("tasks/cancel", {})):
            said = [
                await about(world, method, task, person="ben", **more),
                await about(world, method, task, server="other", **more),
                await about(world, method, task[:-2] + "AA", **more),
                await about(world, method, inner, **more),
            ]
            assert {one["error"]["code"] for one in said} == {-32602}
            assert len({one["error"]["message"] for one in said}) == 1


async def nothing(_: Upstream, __: dict[str, Any], ___: bytes, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")


def _accept(rpc_id: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": rpc_id, "result": {"action": "accept", "content": {"username": "eve", "email": "e"}}}


async def test_a_server_that_asks_without_end_fills_no_ledger(tmp_path: Path) -> None:
    async def say(_: Upstream, body: dict[str, Any], __: bytes, writer: Writer) -> None:
        writer.write(SSE + b"".join(event({**FORM_QUESTION, "id": n}) for n in range(1500)))

    async with upstream(scripted(say)) as there, gateway(tmp_path, {"ref": where(there)}) as world:
        session = await world.handshake("anna", capabilities={"elicitation": {}})
        await world.legacy("anna", "tools/call", session=session, name="t", arguments={})
        kinds = world.ledger.kinds()
        end = [entry for entry in world.ledger.entries if entry.kind == "call.end"][-1]
    assert kinds.count("question.ask") == 1000
    assert end.fields["outcome"]["status"] == "upstream-error"  # type: ignore[index, call-overload]
