"""Kills in whole gateways: what is under way ends, on every replica, and what ended stays ended."""

from __future__ import annotations

import json
import queue
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from audit.reader import Record
from tests.interaction.world import LEGACY, MODERN, Gateway, Peers, new_trace
from tests.postgres_server import Server, database, server

WARDEN = """\
p, role:warden, acme, admin:kills, read,   allow, -, -, WAR-1
p, role:warden, acme, admin:kills, change, allow, -, -, WAR-2
p, role:warden, acme, desk.read,   call,   allow, -, -, WAR-3
"""


@dataclass
class Slow:
    """An upstream that never ends its answer: it says that it began, and notices when the gateway lets go of it."""

    port: int = 0
    begun: queue.Queue[str] = field(default_factory=queue.Queue)
    dropped: queue.Queue[str] = field(default_factory=queue.Queue)
    streams: bool = True


@contextmanager
def slow_upstream() -> Iterator[Slow]:
    slow = Slow()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            trace = self.headers["traceparent"].split("-")[1]
            if slow.streams:
                first = json.dumps(first_of(message)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                self.wfile.write(b"data: " + first + b"\n\n")
                self.wfile.flush()
            slow.begun.put(trace)
            try:
                while self.connection.recv(1024):
                    pass
            except OSError:
                pass
            self.close_connection = True
            slow.dropped.put(trace)

        def log_message(self, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads, listening.block_on_close = True, False
    slow.port = listening.server_port
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield slow
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def first_of(message: dict[str, Any]) -> dict[str, Any]:
    """What is said on the way: progress of a tool, or a task that works."""
    if message["method"] == "tools/call":
        params = {"progressToken": message["params"]["_meta"]["progressToken"], "progress": 1}
        return {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
    task = {"id": secrets.token_hex(8), "contextId": secrets.token_hex(8), "status": {"state": "TASK_STATE_WORKING"}}
    return {"jsonrpc": "2.0", "id": message["id"], "result": {"task": task}}


def prepare(folder: Path, upstreams: Peers, slow: Slow, **more: Any) -> Gateway:
    """A gateway whose `vault` and `hermit` never end, and whose fiona may kill."""
    gateway = Gateway(folder, upstreams, more=more)
    policies = folder / "policies"
    (policies / "grants" / "wardens.csv").write_text(WARDEN + "p, role:buyer, acme, a2a:hermit, send, allow, -, -, BUY-9\n")
    roles = policies / "roles.csv"
    roles.write_text(roles.read_text() + "g, idp:finance-controllers, role:warden, acme\n")
    gateway.settings["mcp"]["vault"] = {"url": f"http://127.0.0.1:{slow.port}/mcp/vault"}
    gateway.settings["agents"]["hermit"]["url"] = f"http://127.0.0.1:{slow.port}/agents/hermit"
    gateway.config.write_text(json.dumps(gateway.settings))
    return gateway


@pytest.fixture(scope="module")
def slow() -> Iterator[Slow]:
    with slow_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(upstreams: Peers, slow: Slow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    quick = {"poll_seconds": 0.05, "stale_seconds": 60}
    running = prepare(tmp_path_factory.mktemp("kills"), upstreams, slow, revocation=quick)
    try:
        yield running.start()
    finally:
        running.stop()


def kill(gateway: Gateway, kind: str, target: str, who: str | None = None, **more: Any) -> httpx.Response:
    """Asked by fiona, who may."""
    frame = {"Authorization": f"Bearer {who or gateway.token('fiona')}"}
    return gateway.http.post("/api/kills", json={"kind": kind, "target": target, "reason": "a test"} | more, headers=frame)


def lift(gateway: Gateway, answer: httpx.Response, who: str | None = None) -> httpx.Response:
    frame = {"Authorization": f"Bearer {who or gateway.token('fiona')}"}
    return gateway.http.delete(f"/api/kills/{answer.json()['id']}", headers=frame)


def open_call(gateway: Gateway, era: str, credential: str, trace: str) -> list[str]:
    """The lines of an answer that does not end by itself: the client's whole view of it."""
    headers = {"Authorization": f"Bearer {credential}", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    meta: dict[str, Any] = {"progressToken": 1}
    if era == "a2a":
        path, headers["A2A-Version"] = "/a2a/hermit/", "1.0"
        said = {"message": {"messageId": trace, "role": "ROLE_USER", "parts": [{"text": "hello"}]}}
        message = {"jsonrpc": "2.0", "id": 7, "method": "SendStreamingMessage", "params": said}
    else:
        path = "/mcp/vault"
        headers |= {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": era}
        if era == MODERN:
            headers |= {"Mcp-Method": "tools/call", "Mcp-Name": "open"}
            prefix = "io.modelcontextprotocol/"
            meta |= {f"{prefix}protocolVersion": era, f"{prefix}clientCapabilities": {}}
        params = {"name": "open", "arguments": {"text": "hello"}, "_meta": meta}
        message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    with (
        httpx.Client(base_url=gateway.url, trust_env=False, timeout=40) as http,
        http.stream("POST", path, json=message, headers=headers) as answer,
    ):
        return [str(answer.status_code), *answer.iter_lines()]


@contextmanager
def under_way(gateway: Gateway, slow: Slow, era: str, credential: str, trace: str) -> Iterator[Future[list[str]]]:
    """A call that reached its upstream; its future is what the client saw of it."""
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(open_call, gateway, era, credential, trace)
        assert slow.begun.get(timeout=30) == trace
        yield call


def end_of(gateway: Gateway, trace: str) -> Record:
    return next(record for record in gateway.records(trace=trace) if record.kind == "call.end")


ERAS = [LEGACY, MODERN, "a2a"]


@pytest.mark.parametrize("era", ERAS)
def test_a_stream_under_way_ends_with_the_persons_kill(gateway: Gateway, slow: Slow, era: str) -> None:
    trace = new_trace()
    with under_way(gateway, slow, era, gateway.token(), trace) as call:
        killed = kill(gateway, "user", "user:dev/paul")
        assert killed.status_code == 201, killed.text
        seen = call.result(30)
    try:
        assert slow.dropped.get(timeout=30) == trace
        assert seen[0] == "200"  # it had begun
        assert "revoked" in seen[-1] or "revoked" in seen[-2]
        outcome = end_of(gateway, trace).leaf["outcome"]
        assert (outcome["status"], outcome["detail"].split(":")[0]) == ("interrupted", "revoked")
    finally:
        assert lift(gateway, killed).status_code == 200


@pytest.mark.parametrize("era", ERAS)
def test_a_call_that_has_not_been_answered_yet_is_refused_as_revoked(gateway: Gateway, slow: Slow, era: str) -> None:
    trace, slow.streams = new_trace(), False
    try:
        with under_way(gateway, slow, era, gateway.token(), trace) as call:
            killed = kill(gateway, "user", "user:dev/paul")
            seen = call.result(30)
    finally:
        slow.streams = True
        assert lift(gateway, killed).status_code == 200
    assert slow.dropped.get(timeout=30) == trace
    assert seen[0] == ("200" if era == "a2a" else "401") or seen[0] == "401"
    assert "revoked" in "".join(seen)
    assert end_of(gateway, trace).leaf["outcome"]["status"] == "interrupted"


def test_who_was_killed_is_refused_until_the_kill_is_lifted_and_the_ledger_tells_it_in_order(gateway: Gateway) -> None:
    token, trace = gateway.token(), new_trace()
    killed = kill(gateway, "user", "user:dev/paul")
    refused = gateway.call("desk.read", token, trace=trace)
    assert (refused.status_code, refused.json()["error"]["data"]["code"]) == (401, "revoked")
    assert gateway.call("desk.read", gateway.token(), trace=trace).status_code == 401  # a new token is no way round it
    assert gateway.http.get("/api/whoami", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    assert gateway.send("clerk", token).status_code == 401
    assert lift(gateway, killed).status_code == 200
    assert gateway.call("desk.read", token, trace=trace).json()["result"]["isError"] is False
    kinds = [record.kind for record in gateway.records(trace=trace)]
    assert kinds == ["decision.deny", "decision.deny", "call.start", "call.end"]
    about = [record for record in gateway.records() if record.id == killed.json()["id"] or record.kind == "identity.lift"]
    assert [record.kind for record in about][-2:] == ["identity.kill", "identity.lift"]
    assert about[-2].leaf["what"] == "user"
    assert "paul" not in json.dumps(about[-2].leaf)  # by pseudonym alone
    assert gateway.opened(about[-2], "reason") == b"a test"
    (wish,) = [record for record in gateway.records() if record.id == about[-2].leaf["request"]]
    assert wish.index < about[-2].index


def test_only_what_was_given_until_a_time_is_dead(gateway: Gateway) -> None:
    old = gateway.token()
    issued = claims(old)["iat"]
    killed = kill(gateway, "user", "user:dev/paul", before=issued)
    assert gateway.call("desk.read", old).status_code == 401
    while claims(fresh := gateway.token())["iat"] <= issued:  # one given in the same second is as old
        assert gateway.call("desk.read", fresh).status_code == 401
    assert gateway.call("desk.read", fresh).status_code == 200
    assert lift(gateway, killed).status_code == 200


def claims(token: str) -> dict[str, Any]:
    import base64

    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


@pytest.mark.parametrize(
    ("kind", "target", "answers", "goes_on"),
    [
        ("branch", "jti", [200, 401], True),
        ("token", "jti", [200, 401], True),
        ("branch", "another", [200, 200], True),
        ("agent", "agent:courier", [200, 200], True),
        ("agent", "agent:clerk", [200, 401], False),  # what was sent to it is ended as well
        ("workflow", "wf", [200, 401], False),
    ],
)
def test_a_kill_reaches_what_it_names_and_nothing_beside_it(
    gateway: Gateway, peers: Peers, kind: str, target: str, answers: list[int], goes_on: bool
) -> None:
    seen: list[int] = []
    killed: list[httpx.Response] = []

    def work(token: str) -> str:
        def read() -> int:
            return gateway.call("desk.read", gateway.agent_secrets["clerk"], **{"Bailiwick-Delegation": token}).status_code

        seen.append(read())
        killed.append(kill(gateway, kind, str(claims(token).get(target, target))))
        seen.append(read())
        return "done"

    peers.agents["clerk"] = lambda heard: work(heard.headers["authorization"].removeprefix("Bearer "))
    parent = gateway.token()
    answer = gateway.send("clerk", parent)
    assert ("revoked" not in answer.text) is goes_on
    if kind != "workflow":
        assert gateway.call("desk.read", parent).status_code == 200  # the parent of a branch
    while len(seen) < 2:
        assert gateway.http.get("/healthz").status_code == 200  # the agent is still at it
    assert seen == answers
    assert lift(gateway, killed[0]).status_code == 200
    assert gateway.call("desk.read", parent).status_code == 200


def test_the_token_with_which_a_workflow_began_kills_all_that_came_of_it(gateway: Gateway, peers: Peers) -> None:
    parent, seen = gateway.token(), []

    def work(token: str) -> str:
        answer = kill(gateway, "token", claims(parent)["jti"])
        seen.append(gateway.call("desk.read", gateway.agent_secrets["clerk"], **{"Bailiwick-Delegation": token}).status_code)
        assert lift(gateway, answer).status_code == 200
        return "done"

    peers.agents["clerk"] = lambda heard: work(heard.headers["authorization"].removeprefix("Bearer "))
    assert "revoked" in gateway.send("clerk", parent).text  # the call to the agent as well
    while not seen:
        assert gateway.http.get("/healthz").status_code == 200  # the agent is still at it
    assert seen == [401]


def test_without_the_right_nobody_kills_another_and_the_attempt_is_on_record(gateway: Gateway) -> None:
    before = len([record for record in gateway.records() if record.kind == "decision.deny"])
    for who in (gateway.token("paul"), gateway.agent_secrets["clerk"]):
        assert kill(gateway, "user", "user:dev/mia", who).status_code == 403
    assert gateway.http.post("/api/kills", content=b"x" * 100_000).status_code == 401  # a stranger's body is not read
    assert gateway.call("desk.read", gateway.token("mia")).json()["error"]["data"]["code"] != "revoked"
    denied = [record for record in gateway.records() if record.kind == "decision.deny"][before:]
    assert [record.leaf["resource"] for record in denied if record.leaf.get("proto") == "http"] == ["admin:kills"] * 2


def test_people_end_what_is_theirs_and_nobody_elses(gateway: Gateway, peers: Peers) -> None:
    mine, other = gateway.token("paul"), gateway.token("mia")
    whoami = gateway.http.get("/api/whoami", headers={"Authorization": f"Bearer {mine}"}).json()
    killed = kill(gateway, "workflow", whoami["workflow"], mine)
    assert (killed.status_code, killed.json()["source"]) == (201, "self")
    assert gateway.call("desk.read", mine).status_code == 401
    again = gateway.token("paul")
    assert gateway.call("desk.read", again).status_code == 200
    theirs = gateway.http.get("/api/whoami", headers={"Authorization": f"Bearer {other}"}).json()["workflow"]
    assert kill(gateway, "workflow", theirs, again, mine=True).status_code == 201  # said to be paul's, which it is not
    assert gateway.http.get("/api/whoami", headers={"Authorization": f"Bearer {other}"}).status_code == 200
    listed = gateway.http.get("/api/kills", params={"mine": True}, headers={"Authorization": f"Bearer {again}"}).json()["kills"]
    assert {each["target"] for each in listed} == {whoami["workflow"], theirs}
    assert lift(gateway, killed, again).status_code == 403  # what a thief of a token may end, it may not bring back


def test_nobody_kills_another_by_calling_them_their_own(gateway: Gateway) -> None:
    paul, mia = gateway.token("paul"), gateway.token("mia")
    for target in ("user:dev/mia", "svc:clerk"):
        assert kill(gateway, "user", target, paul, mine=True).status_code == 422
    assert gateway.http.get("/api/whoami", headers={"Authorization": f"Bearer {mia}"}).status_code == 200
    clerk = {"Authorization": f"Bearer {gateway.agent_secrets['clerk']}"}
    assert gateway.http.get("/api/whoami", headers=clerk).status_code == 200


def test_an_agent_does_not_end_what_it_was_lent(gateway: Gateway, peers: Peers) -> None:
    seen: list[int] = []

    def work(token: str) -> str:
        frame = {"Authorization": f"Bearer {gateway.agent_secrets['clerk']}", "Bailiwick-Delegation": token}
        wanted = {"kind": "user", "target": "user:dev/paul"}, {"kind": "workflow", "target": claims(token)["wf"], "mine": True}
        answers = [gateway.http.post("/api/kills", json=each | {"reason": "prompted"}, headers=frame) for each in wanted]
        seen.extend(answer.status_code for answer in answers)
        return "done"

    peers.agents["clerk"] = lambda heard: work(heard.headers["authorization"].removeprefix("Bearer "))
    gateway.send("clerk", gateway.token())
    assert seen == [403, 403]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"kind": "user", "target": "paul"}, "user:<issuer alias>/<sub>"),
        ({"kind": "user", "target": "user:dve/paul"}, "no issuer dve"),
        ({"kind": "agent", "target": "agent:clark"}, "no agent clark"),
        ({"kind": "tenant", "target": "amce"}, "no tenant amce"),
        ({"kind": "workflow", "target": "wf-1"}, "26 hex"),
        ({"kind": "planet", "target": "earth"}, "Input should be"),
        ({"kind": "user", "target": "user:dev/paul", "before": 99_999_999_999}, "lies ahead"),
        ({"kind": "user", "target": "user:dev/paul", "before": True}, "valid integer"),
        ({"kind": "user", "target": "svc:clerk", "before": 1_700_000_000}, "anew at every call"),
        ({"kind": "user", "target": "user:dev/paul", "reason": ""}, "at least 1"),
        ({"kind": "user", "target": "user:dev/paul", "until": 5}, "not permitted"),
        ({"kind": "tenant", "target": "acme", "mine": True}, "nobody's own"),
    ],
)
def test_what_is_no_kill_is_told_where_and_why(gateway: Gateway, body: dict[str, Any], told: str) -> None:
    frame = {"Authorization": f"Bearer {gateway.token('fiona')}"}
    answer = gateway.http.post("/api/kills", json={"reason": "a test"} | body, headers=frame)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]
    assert answer.json()["instance"].startswith("body")
    assert gateway.call("desk.read", gateway.token()).status_code == 200


def test_an_unknown_kill_cannot_be_lifted(gateway: Gateway) -> None:
    frame = {"Authorization": f"Bearer {gateway.token('fiona')}"}
    for name in ("019a0000-0000-7000-8000-000000000000", "x" * 300, "%00", "..%2f.."):
        assert gateway.http.delete(f"/api/kills/{name}", headers=frame).status_code == 404


@dataclass(frozen=True)
class Replicas:
    """One that is asked, one that hears notices and all but never polls, one that polls; and their database."""

    asked: Gateway
    hears: Gateway
    polls: Gateway
    server: Server
    url: str


@pytest.fixture(scope="module")
def replicas(upstreams: Peers, slow: Slow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with server() as running, database(running) as url:
        stores = {"state": {"url": url}, "ledger": {"url": url, "origin": "test.invalid/acme"}}
        one = prepare(tmp_path_factory.mktemp("replicas"), upstreams, slow, **stores)
        hears, polls = one.twin("hears"), one.twin("polls")
        for gateway, seconds, stale in ((hears, 60, 3600), (polls, 0.1, 2)):
            gateway.settings = gateway.settings | {"revocation": {"poll_seconds": seconds, "stale_seconds": stale}}
            gateway.config.write_text(json.dumps(gateway.settings))
        try:
            for gateway in (one, hears, polls):
                gateway.start()
            yield Replicas(one, hears, polls, running, url)
        finally:
            for gateway in (one, hears, polls):
                gateway.stop()


@pytest.mark.postgres
@pytest.mark.parametrize("era", ERAS)
def test_a_stream_on_another_replica_ends_by_notice(replicas: Replicas, slow: Slow, era: str) -> None:
    trace, token = new_trace(), replicas.asked.token()
    with under_way(replicas.hears, slow, era, token, trace) as call:
        killed = kill(replicas.asked, "user", "user:dev/paul")
        seen = call.result(40)  # long before that replica polls
    assert slow.dropped.get(timeout=30) == trace
    assert "revoked" in "".join(seen)
    assert end_of(replicas.asked, trace).leaf["outcome"]["status"] == "interrupted"
    assert lift(replicas.asked, killed).status_code == 200
    while replicas.hears.call("desk.read", token).status_code != 200:  # that, too, is heard
        pass


@pytest.mark.postgres
def test_without_any_notice_the_poll_finds_a_kill_and_ends_the_stream(replicas: Replicas, slow: Slow) -> None:
    """A row that was written without a word: what a lost notice comes to."""
    trace, token = new_trace(), replicas.asked.token()
    plain = replicas.url.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(plain, autocommit=True) as connection:
        with under_way(replicas.polls, slow, LEGACY, token, trace) as call:
            columns = "id, kind, target, before, reason, source, by, created_at, lifted_at"
            row = ("k-1", "user", "user:dev/paul", None, "lost", "offline", "os:root", 1, None)
            connection.execute(f"INSERT INTO kills ({columns}) VALUES (%s,%s,%s,%s,%s,%s,%s,%s,%s)", row)
            seen = call.result(40)
        assert "revoked" in "".join(seen)
        assert slow.dropped.get(timeout=30) == trace
        connection.execute("UPDATE kills SET lifted_at = 2 WHERE id = 'k-1'")
    while replicas.polls.call("desk.read", token).status_code != 200:
        pass
    (record,) = [record for record in replicas.asked.records() if record.id == "k-1"]
    assert (record.kind, record.leaf["source"], record.leaf["by"]) == ("identity.kill", "offline", "os:root")


@pytest.mark.postgres
def test_where_kills_cannot_be_read_everything_is_refused_and_it_recovers(replicas: Replicas, slow: Slow) -> None:
    """The table is locked away, the rest of the database answers."""
    token, trace = replicas.asked.token(), new_trace()
    plain = replicas.url.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(plain, autocommit=True) as connection, under_way(replicas.polls, slow, LEGACY, token, trace) as call:
        connection.execute("ALTER TABLE kills RENAME TO kills_away")
        try:
            while replicas.polls.http.get("/readyz").status_code == 200:
                time.sleep(0)  # give way
            assert replicas.polls.http.get("/readyz").json()["faults"] == {"kills": "kills cannot be read"}
            refused = replicas.polls.call("desk.read", token)
            assert refused.status_code == 500
            assert call.result(30)  # nobody knows whether it may still go on
            assert slow.dropped.get(timeout=30) == trace
        finally:
            connection.execute("ALTER TABLE kills_away RENAME TO kills")
    while replicas.polls.http.get("/readyz").status_code != 200:
        pass
    assert replicas.polls.call("desk.read", token).status_code == 200
