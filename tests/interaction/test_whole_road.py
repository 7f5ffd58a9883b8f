"""The whole road, from a socket to the ledger and back: people with plain HTTP, a gateway process, upstreams that listen."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx
import pytest

from audit.reader import Record
from tests.held_ledger import kept_from_writing
from tests.interaction.world import (
    AGENT_GRANTS,
    GUARDRAILS,
    LEGACY,
    MODERN,
    PEOPLE,
    Gateway,
    Heard,
    Peers,
    done,
    new_trace,
    plain,
)

Make = Callable[..., Gateway]
ERAS = pytest.mark.parametrize("version", [LEGACY, MODERN])


def delegated(gateway: Gateway, peers: Peers, work: Callable[[str], str] = lambda _: "done", **more: str) -> httpx.Response:
    """Paul asks clerk, who does `work` with the delegation token that the gateway hands over."""
    peers.agents["clerk"] = lambda heard: work(heard.headers["authorization"].removeprefix("Bearer "))
    answer = gateway.send("clerk", gateway.token(), **more)
    assert "result" in answer.json(), answer.text
    return answer


def source(text: str, rule: str, file: str) -> str:
    """`RULE file:line` as the ledger names it."""
    line = next(number for number, line in enumerate(text.splitlines(), 1) if line.endswith(rule))
    return f"{rule} {file}:{line}"


# ------------------------------------------------------------------------------------------------ the order of things
def test_a_call_is_on_record_before_its_upstream_sees_it_and_its_end_is_not(gateway: Gateway, peers: Peers) -> None:
    trace, seen = new_trace(), []

    def look(heard: Heard) -> dict[str, Any]:
        seen.extend(record.kind for record in gateway.records(trace=heard.trace))
        return done("done")

    peers.tools["desk.read"] = look
    answer = gateway.call("desk.read", gateway.token(), trace=trace)
    assert plain(answer.json()["result"]) == done("done")
    assert seen == ["call.start"]
    assert [record.kind for record in gateway.records(trace=trace)] == ["call.start", "call.end"]


def test_a_reply_is_withheld_where_its_end_cannot_be_recorded(own_gateway: Make, peers: Peers) -> None:
    """The ledger's file is taken away while the upstream works: its answer is not released."""
    gateway = own_gateway()

    def take_away(heard: Heard) -> dict[str, Any]:
        gateway.ledger_file.unlink()
        return done("a word that nobody may hear")

    peers.tools["desk.read"] = take_away
    answer = gateway.call("desk.read", gateway.token())
    assert answer.status_code == 503
    assert answer.json()["error"]["data"]["code"] == "ledger-unavailable"
    assert "nobody may hear" not in answer.text


def test_a_ledger_whose_file_is_removed_stops_every_call_and_says_so(own_gateway: Make, peers: Peers) -> None:
    gateway = own_gateway()
    token, trace = gateway.token(), new_trace()
    assert "result" in gateway.call("desk.read", token).json()
    gateway.ledger_file.unlink()
    for answer in (gateway.call("desk.read", token, trace=trace), gateway.send("clerk", token, trace=trace)):
        assert answer.status_code == 503
        assert "result" not in answer.json()
    for refused in (gateway.call("desk.seal", token), gateway.call("desk.read", None)):
        assert refused.status_code == 503  # a refusal is a record too
    assert peers.of(trace) == []
    assert not gateway.ledger_file.exists()
    ready = gateway.http.get("/readyz")
    assert ready.status_code == 503
    assert "ledger" in ready.json()["faults"]
    assert gateway.http.get("/healthz").status_code == 200
    gateway.kill()
    assert gateway.attempt() not in {None, 0}  # nor does it begin a new log where one was signed
    assert "it was set back" in gateway.log.read_text()


def test_a_full_queue_refuses_at_once_and_lets_nothing_through_unrecorded(own_gateway: Make, peers: Peers) -> None:
    gateway = own_gateway(ledger={"origin": "test.invalid/acme", "queue": 2})
    token, trace, calls = gateway.token(), new_trace(), 8
    assert "result" in gateway.call("desk.read", token).json()
    with ThreadPoolExecutor(calls) as pool, kept_from_writing(gateway.ledger_file):
        waiting = [pool.submit(gateway.call, "desk.read", token, trace=trace) for _ in range(calls)]
        refused = [next(answers).result() for answers in [as_completed(waiting)] for _ in range(calls - 2)]
        assert peers.of(trace) == []
    assert [answer.status_code for answer in refused] == [503] * (calls - 2)
    assert {answer.json()["error"]["data"]["code"] for answer in refused} == {"ledger-unavailable"}
    passed = [future.result() for future in waiting if future.result().status_code == 200]
    assert len(passed) == len(peers.of(trace)) == 2
    assert Counter(record.kind for record in gateway.records(trace=trace)) == {"call.start": 2, "call.end": 2}


def test_a_call_that_its_gateway_did_not_survive_is_closed_at_the_next_start(own_gateway: Make, peers: Peers) -> None:
    gateway = own_gateway()
    token, trace = gateway.token(), new_trace()
    arrived, killed = threading.Event(), threading.Event()

    def wait(heard: Heard) -> dict[str, Any]:
        arrived.set()
        killed.wait(60)
        return done("too late")

    peers.tools["desk.slow"] = wait
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gateway.call, "desk.slow", token, trace=trace)
        assert arrived.wait(60)
        gateway.kill()
        killed.set()
        with pytest.raises(httpx.TransportError):
            waiting.result()
    gateway.start()
    start, end = gateway.records(trace=trace)
    assert (start.kind, end.kind) == ("call.start", "call.orphaned")
    assert (end.leaf["call"], end.leaf["start_index"]) == (start.id, start.index)
    assert "orphaned" in gateway.audit("trace", start.leaf["workflow"]).stdout
    verdict = gateway.audit("verify")
    assert verdict.returncode == 0, verdict.stdout


# ------------------------------------------------------------------------------------------- what one may not know of
@ERAS
def test_a_hidden_tool_an_unregistered_one_and_one_of_another_server_are_answered_alike(gateway: Gateway, version: str) -> None:
    token = gateway.token()
    answers, reasons = [], []
    for tool in ("desk.seal", "desk.none", "desk.open"):  # granted to nobody; in no file; known at vault
        trace = new_trace()
        answer = gateway.call(tool, token, version=version, trace=trace)
        answers.append(anonymous(answer, tool.split(".")[1]))
        (record,) = gateway.records(trace=trace)
        assert record.kind == "decision.deny"
        assert record.id == answer.headers["bailiwick-decision"]
        reasons.append(record.leaf["refused"]["code"])
    assert answers[0] == answers[1] == answers[2]
    assert b"Unknown tool: NAME" in answers[0][1]
    assert reasons == ["user-lacks-right", "unknown-resource", "unknown-resource"]
    assert "result" in gateway.call("vault.open", token, version=version).json()


@ERAS
def test_a_server_that_one_may_not_know_of_is_answered_as_one_that_is_not_there(gateway: Gateway, version: str) -> None:
    token = gateway.token()
    answers, reasons = [], []
    for server in ("shut", "none"):
        trace = new_trace()
        answer = gateway.call(f"{server}.read", token, version=version, trace=trace)
        answers.append(anonymous(answer, server))
        (record,) = gateway.records(trace=trace)
        reasons.append(record.leaf["refused"]["code"])
    assert answers[0] == answers[1]
    assert answers[0][0] == 404
    assert reasons == ["user-lacks-right", "unknown-resource"]


def test_an_agent_that_one_may_not_know_of_is_answered_as_one_that_is_not_there(gateway: Gateway) -> None:
    token = gateway.token()
    answers, reasons = [], []
    for agent in ("hermit", "nobody"):
        trace = new_trace()
        answer = gateway.send(agent, token, trace=trace)
        answers.append(anonymous(answer, agent))
        (record,) = gateway.records(trace=trace)
        reasons.append(record.leaf["refused"]["code"])
    assert answers[0] == answers[1]
    assert reasons == ["user-lacks-right", "unknown-target"]


def anonymous(answer: httpx.Response, name: str) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """Status, body and headers, without the ids and the receipt that are new each time and the name that was asked for.

    A receipt is as long as its place in the log makes it, and so is the body with it.
    """
    decision = answer.headers["bailiwick-decision"]
    content, found = re.subn(rb',?"bailiwick/receipt":\{[^}]*\}|,?"receipt":"(\\"|[^"])*"', b"", answer.content)
    assert found == 1, "alike in that, too"
    body = content.replace(decision.encode(), b"DECISION").replace(name.encode(), b"NAME")
    assert name.encode() not in body
    assert int(answer.headers["content-length"]) == len(answer.content)
    lines = [(key, value) for key, value in answer.headers.raw if key != b"content-length"]
    headers = [(key, value.replace(decision.encode(), b"DECISION")) for key, value in lines]
    return answer.status_code, body, headers


# ---------------------------------------------------------------------------------------------------------- strangers
def test_a_stranger_is_refused_and_recorded_and_reaches_nothing(gateway: Gateway, peers: Peers) -> None:
    for credential, code in ((None, "no-credential"), ("not.a.token", "invalid-credential")):
        trace = new_trace()
        for answer in (gateway.call("desk.read", credential, trace=trace), gateway.send("clerk", credential, trace=trace)):
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
        records = gateway.records(trace=trace)
        assert [(record.kind, record.leaf["refused"]["code"]) for record in records] == [("auth.refused", code)] * 2
        assert [record.leaf["proto"] for record in records] == ["mcp", "a2a"]
        assert {record.leaf["peer"] for record in records} == {"127.0.0.1"}
        assert peers.of(trace) == []


def test_a_stranger_cannot_choose_the_address_that_is_recorded(gateway: Gateway) -> None:
    before = len(gateway.records())
    forged = {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7", "X-Real-IP": "203.0.113.7"}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert gateway.http.post("/mcp/desk", json=message, headers=forged).status_code == 401
    recorded = [record.leaf["peer"] for record in gateway.records()[before:] if record.kind == "auth.refused"]
    assert recorded == ["127.0.0.1"]


async def test_a_flood_of_strangers_leaves_few_records_that_account_for_all_of_them(own_gateway: Make) -> None:
    gateway, flood, message = own_gateway(), 500, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    limits = httpx.Limits(max_connections=16)
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, verify=False, timeout=60, limits=limits) as http:
        answers = await asyncio.gather(*(http.post("/mcp/desk", json=message) for _ in range(flood)))
    assert {answer.status_code for answer in answers} == {401}
    gateway.stop()  # what was only counted until now is written at the end
    strangers = [record for record in gateway.records() if record.kind == "auth.refused"]
    assert sum(1 + record.leaf.get("suppressed", 0) for record in strangers) == flood
    assert max(Counter(record.at // 1_000_000 for record in strangers).values()) <= 20 + 1
    assert len(strangers) < flood


async def test_a_second_without_a_flood_has_the_count_of_the_flood_before_it(gateway: Gateway) -> None:
    before, message = len(gateway.records()), {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}

    def accounted() -> int:
        return sum(1 + r.leaf.get("suppressed", 0) for r in gateway.records()[before:] if r.kind == "auth.refused")

    sent = 0
    while sent < 40 or accounted() != sent:  # the count of one second stands in the first record of the next
        assert gateway.http.post("/mcp/desk", json=message).status_code == 401
        sent += 1
        assert sent < 2000


@pytest.mark.parametrize("path", ["/mcp/desk", "/a2a/clerk/", "/api/kills", "/oauth/token", "/healthz"])
@pytest.mark.parametrize("header", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}], ids=["origin", "host"])
def test_what_another_sites_page_sends_is_refused_before_it_is_a_call_and_on_record(
    gateway: Gateway, path: str, header: dict[str, str]
) -> None:
    found: list[Record] = []
    while not found:  # in a second of many strangers, one is only counted
        answer = gateway.http.post(
            path, content=b"what-nobody-read", headers=header | {"Authorization": f"Bearer {gateway.token()}"}
        )
        assert answer.status_code == 403
        found = gateway.records(id=answer.headers["bailiwick-decision"])
    assert (found[0].kind, found[0].leaf["refused"]["code"]) == ("auth.refused", "bad-origin")
    assert "evil" not in json.dumps(found[0].leaf)
    assert "nobody-read" not in json.dumps(found[0].leaf)


# -------------------------------------------------------------------------------------------------- delegation, duties
def test_a_delegation_that_another_agent_presents_is_refused_and_recorded(gateway: Gateway, peers: Peers) -> None:
    stolen: list[str] = []
    delegated(gateway, peers, lambda token: stolen.append(token) or "done")
    for credential, detail in (
        (gateway.agent_secrets["courier"], "the delegation belongs to another agent"),
        (None, "this agent must show a credential of its own beside the delegation"),
    ):
        trace = new_trace()
        answer = gateway.call("desk.read", credential, trace=trace, **{"Bailiwick-Delegation": stolen[0]})
        assert answer.status_code == 401
        (record,) = gateway.records(trace=trace)
        assert record.kind == "auth.refused"
        assert record.leaf["refused"] == {"code": "invalid-credential", "detail": detail}
        assert peers.of(trace) == []
    own = gateway.call("desk.read", gateway.agent_secrets["clerk"], **{"Bailiwick-Delegation": stolen[0]})
    assert plain(own.json()["result"]) == done("done")


def test_a_duty_that_this_gateway_does_not_know_refuses_the_call(gateway: Gateway, peers: Peers) -> None:
    trace = new_trace()
    answer = gateway.call("desk.sign", gateway.token(), trace=trace)
    assert answer.json()["result"]["isError"] is True
    assert answer.json()["result"]["_meta"]["bailiwick/code"] == "unknown-duty"
    (record,) = gateway.records(trace=trace)
    assert record.leaf["refused"] == {"code": "unknown-duty", "detail": "notarise: type notary-stamp"}
    assert peers.of(trace) == []


def test_a_redacted_field_is_in_no_reply_and_in_no_opened_response(gateway: Gateway, peers: Peers) -> None:
    iban, account, trace = "DE02120300000000202051", {"holder": "S-77"}, new_trace()
    full = account | {"iban": iban}
    peers.tools["desk.account"] = lambda _: done(json.dumps(full)) | {"structuredContent": full}
    answer = gateway.call("desk.account", gateway.token(), trace=trace)
    shown = answer.json()["result"]["structuredContent"]
    assert shown["holder"] == "S-77"
    assert iban not in answer.text
    start, end = gateway.records(trace=trace)
    response = gateway.opened(end, "response")
    assert response == answer.content
    assert iban.encode() not in response
    assert iban not in gateway.audit("show", start.id).stdout


# ------------------------------------------------------------------------------------------------------ what is passed
def test_an_upstream_that_is_down_is_an_error_with_its_outcome_on_record(gateway: Gateway) -> None:
    trace = new_trace()
    answer = gateway.call("down.read", gateway.token(), trace=trace)
    error = answer.json()["error"]
    start, end = gateway.records(trace=trace)
    assert error["code"] == -31502
    assert error["data"] == {"code": "upstream-connect", "decision": start.id}
    assert answer.headers["bailiwick-decision"] == start.id
    assert (start.kind, end.kind) == ("call.start", "call.end")
    assert end.leaf["outcome"]["status"] == "upstream-error"
    assert end.leaf["call"] == start.id


def test_the_callers_trace_stands_on_record_and_reaches_every_upstream(gateway: Gateway, peers: Peers) -> None:
    trace = new_trace()
    gateway.call("desk.read", gateway.token(), trace=trace)
    delegated(gateway, peers, trace=trace)
    tool, agent = peers.of(trace)
    assert tool.message["params"]["_meta"]["traceparent"] == tool.headers["traceparent"]
    assert agent.path == "/agents/clerk"
    for record in gateway.records(trace=trace):
        if record.kind == "call.start":
            assert record.leaf["parent"] == "00f067aa0ba902b7"
            assert record.leaf["span"] not in {record.leaf["parent"], ""}
    assert "00f067aa0ba902b7" not in tool.headers["traceparent"]  # the hop onwards is a span of the gateway's own


def test_what_a_workflow_did_can_be_drawn_with_person_agents_and_rules(gateway: Gateway, peers: Peers) -> None:
    decisions: list[str] = []

    def work(token: str) -> str:
        for tool in ("desk.read", "desk.slow"):  # the second is not granted to clerk
            answer = gateway.call(tool, gateway.agent_secrets["clerk"], **{"Bailiwick-Delegation": token})
            decisions.append(answer.headers["bailiwick-decision"])
        return "done"

    answer = delegated(gateway, peers, work)
    workflow = answer.headers["bailiwick-workflow"]
    drawn = gateway.audit("trace", workflow)
    assert drawn.returncode == 0, drawn.stderr
    buyer = source(PEOPLE, "BUY-1", "grants/people.csv")
    for words in (
        f"user:dev/paul   workflow {workflow}: 2 allowed, 1 denied, 0 open",
        "a2a:clerk (SendMessage)  ALLOWED",
        "agent:clerk  call desk.read (tools/call)  ALLOWED",
        "agent:clerk  call desk.slow (tools/call)  DENIED agent-lacks-right",
        f"user:dev/paul may send? {source(PEOPLE, 'BUY-4', 'grants/people.csv')}",
        f"user:dev/paul may call? {buyer}",
        f"agent:clerk may call? {source(AGENT_GRANTS, 'AGT-1', 'grants/agents.csv')}",
        "agent:clerk may call? no rule grants it",
    ):
        assert words in drawn.stdout, (words, drawn.stdout)
    shown = [gateway.audit("show", decision, "--json") for decision in decisions]
    allowed, denied = (json.loads(done.stdout) for done in shown)
    assert allowed["who"] == denied["who"] == "user:dev/paul > agent:clerk"
    assert allowed["record"]["decision"]["asked"][0]["rules"] == [buyer]
    assert json.loads(allowed["values"]["request"])["params"]["name"] == "read"
    assert plain(json.loads(allowed["end"]["values"]["response"])["result"]) == done("done")
    assert "no rule grants call on desk.slow to agent:clerk" in denied["values"]["explanation"]
    assert "s_" not in drawn.stdout  # names, and no pseudonyms


def test_a_duty_is_named_with_its_rule_and_line(gateway: Gateway, peers: Peers) -> None:
    peers.tools["desk.account"] = lambda _: done("{}")
    answer = gateway.call("desk.account", gateway.token())
    shown = gateway.audit("show", answer.headers["bailiwick-decision"])
    assert source(GUARDRAILS, "SEC-1", "grants/guardrails.csv") in shown.stdout
    assert '"fulfilled": [\n' in shown.stdout


# ------------------------------------------------------------------------------------------------------------- secrets
def test_no_credential_and_no_plain_body_lies_in_the_ledger_the_log_the_metrics_or_an_error(
    gateway: Gateway, peers: Peers
) -> None:
    secret_word = "quicksilver-and-vitriol"
    tokens, said = [gateway.token("paul"), gateway.token("mia")], []
    peers.tools["desk.read"] = lambda _: done(f"the answer holds {secret_word}")

    def work(token: str) -> str:
        tokens.append(token)
        mine = {"Bailiwick-Delegation": token}
        gateway.call("desk.read", gateway.agent_secrets["clerk"], arguments={"text": secret_word}, **mine)
        said.append(gateway.call("desk.seal", gateway.agent_secrets["clerk"], **mine))
        said.append(gateway.call("desk.read", gateway.agent_secrets["courier"], **mine))
        return secret_word

    answer = delegated(gateway, peers, work, text=secret_word)
    broken = tokens[0][:-4] + "AAAA"
    for credential in (*tokens[:2], broken, f"{gateway.agent_secrets['clerk']}x"):
        said += [gateway.call(tool, credential) for tool in ("desk.seal", "down.read", "desk.sign")]
        said.append(gateway.send("nobody", credential))
        said.append(gateway.http.get("/api/whoami", headers={"Authorization": f"Bearer {credential}"}))
        said.append(gateway.http.post(f"/mcp/desk?access_token={credential}", json={"text": secret_word}))
        said.append(gateway.http.get(f"/mcp/{credential}/{credential}"))
    assert peers.heard[-1].headers.get("authorization") != f"Bearer {tokens[0]}"
    assert any(heard.headers.get("authorization") == f"Bearer {gateway.server_secret}" for heard in peers.heard)

    needles = {secret_word, gateway.server_secret, *gateway.agent_secrets.values(), broken}
    for token in tokens:  # a signature is the secret of a token, its claims are a person's
        needles |= set(token.split(".")[1:])
    stored = [path for path in (gateway.folder / "data").rglob("*") if path.is_file() and path.suffix != ".pem"]
    assert {path.name for path in stored} >= {"ledger.db", "ledger.db-wal", "state.db"}
    places = {path.name: path.read_bytes() for path in [*stored, gateway.log]}
    places["metrics"] = gateway.http.get("/metrics").content
    places |= {f"answer {number}: {each.text[:80]}": whole(each) for number, each in enumerate(said)}
    found = [(where, needle) for where, data in places.items() for needle in needles if needle.encode() in data]
    assert found == []

    assert any(b"desk.read" in data for data in places.values())  # the search finds what is there
    (start,) = [
        each
        for each in gateway.records(workflow=answer.headers["bailiwick-workflow"])
        if each.leaf.get("method") == "SendMessage"
    ]
    assert secret_word.encode() in gateway.opened(start, "request")  # and the body is kept, sealed


def whole(answer: httpx.Response) -> bytes:
    return b"\n".join([answer.content, *(key + b": " + value for key, value in answer.headers.raw)])


def test_what_the_gateway_keeps_is_readable_by_its_owner_alone(gateway: Gateway) -> None:
    open_to_others = [path.name for path in everything(gateway.folder / "data") if path.stat().st_mode & 0o077]
    assert open_to_others == []


def everything(folder: Path) -> list[Path]:
    return [folder, *(path for path in folder.rglob("*") if path.name != "dev-jwks.json")]  # that one is public
