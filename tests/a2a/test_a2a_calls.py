"""One call at a time: what reaches the agent, what never does, and what the caller is told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.a2a.hop import Peer
from gateway.a2a.road import A2aRoad
from gateway.settings import Limits
from gateway.upstream.client import Url
from tests.a2a.agents import Request, scripted, task
from tests.a2a.world import DENY, World, gateway

PARAMS = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def received(world: World, person: str, agent: str = "ref", **headers: str) -> dict[str, str]:
    """The headers that the agent got."""
    params = {"message": {"messageId": "gw-headers-1", "role": "ROLE_USER", "parts": [{"text": "hi"}]}}
    answer = (await world.rpc(person, "SendMessage", params, agent=agent, **headers)).json()
    got: dict[str, str] = json.loads(answer["result"]["message"]["parts"][0]["text"])
    return got


async def test_the_agent_gets_a_delegation_token_and_never_the_callers_credential(world: World) -> None:
    mine = world.token("paul")["authorization"]
    got = await received(world, "paul", authorization=mine, cookie="session=1", x_user="paul", forwarded="for=1.2.3.4")
    assert got["authorization"] != mine
    assert {"cookie", "x-user", "forwarded", "bailiwick-delegation"}.isdisjoint(got)
    delegated = world.delegations.verify(got["authorization"].removeprefix("Bearer "))
    assert delegated.subject == "user:dev/paul"
    assert delegated.chain == ("agent:ref",)
    (start,) = [entry for entry in world.ledger.entries if entry.kind == "call.start"]
    assert delegated.call == start.id


async def test_the_delegation_token_goes_where_the_agent_wants_it(tmp_path: Path, agent_url: str) -> None:
    peer = {"delegation_header": b"txn-token", "headers": ((b"Authorization", b"Bearer static"), (b"X-Key", b"k"))}
    async with gateway(tmp_path, {"ref": agent_url}, peers={"ref": peer}) as world:
        got = await received(world, "paul")
        assert got["authorization"] == "Bearer static"
        assert got["x-key"] == "k"
        assert world.delegations.verify(got["txn-token"]).holder == "ref"


@pytest.mark.parametrize("name", [b"Authorization", b"A2A-Version", b"traceparent"])
def test_an_agents_own_headers_cannot_stand_beside_the_gateways(name: bytes) -> None:
    peer = Peer("ref", Url.parse("http://127.0.0.1:1"), ((name, b"x"),), b"authorization", 200)
    with pytest.raises(ValueError, match=r"agents\.ref\.headers"):
        A2aRoad(peers={"ref": peer}, upstreams=None, ownership=None, mint=None, cards=None, judge=None)  # type: ignore[arg-type]


async def test_an_agent_calls_on_with_its_delegation_token_for_the_same_person(world: World) -> None:
    got = await received(world, "paul")
    first = got["authorization"].removeprefix("Bearer ")
    secret = {"authorization": f"Bearer {world.secrets['ref']}", "bailiwick_delegation": first}
    got = await received(world, "nobody", agent="other", **secret)
    second = world.delegations.verify(got["authorization"].removeprefix("Bearer "))
    assert second.subject == "user:dev/paul"
    assert second.chain == ("agent:ref", "agent:other")
    assert second.workflow == world.delegations.verify(first).workflow


async def test_a_loop_is_refused_before_anything_is_recorded_as_sent(world: World) -> None:
    got = await received(world, "paul")
    secret = {"authorization": f"Bearer {world.secrets['ref']}"}
    secret["bailiwick_delegation"] = got["authorization"].removeprefix("Bearer ")
    before = len(world.ledger.entries)
    answer = (await world.rpc(None, "SendMessage", PARAMS, agent="ref", **secret)).json()
    assert answer["error"]["code"] == -32000
    assert answer["error"]["data"][0]["metadata"]["code"] == "delegation-loop"
    (entry,) = world.ledger.entries[before:]
    assert entry.kind == "decision.deny"


async def test_a_chain_that_is_too_deep_is_refused_before_anything_is_recorded_as_sent(tmp_path: Path, agent_url: str) -> None:
    async with gateway(tmp_path, {"ref": agent_url, "other": agent_url}, max_depth=1) as world:
        got = await received(world, "paul")
        secret = {"authorization": f"Bearer {world.secrets['ref']}"}
        secret["bailiwick_delegation"] = got["authorization"].removeprefix("Bearer ")
        before = len(world.ledger.entries)
        answer = (await world.rpc(None, "SendMessage", PARAMS, agent="other", **secret)).json()
        assert answer["error"]["data"][0]["metadata"]["code"] == "delegation-too-deep"
        assert [entry.kind for entry in world.ledger.entries[before:]] == ["decision.deny"]


async def test_the_trace_goes_on_with_a_fresh_span(world: World) -> None:
    got = await received(world, "paul", traceparent=TRACEPARENT, tracestate="vendor=1", baggage="user=paul")
    _, trace, span, flags = got["traceparent"].split("-")
    assert (trace, flags) == ("0af7651916cd43dd8448eb211c80319c", "01")
    assert span != "b7ad6b7169203331"
    assert got["tracestate"] == "vendor=1"
    assert "baggage" not in got


async def test_the_agent_is_spoken_to_in_the_version_that_was_checked(world: World) -> None:
    assert (await received(world, "paul"))["a2a-version"] == "1.0"


@pytest.mark.parametrize("version", ["", "0.3", "1", "1.0.1", "1.1", "2.0", "1.0, 1.0"])
async def test_another_version_is_refused_with_the_list_of_those_served(world: World, version: str) -> None:
    error = (await world.rpc("paul", "SendMessage", PARAMS, a2a_version=version)).json()["error"]
    assert error["code"] == -32009
    assert error["data"][0]["metadata"] == {"supportedVersions": "1.0"}


async def test_a_missing_version_means_0_3_and_is_refused(world: World) -> None:
    headers = world.token("paul")
    body = {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": PARAMS}
    answer = (await world.client.post("/a2a/ref/", json=body, headers=headers)).json()
    assert answer["error"]["code"] == -32009


@pytest.mark.parametrize(("query", "code"), [("A2A-Version=1.0", None), ("A2A-Version=0.3", -32009), ("a=1", -32009)])
async def test_the_version_may_stand_in_the_query(world: World, query: str, code: int | None) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": PARAMS}
    answer = (await world.client.post(f"/a2a/ref?{query}", json=body, headers=world.token("paul"))).json()
    assert answer.get("error", {}).get("code") == code


async def test_header_and_query_that_disagree_about_the_version_are_refused(world: World) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": PARAMS}
    headers = world.token("paul") | {"a2a-version": "1.0"}
    answer = (await world.client.post("/a2a/ref?A2A-Version=0.3", json=body, headers=headers)).json()
    assert answer["error"]["code"] == -32009


MALFORMED: dict[str, tuple[bytes, int, Any]] = {
    "no JSON": (b"{", -32700, None),
    "not UTF-8": (b'{"jsonrpc":"2.0","id":"\xff"}', -32700, None),
    "a byte order mark": (b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{}}', -32700, None),
    "NaN": (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"id":NaN}}', -32700, None),
    "infinity": (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"x":1e999}}', -32700, None),
    "a huge integer": (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"x":' + b"9" * 5000 + b"}}", -32700, None),
    "a batch": (b'[{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{}}]', -32600, None),
    "an empty batch": (b"[]", -32600, None),
    "a notification": (b'{"jsonrpc":"2.0","method":"GetTask","params":{"id":"x"}}', -32600, None),
    "id null": (b'{"jsonrpc":"2.0","id":null,"method":"GetTask","params":{"id":"x"}}', -32600, None),
    "id true": (b'{"jsonrpc":"2.0","id":true,"method":"GetTask","params":{"id":"x"}}', -32600, None),
    "id 1.5": (b'{"jsonrpc":"2.0","id":1.5,"method":"GetTask","params":{"id":"x"}}', -32600, None),
    "jsonrpc 1.0": (b'{"jsonrpc":"1.0","id":1,"method":"GetTask","params":{"id":"x"}}', -32600, 1),
    "no method": (b'{"jsonrpc":"2.0","id":1}', -32600, 1),
    "method 5": (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600, 1),
    "an unknown method": (b'{"jsonrpc":"2.0","id":1,"method":"SendMessages"}', -32601, 1),
    "an operation that is not served": (b'{"jsonrpc":"2.0","id":1,"method":"ResubscribeTask","params":{"id":"x"}}', -32601, 1),
    "params as list": (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":[]}', -32602, 1),
    "no params": (b'{"jsonrpc":"2.0","id":1,"method":"SendMessage"}', -32602, 1),
    "message as text": (b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"message":"x"}}', -32602, 1),
    "role by number": (
        b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"message":{"messageId":"m","role":1,"parts":[{"text":"x"}]}}}',
        -32602,
        1,
    ),
    "role by no name": (
        b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"message":{"messageId":"m","role":"ROOT","parts":[{"text":"x"}]}}}',
        -32602,
        1,
    ),
    "two contents in a part": (
        b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":{"message":{"messageId":"m","parts":[{"text":"x","url":"y"}]}}}',
        -32602,
        1,
    ),
    "a lone surrogate": (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"id":"\\ud800"}}', -32602, 1),
    "a NUL in an id": (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"id":"a\\u0000b"}}', -32602, 1),
    "an empty id": (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"id":""}}', -32602, 1),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_a_malformed_message_is_refused_in_json_rpcs_own_words(world: World, case: str) -> None:
    body, code, rpc_id = MALFORMED[case]
    answer = await world.raw("paul", body)
    assert answer.status_code == 200
    said = answer.json()
    assert (said["error"]["code"], said["id"]) == (code, rpc_id)
    assert world.ledger.kinds() == ["decision.deny"]


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"a":' * 100 + b"1" + b"}" * 100, b"[" + b"1," * 60_000 + b"1]"],
    ids=["nesting bomb", "a hundred levels", "too many pieces"],
)
async def test_a_message_that_is_too_much_to_read_is_refused(world: World, body: bytes) -> None:
    answer = await world.raw("paul", body)
    assert answer.json()["error"]["code"] in {-32600, -32700}


async def test_a_body_beyond_the_limit_is_refused(tmp_path: Path, agent_url: str) -> None:
    async with gateway(tmp_path, {"ref": agent_url}, limits=Limits(body_bytes=2048)) as world:
        answer = await world.raw("paul", b" " * 4096)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == -32600


async def test_another_content_type_is_refused(world: World) -> None:
    answer = await world.raw(
        "paul", json.dumps({"jsonrpc": "2.0", "id": 1, "method": "GetTask"}).encode(), content_type="text/plain"
    )
    assert answer.json()["error"]["code"] == -32600


@pytest.mark.parametrize("authorization", [None, "Bearer nonsense", "Basic cGF1bDpwYXVs"])
async def test_a_stranger_is_answered_401_with_a_challenge(world: World, authorization: str | None) -> None:
    headers = {"authorization": authorization} if authorization else {}
    for answer in (
        await world.raw(None, b"not even JSON", **headers),
        await world.client.get("/a2a/ref/.well-known/agent-card.json", headers=headers),
        await world.raw(None, b"{}", agent="nowhere", **headers),
    ):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["error"]["code"] == -32000
        assert answer.json()["id"] is None


async def test_a_denial_says_a_code_and_the_decision_and_no_more(world: World) -> None:
    world.verdicts["user:dev/mia", "a2a:ref"] = DENY
    answer = await world.rpc("mia", "SendMessage", PARAMS, rpc_id=42)
    decision = answer.headers["bailiwick-decision"]
    assert answer.status_code == 200
    assert answer.json() == {
        "jsonrpc": "2.0",
        "id": 42,
        "error": {
            "code": -32000,
            "message": "Denied by policy. Do not retry.",
            "data": [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "POLICY_DENIED",
                    "domain": "bailiwick",
                    "metadata": {"code": "user-lacks-right", "decisionId": decision},
                }
            ],
        },
    }
    assert world.ledger.entries[-1].id == decision


async def test_a_call_that_cannot_be_recorded_is_not_sent(world: World) -> None:
    world.ledger.down = True
    answer = await world.rpc("paul", "SendMessage", PARAMS)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


async def test_one_call_too_many_is_refused_and_the_next_is_not(tmp_path: Path) -> None:
    came, go = asyncio.Event(), asyncio.Event()

    async def script(request: Request) -> None:
        came.set()
        await go.wait()
        await request.result(task("COMPLETED"))

    async with scripted(script) as (url, _), gateway(tmp_path, {"ref": url}, limits=Limits(concurrent_calls=1)) as world:
        first = asyncio.create_task(world.rpc("paul", "SendMessage", PARAMS))
        await came.wait()
        assert (await world.rpc("paul", "SendMessage", PARAMS)).status_code == 503
        go.set()
        assert "result" in (await first).json()
        assert "result" in (await world.rpc("paul", "SendMessage", PARAMS)).json()


async def test_an_agent_that_is_down_is_an_internal_error_with_the_decision(tmp_path: Path) -> None:
    async with gateway(tmp_path, {"ref": "http://127.0.0.1:1"}) as world:
        answer = await world.rpc("paul", "SendMessage", PARAMS, rpc_id="x")
        error = answer.json()["error"]
        assert (answer.status_code, answer.json()["id"], error["code"]) == (200, "x", -32603)
        assert error["data"][0]["metadata"]["decisionId"] == answer.headers["bailiwick-decision"]
        assert "127.0.0.1" not in answer.text


BAD_ANSWERS = {
    "not JSON": (200, "text/html", "<h1>hi</h1>"),
    "broken JSON": (200, "application/json", "{"),
    "a batch": (200, "application/json", "[]"),
    "an unexpected stream": (200, "text/event-stream", "data: {}\n\n"),
    "a redirect": (302, "application/json", "{}"),
    "an outage": (502, "application/json", "{}"),
    "a result with an error's status": (500, "application/json", '{"jsonrpc":"2.0","id":"ID","result":{"message":{}}}'),
    "a lone surrogate": (200, "application/json", '{"jsonrpc":"2.0","id":"ID","result":{"message":{"messageId":"\\ud800"}}}'),
    "a member twice": (200, "application/json", '{"jsonrpc":"2.0","id":"ID","result":{"message":{}},"result":{"task":{}}}'),
    "an error without a code": (200, "application/json", '{"jsonrpc":"2.0","id":"ID","error":{"message":"x"}}'),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
async def test_an_answer_that_is_not_a2a_is_withheld(tmp_path: Path, case: str) -> None:
    code, kind, text = BAD_ANSWERS[case]

    async def script(request: Request) -> None:
        await request.reply(text.replace("ID", request.rpc["id"]).encode(), kind, code)

    async with scripted(script) as (url, _), gateway(tmp_path, {"ref": url}) as world:
        answer = await world.rpc("paul", "SendMessage", PARAMS)
        assert answer.json()["error"]["code"] == -32006
        assert world.ledger.entries[-1].fields["outcome"]["status"] == "upstream-error"


async def test_another_task_than_was_asked_for_is_withheld(tmp_path: Path) -> None:
    async def script(request: Request) -> None:
        asked = request.rpc["method"] == "GetTask"
        await request.result(task("COMPLETED", "t-2")["task"] if asked else task("COMPLETED", "t-1"))

    async with scripted(script) as (url, _), gateway(tmp_path, {"ref": url}) as world:
        await world.send("paul", "m")
        assert (await world.rpc("paul", "GetTask", {"id": "t-1"})).json()["error"]["code"] == -32006


@pytest.mark.parametrize("status", [200, 400])
async def test_an_agents_own_error_is_relayed_without_its_particulars(tmp_path: Path, status: int) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "R", "domain": "d", "metadata": {"a": "b", "n": 1}}
    stack = {"@type": "type.googleapis.com/google.rpc.DebugInfo", "detail": "stack"}

    async def script(request: Request) -> None:
        await request.error({"code": -32005, "message": "no such type", "data": [info, stack], "x": 1}, status)

    async with scripted(script) as (url, _), gateway(tmp_path, {"ref": url}) as world:
        answer = (await world.rpc("paul", "SendMessage", PARAMS, rpc_id=3)).json()
        kept = {"code": -32005, "message": "no such type", "data": [info | {"metadata": {"a": "b"}}]}
        assert answer == {"jsonrpc": "2.0", "id": 3, "error": kept}
        assert world.ledger.entries[-1].fields["outcome"]["status"] == "tool-error"


async def test_numbers_without_a_fraction_stay_integers_both_ways(tmp_path: Path) -> None:
    async def script(request: Request) -> None:
        parts = request.rpc["params"]["message"]["parts"]
        await request.result({"message": {"messageId": "a", "contextId": "c", "role": "ROLE_AGENT", "parts": parts}})

    async with scripted(script) as (url, agent), gateway(tmp_path, {"ref": url}) as world:
        parts = [{"data": {"count": 3, "share": 0.5, "deep": [1, {"n": -7}]}}]
        answer = await world.rpc("paul", "SendMessage", {"message": {"messageId": "m", "role": "ROLE_USER", "parts": parts}})
        assert b'"count":3' in agent.requests[0].body.replace(b" ", b"")
        assert answer.json()["result"]["message"]["parts"] == parts
        assert "3.0" not in answer.text


async def test_both_slash_forms_answer_without_a_redirect(world: World) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": PARAMS}
    for path in ("/a2a/ref", "/a2a/ref/"):
        answer = await world.client.post(path, json=body, headers=world.token("paul") | {"a2a-version": "1.0"})
        assert "result" in answer.json()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "", 405),
        ("DELETE", "/", 405),
        ("POST", "/.well-known/agent-card.json", 405),
        ("GET", "/tasks/1", 404),
        ("POST", "/restful", 404),
    ],
)
async def test_other_doors_are_closed(world: World, method: str, path: str, status: int) -> None:
    answer = await world.client.request(method, f"/a2a/ref{path}", headers=world.token("paul"))
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == -32601


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}])
async def test_a_foreign_web_page_gets_no_further_than_the_door(world: World, headers: dict[str, str]) -> None:
    answer = await world.raw("paul", b"{}", **headers)
    assert answer.status_code == 403
    (entry,) = world.ledger.entries  # whose page it was is not read, so nobody is named
    assert (entry.kind, entry.id, entry.subject, entry.values) == ("auth.refused", answer.headers["bailiwick-decision"], None, ())


async def test_no_caller_has_an_agent_tell_more_of_a_history_than_a_thousand_messages(tmp_path: Path) -> None:
    async def script(request: Request) -> None:
        answer = task("COMPLETED")
        await request.result(answer if request.rpc["method"].startswith("Send") else answer["task"])

    async with scripted(script) as (url, agent), gateway(tmp_path, {"ref": url}) as world:
        message = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}
        await world.rpc("paul", "SendMessage", {"message": message, "configuration": {"historyLength": 5000}})
        await world.rpc("paul", "GetTask", {"id": "t-1", "historyLength": 5000})
        await world.rpc("paul", "GetTask", {"id": "t-1", "historyLength": 7})
        asked = [request.rpc["params"] for request in agent.requests]
        assert asked[0]["configuration"] == {"historyLength": 1000}
        assert [params["historyLength"] for params in asked[1:]] == [1000, 7]
        for method, params in (
            ("SendMessage", {"message": message, "configuration": {"historyLength": -1}}),
            ("GetTask", {"id": "t-1", "historyLength": -1}),
        ):
            assert (await world.rpc("paul", method, params)).json()["error"]["code"] == -32602
