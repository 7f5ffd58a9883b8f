"""`notify` through a whole gateway: who is told what, how they know who says so, and what a failure and a crash change."""

from __future__ import annotations

import base64
import hmac
import json
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.interaction.world import GUARDRAILS, Gateway, Peers, free_port

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
DUTIES = """
tell:   {type: notify, to: security}
also:   {type: notify, to: [security]}
nobody: {type: notify, to: nobody}
"""
LINES = """\
p,   *,   acme,   desk.read,    call,   require, -,    tell,   TELL-1
p,   *,   acme,   desk.read,    call,   require, -,    also,   TELL-2
p,   *,   acme,   a2a:clerk,    send,   require, -,    tell,   TELL-3
p,   *,   acme,   desk.slow,    call,   require, -,    nobody, TELL-4
"""


@dataclass
class Told:
    """A webhook that keeps what it gets; `answers` are its next statuses, then 204."""

    port: int
    got: queue.Queue[tuple[dict[str, str], bytes]] = field(default_factory=queue.Queue)
    answers: list[int] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None

    def open(self) -> None:
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(told.answers.pop(0) if told.answers else 204)
                self.end_headers()
                told.got.put(({name.lower(): value for name, value in self.headers.items()}, body))

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def next(self) -> tuple[dict[str, str], Any]:
        """What comes next, once its signature is found to be right."""
        headers, body = self.got.get(timeout=60)
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        signature = "v1," + base64.b64encode(hmac.digest(b"k" * 32, signed, "sha256")).decode()
        assert headers["webhook-signature"] == signature
        return headers, json.loads(body)


@pytest.fixture
def told() -> Iterator[Told]:
    webhook = Told(free_port())
    yield webhook
    if webhook.server is not None:
        webhook.server.shutdown()
        webhook.server.server_close()


@pytest.fixture
def telling(own_gateway: Callable[..., Gateway], peers: Peers, tmp_path: Path, told: Told) -> Gateway:
    made = Gateway(tmp_path, peers)
    folder = made.folder / "policies"
    (folder / "obligations.yaml").write_text((folder / "obligations.yaml").read_text() + DUTIES)
    (folder / "grants" / "guardrails.csv").write_text(GUARDRAILS + LINES)
    (tmp_path / "hook-secret").write_text(SECRET)
    (tmp_path / "hook-secret").chmod(0o600)
    receiver = {"url": f"http://127.0.0.1:{told.port}/hook", "secret": {"file": "hook-secret"}, "private": True}
    return own_gateway(notify={"security": receiver})


def test_a_receiver_is_told_once_of_each_call_signed_and_without_what_was_said_in_it(telling: Gateway, told: Told) -> None:
    told.open()
    secret = "hunter2-hunter2"
    answer = telling.call("desk.read", telling.token(), arguments={"text": secret})
    assert not answer.json()["result"]["isError"]
    headers, said = told.next()
    (start,) = telling.records(kind="call.start")
    assert headers["webhook-id"] == f"{start.leaf['id']}.security"
    assert said["type"] == "call.permitted"
    data = said["data"]
    assert (data["decision"], data["duties"]) == (start.leaf["id"], ["tell", "also"])
    assert (data["subject"], data["action"], data["resource"]) == ("user:dev/paul", "call", "desk.read")
    assert secret not in json.dumps([said, headers])
    assert "result" in telling.send("clerk", telling.token(), secret).json()
    _, said = told.next()
    assert (said["data"]["resource"], said["data"]["protocol"]) == ("a2a:clerk", "a2a")
    assert secret not in json.dumps(said)
    assert told.got.empty()


def test_what_a_receiver_does_not_take_is_told_again_under_the_same_id_and_no_call_waits_for_it(
    telling: Gateway, told: Told
) -> None:
    told.answers = [500]
    told.open()
    assert not telling.call("desk.read", telling.token()).json()["result"]["isError"]
    (first, said), (second, again) = told.next(), told.next()
    assert first["webhook-id"] == second["webhook-id"]
    assert said == again


def test_what_was_not_told_before_a_crash_is_told_after_it(telling: Gateway, told: Told) -> None:
    assert not telling.call("desk.read", telling.token()).json()["result"]["isError"]  # nobody listens at the webhook yet
    telling.kill()
    told.open()
    telling.start()
    headers, _ = told.next()
    (start,) = telling.records(kind="call.start")
    assert headers["webhook-id"] == f"{start.leaf['id']}.security"


def test_where_nobody_can_be_told_nothing_is_done(telling: Gateway, peers: Peers) -> None:
    result = telling.call("desk.slow", telling.token()).json()["result"]
    assert result["_meta"]["bailiwick/code"] == "duty-failed"
    assert peers.heard == []
    store = telling.folder / "data" / "state.db"
    before = len(telling.records(kind="call.start"))
    with sqlite3.connect(store) as rows:
        rows.execute("DROP TABLE outbox")
    answer = telling.call("desk.read", telling.token())
    assert peers.heard == []
    assert "internal-error" in answer.text
    assert len(telling.records(kind="call.start")) == before
