"""Gateways that share one PostgreSQL for state and ledger: one log, one memory of whose task is whose, whoever serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psycopg
import pytest

from tests.interaction.world import Gateway, Peers, done, new_trace, plain
from tests.postgres_server import Server, database, server

pytestmark = pytest.mark.postgres


@dataclass(frozen=True)
class Replicas:
    """Two processes of one installation, and the database server that both use."""

    one: Gateway
    two: Gateway
    server: Server


@pytest.fixture(scope="module")
def replicas(upstreams: Peers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with server() as running, database(running) as url:
        stores = {"state": {"url": url}, "ledger": {"url": url, "origin": "test.invalid/acme"}}
        one = Gateway(tmp_path_factory.mktemp("replicas"), upstreams, more=stores)
        two = one.twin("twin")
        try:
            one.start()
            two.start()
            yield Replicas(one, two, running)
        finally:
            one.stop()
            two.stop()


def test_calls_to_tools_and_agents_are_governed_and_recorded(replicas: Replicas, peers: Peers) -> None:
    gateway = replicas.one
    inner: list[bool] = []

    def work(token: str) -> str:
        for tool in ("desk.read", "desk.slow"):  # the second is not granted to clerk
            answer = gateway.call(tool, gateway.agent_secrets["clerk"], **{"Bailiwick-Delegation": token})
            inner.append("result" in answer.json())
        return "done"

    peers.agents["clerk"] = lambda heard: work(heard.headers["authorization"].removeprefix("Bearer "))
    answer = gateway.send("clerk", gateway.token())
    assert answer.json()["result"]["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert inner == [True, False]
    records = gateway.records(workflow=answer.headers["bailiwick-workflow"])
    assert [record.kind for record in records] == ["call.start", "call.start", "call.end", "decision.deny", "call.end"]


def test_a_call_is_on_record_before_its_upstream_sees_it_there_too(replicas: Replicas, peers: Peers) -> None:
    trace, seen = new_trace(), []
    peers.tools["desk.read"] = lambda heard: seen.extend(r.kind for r in replicas.one.records(trace=heard.trace)) or done("done")
    replicas.two.call("desk.read", replicas.two.token(), trace=trace)
    assert seen == ["call.start"]
    assert [record.kind for record in replicas.one.records(trace=trace)] == ["call.start", "call.end"]


def test_two_gateways_write_one_log_without_a_gap(replicas: Replicas) -> None:
    token, trace = replicas.one.token(), new_trace()
    with ThreadPoolExecutor(8) as pool:
        calls = [
            pool.submit(gateway.call, "desk.read", token, trace=trace)
            for _ in range(20)
            for gateway in (replicas.one, replicas.two)
        ]
        assert {call.result().json()["result"]["isError"] for call in calls} == {False}
    records = replicas.one.records()
    assert [record.index for record in records] == list(range(len(records)))
    assert len([record for record in records if record.leaf.get("trace") == trace]) == 80
    writers = {record.leaf["writer"]["id"] for record in records if record.leaf.get("trace") == trace}
    assert len(writers) == 2


def test_a_task_made_through_one_is_its_owners_through_the_other_and_nobody_elses(replicas: Replicas) -> None:
    task = replicas.one.send("clerk", replicas.one.token("paul")).json()["result"]["task"]
    paul, mia = replicas.two.token("paul"), replicas.two.token("mia")
    assert replicas.two.ask("clerk", "GetTask", {"id": task["id"]}, paul).json()["result"]["id"] == task["id"]
    trace = new_trace()
    other = replicas.two.ask("clerk", "GetTask", {"id": task["id"]}, mia, trace=trace)
    unknown = replicas.two.ask("clerk", "GetTask", {"id": "00000000-0000-4000-8000-000000000000"}, mia)
    assert other.json()["error"]["code"] == -32001
    assert other.content == unknown.content  # somebody else's is as good as none
    (record,) = replicas.one.records(trace=trace)
    assert record.leaf["refused"] == {"code": "not-owner", "detail": "a task of somebody else"}


def test_a_delegation_of_one_is_good_at_the_other(replicas: Replicas, peers: Peers) -> None:
    said: list[dict[str, object]] = []

    def work(token: str) -> str:
        other = replicas.two.call("desk.read", replicas.two.agent_secrets["clerk"], **{"Bailiwick-Delegation": token})
        said.append(plain(other.json()["result"]))
        return "done"

    peers.agents["clerk"] = lambda heard: work(heard.headers["authorization"].removeprefix("Bearer "))
    answer = replicas.one.send("clerk", replicas.one.token())
    assert said == [done("done")]
    drawn = replicas.two.audit("trace", answer.headers["bailiwick-workflow"])
    assert drawn.returncode == 0, drawn.stderr
    assert "agent:clerk  call desk.read (tools/call)  ALLOWED" in drawn.stdout
    assert "user:dev/paul" in drawn.stdout


def test_the_log_can_be_listed_shown_and_verified_where_it_is_in_postgresql(replicas: Replicas) -> None:
    answer = replicas.one.call("desk.seal", replicas.one.token())
    decision = answer.headers["bailiwick-decision"]
    listed = replicas.one.audit("tail", "--json", "-n", "5")
    assert listed.returncode == 0, listed.stderr
    assert decision in {record["id"] for record in json.loads(listed.stdout)["records"]}
    shown = replicas.two.audit("show", decision)
    assert "user-lacks-right" in shown.stdout, shown.stderr
    verdict = replicas.one.audit("verify")
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    assert "nothing was found" in verdict.stdout


def test_a_gateway_is_ready_again_by_itself_when_its_database_is_back(replicas: Replicas, peers: Peers) -> None:
    """Whoever is told that it is not ready sends it no calls: it must not need one to notice."""
    gateway, token, trace = replicas.one, replicas.one.token(), new_trace()
    before = len(gateway.records())
    replicas.server.stop()
    try:
        assert gateway.call("desk.read", token, trace=trace).status_code == 503
        assert gateway.http.get("/readyz").status_code == 503
        assert peers.of(trace) == []
    finally:
        replicas.server.start()
    while gateway.http.get("/readyz").status_code != 200:
        assert gateway.http.get("/healthz").status_code == 200
    assert plain(gateway.call("desk.read", token, trace=trace).json()["result"]) == done("done")
    records = gateway.records()
    assert [record.index for record in records] == list(range(len(records)))
    told = [record for record in records[before:] if record.kind == "writer.heartbeat"]
    assert told
    assert told[0].leaf["failed_us"] > 0, "the log itself says for how long nothing could be written"
    assert [record.kind for record in records[before:] if record.kind.startswith("call")] == ["call.start", "call.end"]


def test_a_record_that_was_changed_in_postgresql_is_found(replicas: Replicas) -> None:
    """By somebody who may switch off the guards: last of all, as the log stays broken."""
    gateway = replicas.one
    answer = gateway.call("desk.seal", gateway.token())
    decision = answer.headers["bailiwick-decision"]
    plain = gateway.settings["ledger"]["url"].replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(plain, autocommit=True) as connection:
        guard = "TRIGGER ledger_leaves_no_change"
        connection.execute(f"ALTER TABLE ledger_leaves DISABLE {guard}")
        connection.execute("UPDATE ledger_leaves SET data = set_byte(data, 20, 120) WHERE id = %s", (decision,))
        connection.execute(f"ALTER TABLE ledger_leaves ENABLE ALWAYS {guard}")
    verdict = gateway.audit("verify")
    assert verdict.returncode == 1
    assert decision in verdict.stdout
