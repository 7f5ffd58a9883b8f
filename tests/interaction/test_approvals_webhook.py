"""Whoever approves is told by webhook: signed, without what the call says, again until it is taken, and never in a call's way."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.interaction.approvals_world import approve, by_a2a, by_mcp, eventually, with_policy
from tests.interaction.world import Gateway, Peers

SECRET = "whsec-of-these-tests-0123456789"


@dataclass
class Hook:
    """A webhook that remembers what came; `answers` are its next statuses, 204 after them."""

    port: int = 0
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    stuck: threading.Event | None = None

    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.came]


@contextmanager
def hook() -> Iterator[Hook]:
    world = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            world.came.append(({name.lower(): value for name, value in self.headers.items()}, body))
            if world.stuck is not None:
                world.stuck.wait(60)
            self.send_response(world.answers.pop(0) if world.answers else 204)
            self.send_header("Content-Length", "0")
            self.send_header("Location", f"http://127.0.0.1:{world.port}/elsewhere")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    world.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield world
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _secret(folder: Path, text: str) -> None:
    (folder / "hook-secret").write_text(text)
    (folder / "hook-secret").chmod(0o600)


@pytest.fixture
def told() -> Iterator[Hook]:
    with hook() as world:
        yield world


@pytest.fixture
def desk(told: Hook, upstreams: Peers, tmp_path: Path) -> Iterator[Gateway]:
    _secret(tmp_path, SECRET)
    webhook = {"url": f"http://127.0.0.1:{told.port}/hook", "secret": {"file": "hook-secret"}, "private": True, "seconds": 1}
    gateway = with_policy(Gateway(tmp_path, upstreams, more={"approvals": {"webhook": webhook}}))
    yield gateway.start()
    gateway.kill()


def test_a_parked_call_is_told_once_signed_and_without_what_it_says(desk: Gateway, told: Hook, peers: Peers) -> None:
    token = desk.token()
    first, second = by_mcp(desk, token, text="a secret word"), by_a2a(desk, token, text="a secret word")
    by_mcp(desk, token, text="a secret word")  # asked again, it is the same call that waits
    eventually(lambda: len(told.came) == 2)
    assert sorted(told.ids()) == sorted([first.approval, second.approval])
    for headers, body in told.came:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        wanted = base64.b64encode(hmac.digest(SECRET.encode(), signed, hashlib.sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{wanted}"
        said = json.loads(body)
        assert said["type"] == "approval.ask"
        assert said["data"]["id"] == headers["webhook-id"]
        assert said["data"]["url"].endswith(f"/api/approvals/{headers['webhook-id']}")
        assert b"secret word" not in body
        assert b"paul" not in body
    assert SECRET not in desk.log.read_text()


def test_a_notice_that_is_not_taken_comes_again_also_after_a_restart_and_is_followed_nowhere(
    desk: Gateway, told: Hook, peers: Peers
) -> None:
    told.answers[:] = [500, 302, *[503] * 1000]
    first = by_mcp(desk, desk.token())
    eventually(lambda: len(told.came) >= 3)
    desk.kill()
    told.answers.clear()
    before = len(told.came)
    desk.start()
    eventually(lambda: len(told.came) > before)
    assert set(told.ids()) == {first.approval}


def test_a_webhook_that_does_not_answer_is_in_no_calls_way(desk: Gateway, told: Hook, peers: Peers) -> None:
    told.stuck = threading.Event()
    token = desk.token()
    first = by_mcp(desk, token)
    eventually(lambda: len(told.came) == 1)
    assert approve(desk, first.approval).json()["state"] == "granted"
    assert by_mcp(desk, token).word == "done"
    told.stuck.set()


def test_a_secret_that_is_too_short_keeps_the_gateway_from_starting(told: Hook, upstreams: Peers, tmp_path: Path) -> None:
    _secret(tmp_path, "short")
    webhook = {"url": f"http://127.0.0.1:{told.port}/hook", "secret": {"file": "hook-secret"}, "private": True}
    gateway = with_policy(Gateway(tmp_path, upstreams, more={"approvals": {"webhook": webhook}}))
    assert gateway.attempt() not in (0, None)
    assert "approvals.webhook" in gateway.log.read_text()
