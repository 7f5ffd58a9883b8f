"""`check --live`: whether a running gateway is ready, by its own word."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gateway.cli import check

from .conftest import Run

READY = b'{"ready": true, "faults": {}}'

Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that answers everything alike, and gives its URL; `asked` holds the paths that it was asked for."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []
    end = threading.Event()

    def start(status: int = 200, body: bytes = READY, *, asked: list[str] | None = None, whole: bool = True) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if asked is not None:
                    asked.append(self.path)
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(body) + (not whole)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    return  # the other side has read enough
                if not whole:
                    end.wait()

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    end.set()
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no settings here


def test_a_gateway_that_is_ready_is_fine_and_no_settings_are_read(run: Run, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "bailiwick.yaml").write_text("nonsense: [")
    asked: list[str] = []
    url = serve(asked=asked)
    ran = run("check", "--live", url)
    assert (ran.code, ran.out.strip()) == (0, f"{url}: ready")
    assert run("check", "--live", url + "/", "--json").json == {"ok": True, "problems": []}
    assert asked == ["/readyz", "/readyz"]


def test_what_keeps_a_gateway_from_working_is_shown(run: Run, serve: Serve) -> None:
    url = serve(503, b'{"ready": false, "faults": {"ledger": "disk full\\u001b[31m", "state": "gone"}}')
    ran = run("check", "--live", url)
    assert ran.code == 1
    assert f"{url}/readyz: ledger: disk full\\x1b[31m" in ran.out
    assert "state: gone" in ran.out
    found = run("check", "--live", url, "--json")
    assert found.code == 1
    assert [p["code"] for p in found.json["problems"]] == ["not-ready"] * 2


def test_a_gateway_that_is_not_there_is_not_ready(run: Run, serve: Serve) -> None:
    ran = run("check", "--live", "http://127.0.0.1:1", "--json")
    assert (ran.code, [p["code"] for p in ran.json["problems"]]) == (1, ["not-reachable"])


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, READY),
        (200, b'{"ready": false, "faults": {}}'),
        (200, b'{"ready": 1, "faults": {}}'),
        (200, b'{"ready": true}'),
        (200, b"ok"),
        (200, b"[" * 50_000),
        (200, b" " * 100_000 + READY),
        (302, b""),
        (404, b'{"title": "not-found"}'),
    ],
)
def test_whatever_else_answers_is_not_ready(status: int, body: bytes, run: Run, serve: Serve) -> None:
    asked: list[str] = []
    assert run("check", "--live", serve(status, body, asked=asked)).code == 1
    assert asked == ["/readyz"]  # a redirect is not followed


def test_an_answer_that_does_not_end_is_not_waited_for(run: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "LIVE_SECONDS", 0.2)
    ran = run("check", "--live", serve(whole=False), "--json")
    assert (ran.code, [p["code"] for p in ran.json["problems"]]) == (1, ["not-reachable"])


def test_a_proxy_of_the_environment_is_not_asked(run: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert run("check", "--live", serve()).code == 0


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8080",
        "ftp://127.0.0.1/",
        "http://",
        "http://:8080",
        "http://127.0.0.1:0",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:port",
        "http://paul:secret@127.0.0.1",
        "http://127.0.0.1/?x=1",
        "http://127.0.0.1/#x",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\n",
        "http://[::1",
        "http://bürger.example",
    ],
)
def test_a_malformed_url_is_misuse(url: str, run: Run) -> None:
    ran = run("check", "--live", url)
    assert ran.code == 2
    assert "secret" not in ran.out + ran.err
