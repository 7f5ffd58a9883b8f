"""An MCP server of one era alone, in the standard library: starts in a blink, and does what its tools and /control say.

`--era legacy` insists on sessions, `--era modern` knows no handshake.  Prints `ready PORT`.
"""

from __future__ import annotations

import argparse
import json
import queue
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

MODERN, LEGACY = "2026-07-28", "2025-11-25"
LONG = "a_tool_whose_name_is_as_long_as_a_name_may_be_in_most_of_the_apis"[:64]
ODD = "naïve.name/with spaces"


PLAIN: dict[str, Any] = {"type": "object"}
HEADED = {"headed": {**PLAIN, "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}}


class World:
    """What the server knows; `hang` makes it silent, `sessions` holds what each of them remembers."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.era: str = options.era
        self.name: str = options.name
        self.hang = options.hang
        self.sessions: dict[str, dict[str, Any]] = {}
        self.heard: list[dict[str, Any]] = []
        self.go_on = threading.Event()
        self.waiting = threading.Event()
        self.cancelled: list[Any] = []
        self.streams: list[queue.Queue[Any]] = []
        self.subscribed: list[str] = []
        self.subscribes = True
        self.rest: list[dict[str, Any]] = []
        self.resumes = 0
        self.resumed: list[str] = []
        self.page = options.page
        self.circle = options.circle
        self.uris: list[str] = options.uri
        names = [
            "echo",
            "remember",
            "recall",
            "progress",
            "wait",
            "link",
            "headed",
            "ask",
            "forget",
            "broken",
            LONG,
            ODD,
            *options.tool,
        ]
        self.tools = [*names, *(f"tool_{n:04}" for n in range(options.tools))]

    def result(self, method: str, params: dict[str, Any], session: dict[str, Any], headers: dict[str, str]) -> Any:
        if method == "tools/list":
            return self._paged(
                "tools",
                [{"name": name, "inputSchema": HEADED.get(name, PLAIN), "x-mine": {"of": self.name}} for name in self.tools],
                params,
            )
        if method == "resources/list":
            return {"resources": [{"uri": uri, "name": f"{uri} of {self.name}"} for uri in self.uris]}
        if method == "resources/templates/list":
            return {"resourceTemplates": [{"uriTemplate": f"{self.name}://item/{{id}}", "name": "item"}]}
        if method == "resources/read":
            return {"contents": [{"uri": params["uri"], "text": f"of {self.name}"}]}
        if method == "prompts/list":
            return {"prompts": [{"name": "hello", "arguments": [{"name": "whom"}]}, {"name": LONG}]}
        if method == "prompts/get":
            return {"messages": [{"role": "user", "content": {"type": "text", "text": f"{params['name']} of {self.name}"}}]}
        if method == "completion/complete":
            return {"completion": {"values": [json.dumps(params["ref"])]}}
        if method == "resources/subscribe":
            self.subscribed.append(params["uri"])
        if method in {"ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"}:
            return {}
        if method == "tools/call":
            return self._call(params, session, headers)
        return None

    def _paged(self, member: str, items: list[Any], params: dict[str, Any]) -> dict[str, Any]:
        if self.circle:
            return {member: items[:1], "nextCursor": "again"}
        if not self.page:
            return {member: items, "ttlMs": 20_000, "cacheScope": "public"}
        at = int(params.get("cursor", "0"))
        more = {"nextCursor": str(at + self.page)} if at + self.page < len(items) else {}
        return {member: items[at : at + self.page], **more}

    def _call(self, params: dict[str, Any], session: dict[str, Any], headers: dict[str, str]) -> Any:
        name, arguments = params["name"], params.get("arguments", {})
        said: dict[str, Any] = {}
        if name == "remember":
            session["kept"] = arguments["what"]
        elif name == "recall":
            said["kept"] = session.get("kept")
        elif name == "link":
            return {"content": [{"type": "resource_link", "uri": arguments["uri"], "name": "linked"}]}
        elif name == "wait":
            self.waiting.set()
            self.go_on.wait(30)
            said["cancelled"] = self.cancelled
        elif name == "forget":
            self.sessions.clear()
        elif name == "ask":
            asked = {
                "method": "elicitation/create",
                "params": {"mode": "form", "message": "Sure?", "requestedSchema": {"type": "object", "properties": {}}},
            }
            return {"resultType": "input_required", "inputRequests": {"sure": asked}, "requestState": "s1"}
        elif name in self.tools:
            said |= {"of": self.name, "name": name, "params": params, "headers": headers}
        else:
            return None
        return {"content": [{"type": "text", "text": json.dumps(said)}], "structuredContent": said}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    world: World

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if not self.path.startswith("/control"):
            if self.world.era == "legacy" and self.headers.get("mcp-session-id") in self.world.sessions:
                last = self.headers.get("last-event-id")
                self._stream(None) if last is None else self._resume(last)
            else:
                self._say(405, None)
            return
        said = {name: json.loads(values[0]) for name, values in parse_qs(urlsplit(self.path).query).items()}
        if said.pop("waiting", False):
            self.world.waiting.wait(30)
        for stream in list(self.world.streams):
            for one in [*said.get("say", []), *([None] if said.get("cut") else [])]:
                stream.put(one)
        said = {name: value for name, value in said.items() if name not in {"say", "cut"}}
        for name, value in said.items():
            setattr(self.world, name, value)
        if said.get("hang") is False:
            self.world.go_on.set()
        self._say(
            200,
            {
                "heard": self.world.heard,
                "sessions": len(self.world.sessions),
                "streams": len(self.world.streams),
                "subscribed": self.world.subscribed,
                "resumed": self.world.resumed,
            },
        )
        self.world.heard = []

    def do_POST(self) -> None:
        world, headers = self.world, {name.lower(): value for name, value in self.headers.items()}
        message = json.loads(self.rfile.read(int(headers["content-length"])))
        world.heard.append(
            {"method": message["method"], "params": message.get("params"), "id": message.get("id"), "headers": headers}
        )
        if world.hang:
            world.go_on.wait(60)
        if message["method"] == "notifications/cancelled":
            world.cancelled.append(message["params"]["requestId"])
        if "id" not in message:
            self._say(202, None)
        elif world.era == "modern":
            self._modern(message, headers)
        else:
            self._legacy(message, headers)

    def _modern(self, message: dict[str, Any], headers: dict[str, str]) -> None:
        if headers.get("mcp-protocol-version") != MODERN:
            self._error(400, message, -32022, "Unsupported protocol version", {"supported": [MODERN], "requested": LEGACY})
            return
        params = message["params"]
        named = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}.get(message["method"])
        if headers.get("mcp-method") != message["method"] or (
            named and headers.get("mcp-name") != params[named] and "=?base64?" not in headers.get("mcp-name", "")
        ):
            self._error(400, message, -32020, "Header mismatch")
            return
        if named and params[named] == "headed" and headers.get("mcp-param-region") != params["arguments"]["region"]:
            self._error(400, message, -32020, "Header mismatch")
            return
        if message["method"] == "subscriptions/listen":
            self._stream(message)
            return
        if message["method"] == "server/discover":
            result: Any = {
                "supportedVersions": [MODERN],
                "capabilities": self._capabilities(),
                "instructions": f"Say hello to {self.world.name}.",
                "ttlMs": 60_000,
                "cacheScope": "public",
            }
        else:
            result = self.world.result(message["method"], params, {}, headers)
        self._result(message, None if result is None else {"resultType": "complete", **result})

    def _legacy(self, message: dict[str, Any], headers: dict[str, str]) -> None:
        if headers.get("mcp-protocol-version", LEGACY) != LEGACY:
            self._error(400, message, -32600, "Bad Request: Unsupported protocol version")
            return
        if message["method"] == "initialize":
            session = secrets.token_hex(8)
            self.world.sessions[session] = {}
            result = {
                "protocolVersion": LEGACY,
                "capabilities": self._capabilities(),
                "serverInfo": {"name": self.world.name, "version": "1"},
                "instructions": f"Say hello to {self.world.name}.",
            }
            self._result(message, result, (("Mcp-Session-Id", session),))
            return
        own = self.world.sessions.get(headers.get("mcp-session-id", ""))
        if own is None:
            self._error(404 if "mcp-session-id" in headers else 400, message, -32600, "Session not found")
            return
        if message["method"] == "tools/call" and message["params"]["name"] in {"progress", "broken"}:
            (self._progress if message["params"]["name"] == "progress" else self._broken)(message)
            return
        self._result(message, self.world.result(message["method"], message["params"], own, headers))

    def _capabilities(self) -> dict[str, Any]:
        return {
            "tools": {"listChanged": True},
            "prompts": {},
            "resources": {"subscribe": True} if self.world.subscribes else {},
            "completions": {},
            "experimental": {"x": {}},
        }

    def do_DELETE(self) -> None:
        self.world.sessions.pop(self.headers.get("mcp-session-id", ""), None)
        self._say(204, None)

    def _stream(self, listen: dict[str, Any] | None) -> None:
        """A stream for notices, until /control cuts it, or nobody reads it any more."""
        waiting: queue.Queue[Any] = queue.Queue()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        meta: dict[str, Any] = {}
        if listen is not None:
            meta = {"_meta": {"io.modelcontextprotocol/subscriptionId": listen["id"]}}
            asked = listen["params"]["notifications"]
            self._event({"method": "notifications/subscriptions/acknowledged", "params": {"notifications": asked, **meta}})
        self.world.streams.append(waiting)
        try:
            while True:
                try:
                    said = waiting.get(timeout=0.1)
                except queue.Empty:
                    self.wfile.write(b":\n\n")
                    self.wfile.flush()
                    continue
                if said is None:
                    break
                self._event({**said, "params": {**said.get("params", {}), **meta}})
            if listen is not None:
                self._event({"id": listen["id"], "result": {"resultType": "complete", **meta}})
        except OSError:
            pass
        finally:
            self.world.streams.remove(waiting)

    def _event(self, said: dict[str, Any]) -> None:
        self.wfile.write(b"event: message\ndata: " + json.dumps({"jsonrpc": "2.0", **said}).encode() + b"\n\n")
        self.wfile.flush()

    def _progress(self, message: dict[str, Any]) -> None:
        token = message["params"].get("_meta", {}).get("progressToken")
        notices = [
            {"method": "notifications/progress", "params": {"progressToken": token, "progress": n, "total": 2}} for n in (1, 2)
        ]
        notices.append({"method": "notifications/message", "params": {"level": "info", "data": "on the way"}})
        answer = {"id": message["id"], "result": {"content": [{"type": "text", "text": "progressed"}]}}
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for said in [*notices, answer]:
            self.wfile.write(b"event: message\ndata: " + json.dumps({"jsonrpc": "2.0", **said}).encode() + b"\n\n")
            self.wfile.flush()
        self.close_connection = True

    def _broken(self, message: dict[str, Any]) -> None:
        """A stream that is closed before the answer; the rest is for whoever resumes it, the second time."""
        text = {"type": "text", "text": "mended"}
        token = message["params"].get("_meta", {}).get("progressToken")
        self.world.rest = [{"id": message["id"], "result": {"content": [text]}}]
        self._events(
            [("1", {}), ("2", {"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}})], retry=20
        )
        self.world.resumes = 0

    def _events(self, events: list[tuple[str, dict[str, Any]]], retry: int = 0) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.wfile.write(b":\n\n")
        for name, said in events:
            data = json.dumps({"jsonrpc": "2.0", **said}) if said else ""
            more = f"retry: {retry}\n" if retry else ""
            self.wfile.write(f"id: {name}\n{more}data: {data}\n\n".encode())
        self.wfile.flush()

    def _resume(self, last: str) -> None:
        self.world.resumes += 1
        self.world.resumed.append(last)
        self._events([("3", said) for said in self.world.rest] if self.world.resumes > 1 else [])

    def _result(self, message: dict[str, Any], result: Any, headers: tuple[tuple[str, str], ...] = ()) -> None:
        if result is None:
            self._error(200, message, -32601 if message["method"] != "tools/call" else -32602, "Unknown")
            return
        self._say(200, {"jsonrpc": "2.0", "id": message["id"], "result": result}, headers)

    def _error(self, status: int, message: dict[str, Any], code: int, text: str, data: Any = None) -> None:
        error = {"code": code, "message": text} | ({"data": data} if data else {})
        self._say(status, {"jsonrpc": "2.0", "id": message["id"], "error": error})

    def _say(self, status: int, body: Any, headers: tuple[tuple[str, str], ...] = ()) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--era", default="legacy")
    parser.add_argument("--name", default="plain")
    parser.add_argument("--hang", action="store_true")
    parser.add_argument("--page", type=int, default=0)
    parser.add_argument("--circle", action="store_true")
    parser.add_argument("--tools", type=int, default=0)
    parser.add_argument("--tool", action="append", default=[])
    parser.add_argument("--uri", action="append", default=[])
    Handler.world = World(parser.parse_args())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print("ready", server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
