"""`inspect` with a guard of the settings, through a whole gateway, over MCP and A2A."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.interaction.world import GUARDRAILS, MODERN, Gateway, Peers

LINES = """\
p,   *,   acme,   desk.*,    call,   require, -,    guarded, GRD-1
p,   *,   acme,   a2a:clerk, send,   require, -,    guarded, GRD-2
"""
DUTIES = "\nguarded: {type: inspect, guards: prompts}\n"


@pytest.fixture
def guard() -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """A guard that denies what is evil; where it listens, and what it was shown by whom."""
    shown: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            shown.append((self.headers["Authorization"], said))
            body = json.dumps({"action": "deny" if "evil" in json.dumps(said["content"]) else "allow"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/judge", shown
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_guard_of_the_settings_judges_calls_and_answers_of_tools_and_agents(
    own_gateway: Callable[..., Gateway], peers: Peers, tmp_path: Path, guard: Any
) -> None:
    url, shown = guard
    folder = Gateway(tmp_path, peers).folder
    (folder / "policies" / "obligations.yaml").write_text((folder / "policies" / "obligations.yaml").read_text() + DUTIES)
    (folder / "policies" / "grants" / "guardrails.csv").write_text(GUARDRAILS + LINES)
    (folder / "guard-token").write_text("sesame")
    (folder / "guard-token").chmod(0o600)
    said = {"url": url, "token": {"file": "guard-token"}, "private": True, "seconds": 20}
    gateway = own_gateway(inspect={"guards": {"prompts": said}})
    token = gateway.token()
    for version in ("2025-11-25", MODERN):
        assert not gateway.call("desk.read", token, version=version).json()["result"].get("isError")
        refused = gateway.call("desk.read", token, version=version, arguments={"text": "evil"})
        assert refused.json()["result"]["_meta"]["bailiwick/code"] == "content-refused"
    assert "result" in gateway.send("clerk", token).json()
    answer = gateway.send("clerk", token, "evil")
    assert answer.json()["error"]["data"][0]["metadata"]["code"] == "content-refused"
    peers.agents["clerk"] = lambda _: "evil"
    answer = gateway.send("clerk", token)
    assert "evil" not in answer.text
    assert answer.json()["error"]["data"][0]["metadata"]["code"] == "content-refused"
    assert {who for who, _ in shown} == {"Bearer sesame"}
    assert {said["protocol"] for _, said in shown} == {"mcp", "a2a"}
    assert "sesame" not in gateway.log.read_text()
