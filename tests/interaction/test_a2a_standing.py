"""Agents that take their time, in a whole gateway: what cuts them off, and what does not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.interaction.test_kills import end_of, prepare, slow_upstream, under_way
from tests.interaction.world import Gateway, Peers, new_trace


def test_a_stream_from_an_agent_ends_when_the_bundle_no_longer_grants_it(upstreams: Peers, tmp_path: Path) -> None:
    trace = new_trace()
    with slow_upstream() as slow:
        gateway = prepare(tmp_path, upstreams, slow)
        grants = tmp_path / "policies" / "grants" / "wardens.csv"
        try:
            gateway.start()
            with under_way(gateway, slow, "a2a", gateway.token(), trace) as call:
                grants.write_text("".join(line for line in grants.read_text().splitlines(True) if "a2a:hermit" not in line))
                seen = call.result(30)
            assert slow.dropped.get(timeout=30) == trace
            assert seen[0] == "200"  # it had begun
            assert "event: error" in seen
            assert any(
                '"code":-32000,"message":"There is no such agent."' in line for line in seen
            )  # as to whoever may not know of it
            assert end_of(gateway, trace).leaf["outcome"]["status"] == "interrupted"
        finally:
            gateway.stop()


@contextmanager
def thinking(seconds: float) -> Iterator[int]:
    """An agent that is silent for so long before it answers; its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            threading.Event().wait(seconds)
            task = {"id": "t-1", "contextId": "c-1", "status": {"state": "TASK_STATE_COMPLETED"}}
            body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"task": task}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield listening.server_port
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def test_an_agent_may_be_silent_for_as_long_as_its_call_may_take(upstreams: Peers, tmp_path: Path) -> None:
    with thinking(2.0) as port:
        gateway = Gateway(tmp_path, upstreams)
        gateway.settings["limits"] = {"upstream_idle_seconds": 0.5, "call_seconds": 30, "stream_seconds": 0.5}
        gateway.settings["agents"]["clerk"]["url"] = f"http://127.0.0.1:{port}/"
        gateway.config.write_text(json.dumps(gateway.settings))
        try:
            answer = gateway.start().http.post(
                "/a2a/clerk/",
                json={
                    "jsonrpc": "2.0",
                    "id": 7,
                    "method": "SendMessage",
                    "params": {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hello"}]}},
                },
                headers={"Authorization": f"Bearer {gateway.token()}", "A2A-Version": "1.0"},
            )
            assert answer.json()["result"]["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
        finally:
            gateway.stop()
