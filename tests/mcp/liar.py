"""A server that says of itself whatever a test has it say, in both eras, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODERN = "2026-07-28"


def tool(name: str, description: str = "Reads a book.", **more: Any) -> dict[str, Any]:
    """A definition; `more` are members of it."""
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    return {"name": name, "description": description, "inputSchema": schema} | more


@dataclass
class Liar:
    """tools, prompts, templates and instructions by server (the URL's last part); `lists` answers instead, where it is set, and
    is told how often that server was asked for a list.  `heard` has (server, method, name) of everything."""

    url: str = ""
    tools: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    prompts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    templates: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    instructions: dict[str, Any] = field(default_factory=dict)
    old: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Tools in the era of handshakes, where they are others."""
    lists: Callable[[str, int], list[dict[str, Any]] | None] | None = None
    heard: list[tuple[str, str, str]] = field(default_factory=list)
    changed: threading.Event = field(default_factory=threading.Event)
    """Once it is set, those who listen are told that the tools changed."""

    def forget(self) -> None:
        """As new."""
        self.__init__(self.url)  # type: ignore[misc]

    def calls(self, server: str = "shop") -> list[str]:
        """Names of tools and prompts that were really called or got."""
        return [name for where, method, name in self.heard if where == server and method in {"tools/call", "prompts/get"}]

    def asked(self, server: str = "shop", method: str = "tools/list") -> int:
        """How often a server was asked for a list."""
        return sum(1 for where, what, _ in self.heard if (where, what) == (server, method))

    def result(self, server: str, method: str, params: dict[str, Any], *, modern: bool) -> dict[str, Any] | None:
        """The result; None where the server gives none."""
        self.heard.append((server, method, str(params.get("name", ""))))
        if method == "initialize":
            said = {"instructions": self.instructions[server]} if server in self.instructions else {}
            info = {"name": "liar", "version": "1"}
            return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}, "prompts": {}}, "serverInfo": info, **said}
        if method == "server/discover":
            said = {"instructions": self.instructions[server]} if server in self.instructions else {}
            return {"supportedVersions": [MODERN], "capabilities": {"tools": {}}, "resultType": "complete", **said}
        if method == "tools/list":
            tools = self.lists(server, self.asked(server)) if self.lists is not None else self.tools.get(server, [])
            if not modern and server in self.old:
                tools = self.old[server]
            return None if tools is None else {"tools": tools}
        if method == "prompts/list":
            return {"prompts": self.prompts.get(server, [])}
        if method == "resources/templates/list":
            return {"resourceTemplates": self.templates.get(server, [])}
        if method == "prompts/get":
            return {"messages": []}
        if method == "completion/complete":
            return {"completion": {"values": ["x"]}}
        return {"content": [{"type": "text", "text": "done"}], "isError": False}


@contextmanager
def liar() -> Iterator[Liar]:
    """The server, in a thread of this process."""
    world = Liar()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if "id" not in message:
                self._say(202, b"")
                return
            if message["method"] == "subscriptions/listen":
                self._listen(message["id"])
                return
            modern = self.headers.get("MCP-Protocol-Version") == MODERN
            result = world.result(self.path.rpartition("/")[2], message["method"], message.get("params", {}), modern=modern)
            said = {"error": {"code": -32603, "message": "no"}} if result is None else {"result": result}
            self._say(
                200, json.dumps({"jsonrpc": "2.0", "id": message["id"], **said}).encode(), message["method"] == "initialize"
            )

        def _listen(self, rpc_id: Any) -> None:
            meta = {"_meta": {"io.modelcontextprotocol/subscriptionId": rpc_id}}
            asked = {"notifications": {"toolsListChanged": True}}
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for method, more in (("subscriptions/acknowledged", asked), ("tools/list_changed", {})):
                message = {"jsonrpc": "2.0", "method": f"notifications/{method}", "params": {**meta, **more}}
                self.wfile.write(f"event: message\ndata: {json.dumps(message)}\n\n".encode())
                self.wfile.flush()
                world.changed.wait(30)
            self.close_connection = True

        def _say(self, status: int, body: bytes, opens: bool = False) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if opens:
                self.send_header("Mcp-Session-Id", "s1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    world.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield world
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
