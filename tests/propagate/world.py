"""Servers on real sockets that remember what they were shown, and tokens that look like delegations."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def token(name: str, typ: str = "wf-dt+jwt") -> str:
    """By its own word a delegation; the signature is nobody's."""
    head, body = ({"typ": typ, "alg": "ES256"}, {"sub": name})
    return ".".join(base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=") for each in (head, body, name))


@dataclass
class Server:
    """Answers everything with `{}`, or sends to `elsewhere`."""

    url: str = ""
    heard: list[dict[str, str]] = field(default_factory=list)
    elsewhere: str = ""
    status: int = 307


@contextmanager
def server() -> Iterator[Server]:
    """One on a loopback port."""
    world = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            world.heard.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(world.status if world.elsewhere else 200)
            if world.elsewhere:
                self.send_header("Location", world.elsewhere)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_GET  # noqa: N815  the base class's name

        def log_message(self, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.block_on_close = False
    world.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield world
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
