"""`bailiwick serve` as a process, with upstreams around it that are scripted here and remember what reached them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from audit.reader import Ledger, Record

ROOT = Path(__file__).resolve().parents[2]
TENANT = "acme"
LEGACY, MODERN = "2025-11-25", "2026-07-28"
AGENTS = ("clerk", "courier", "hermit")
START_SECONDS = 60
TOKEN_SECONDS = 120

PEOPLE = """\
# p, who,           tenant, tool,          action, effect, when, must, id
p,   role:buyer,    acme,   set:open-desk, call,   allow,  -,    -,    BUY-1
p,   role:buyer,    acme,   vault.open,    call,   allow,  -,    -,    BUY-2
p,   role:buyer,    acme,   down.read,     call,   allow,  -,    -,    BUY-3
p,   role:buyer,    acme,   a2a:clerk,     send,   allow,  -,    -,    BUY-4
p,   role:marketer, acme,   a2a:clerk,     send,   allow,  -,    -,    MKT-1
"""
AGENT_GRANTS = """\
# p, who,         tenant, tool,      action, effect, when, must, id
p,   agent:clerk, acme,   desk.read, call,   allow,  -,    -,    AGT-1
"""
GUARDRAILS = """\
# p, who, tenant, tool,         action, effect,  when, must,        id
p,   *,   acme,   desk.account, call,   require, -,    redact-iban, SEC-1
p,   *,   acme,   desk.sign,    call,   require, -,    notarise,    SEC-2
"""
BUNDLE = {
    "grants/people.csv": PEOPLE,
    "grants/agents.csv": AGENT_GRANTS,
    "grants/guardrails.csv": GUARDRAILS,
    "roles.csv": "g, idp:procurement-managers, role:buyer, acme\ng, idp:marketing-managers, role:marketer, acme\n",
    "conditions.yaml": "{}\n",
    "obligations.yaml": "redact-iban: {type: redact-result, fields: [iban]}\nnotarise: {type: notary-stamp}\n",
    "tools.yaml": "tenants: [acme]\ntools:\n"
    + "".join(
        f"  {tool}: {{args: {{text: string}}, risk: low}}\n"
        for tool in ("desk.read", "desk.slow", "desk.account", "desk.sign", "desk.seal", "vault.open", "down.read", "shut.read")
    )
    + 'sets:\n  "set:open-desk": [desk.read, desk.slow, desk.account, desk.sign]\n',
}


@dataclass(frozen=True)
class Heard:
    """A request that reached an upstream."""

    path: str
    headers: Mapping[str, str]
    message: dict[str, Any]

    @property
    def trace(self) -> str:
        return self.headers["traceparent"].split("-")[1]


Script = Callable[[Heard], dict[str, Any]]


def done(text: str) -> dict[str, Any]:
    """A tool's plain result."""
    return {"content": [{"type": "text", "text": text}], "isError": False}


def plain(result: dict[str, Any]) -> dict[str, Any]:
    """A result without the caller's receipt, which is another each time (and has tests of its own)."""
    meta = {name: value for name, value in result.get("_meta", {}).items() if name != "bailiwick/receipt"}
    return {name: value for name, value in result.items() if name != "_meta"} | ({"_meta": meta} if meta else {})


@dataclass
class Peers:
    """MCP servers at `/mcp/<name>` and A2A agents at `/agents/<name>`, all in this process.

    tools    by `server.tool`: what it does and returns; else it says `done`.
    agents   by name: what an agent does before it answers with a completed task.
    heard    everything that came, in order.
    """

    port: int = 0
    tools: dict[str, Script] = field(default_factory=dict)
    agents: dict[str, Callable[[Heard], str]] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, trace: str) -> list[Heard]:
        """What came of one trace."""
        return [heard for heard in self.heard if heard.trace == trace]

    def answer(self, heard: Heard) -> dict[str, Any]:
        """The JSON-RPC answer to a request."""
        self.heard.append(heard)
        kind, name = heard.path.strip("/").split("/")
        method, params = heard.message["method"], heard.message.get("params", {})
        if kind == "agents":
            result = self._task(name, method, params, heard)
        elif method == "server/discover":
            result = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}, "resultType": "complete"}
        elif method == "tools/call":
            result = self.tools.get(f"{name}.{params['name']}", lambda _: done("done"))(heard)
        else:
            result = {"tools": [{"name": tool, "inputSchema": {"type": "object"}} for tool in ("read", "seal", "slow")]}
        return {"jsonrpc": "2.0", "id": heard.message["id"], "result": result}

    def _task(self, name: str, method: str, params: dict[str, Any], heard: Heard) -> dict[str, Any]:
        if method == "GetTask":
            return self.tasks[params["id"]]
        said = self.agents.get(name, lambda _: "done")(heard)
        task = {
            "id": str(uuid.uuid4()),
            "contextId": str(uuid.uuid4()),
            "status": {"state": "TASK_STATE_COMPLETED"},
            "artifacts": [{"artifactId": "1", "parts": [{"text": said}]}],
        }
        self.tasks[task["id"]] = task
        return {"task": task}


@contextmanager
def peers(world: Peers | None = None) -> Iterator[Peers]:
    """The upstreams, on a loopback port."""
    world = world or Peers()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = world.answer(Heard(self.path, headers, json.loads(body)))
            streams = isinstance(answer.get("result"), list) or "messages" in answer  # of events
            each = answer.get("messages") or (
                [{**answer, "result": event} for event in answer["result"]] if streams else [answer]
            )
            out = b"".join(b"data: %s\n\n" % json.dumps(one).encode() for one in each) if streams else json.dumps(answer).encode()
            try:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream" if streams else "application/json")
                self.send_header("Content-Length", str(len(out)))
                self.end_headers()
                self.wfile.write(out)
            except OSError:
                self.close_connection = True  # the gateway is gone

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


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Gateway:
    """A gateway's folder (settings, bundle, keys, ledger) and the process that serves it."""

    def __init__(self, folder: Path, peers: Peers, *, more: Mapping[str, Any] | None = None, name: str = "bailiwick") -> None:
        self.folder = folder
        self.config = folder / f"{name}.yaml"
        self.log = folder / f"{name}.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.public_url = self.url
        self.agent_secrets = {agent: f"bws_{agent}_{secrets.token_urlsafe(32)}" for agent in AGENTS}
        self.server_secret = secrets.token_urlsafe(32)
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._http: httpx.Client | None = None
        write_bundle(folder / "policies")
        (folder / "secret").write_text(self.server_secret)
        (folder / "secret").chmod(0o600)
        self.settings = self._settings(peers) | dict(more or {})
        self.config.write_text(json.dumps(self.settings))  # JSON is YAML

    def twin(self, name: str) -> Gateway:
        """A second process of the same installation: other port, same public URL, keys and stores."""
        other = object.__new__(Gateway)
        other.__dict__ |= self.__dict__
        other.config, other.log = self.folder / f"{name}.yaml", self.folder / f"{name}.log"
        other.port = free_port()
        other.url = f"http://127.0.0.1:{other.port}"
        other._process = other._reader = other._http = None
        other.settings = self.settings | {"server": {"port": other.port, "public_url": self.public_url}}
        other.config.write_text(json.dumps(other.settings))
        return other

    def _settings(self, peers: Peers) -> dict[str, Any]:
        base = f"http://127.0.0.1:{peers.port}"
        secret = {"Authorization": {"file": "secret", "prefix": "Bearer "}}
        issuer = {
            "alias": "dev",
            "issuer": f"{self.url}/dev",
            "audience": self.url,
            "jwks": {"file": "data/dev-jwks.json"},
            "algorithms": ["ES256"],
            "direct_clients": ["bailiwick-cli"],
            "development": True,
        }
        hashes = {agent: [hashlib.sha256(value.encode()).hexdigest()] for agent, value in self.agent_secrets.items()}
        return {
            "tenant": TENANT,
            "server": {"port": self.port, "public_url": self.public_url},
            "policy": {"require_tests": False},  # these tests are the bundle's, and change it as they like
            "ledger": {"origin": "test.invalid/acme"},
            "issuers": [issuer],
            "agents": {
                "clerk": {"url": f"{base}/agents/clerk", "auth": {"secret_sha256": hashes["clerk"]}},
                "courier": {"auth": {"secret_sha256": hashes["courier"]}},
                "hermit": {"url": f"{base}/agents/hermit", "auth": {"secret_sha256": hashes["hermit"]}},
            },
            "mcp": {
                "desk": {"url": f"{base}/mcp/desk", "headers": secret},
                "vault": {"url": f"{base}/mcp/vault"},
                "shut": {"url": f"{base}/mcp/shut"},
                "down": {"url": f"http://127.0.0.1:{free_port()}/mcp"},
            },
        }

    @property
    def ledger_file(self) -> Path:
        return self.folder / "data" / "ledger.db"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Gateway:
        """Start the process and wait until it is ready."""
        code = self.attempt()
        assert code is None, f"exit {code}: {self.log.read_text()[-3000:]}"
        ready = self.http.get("/readyz").json()
        assert (ready["ready"], ready["faults"]) == (True, {}), ready
        return self

    def attempt(self) -> int | None:
        """Start the process; its exit code where it ends instead of listening."""
        listening, said = threading.Event(), []
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("BAILIWICK_", "OTEL_"))}
        command = [sys.executable, "-m", "gateway.cli", "serve", "--config", str(self.config)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, cwd=ROOT
        )

        def read() -> None:
            assert process.stderr is not None
            with process.stderr as lines, self.log.open("ab") as log:
                for line in lines:
                    log.write(line)
                    log.flush()
                    if b" running on http" in line:
                        said.append(line)
                        listening.set()
            listening.set()

        self._process, self._reader = process, threading.Thread(target=read)
        self._reader.start()
        assert listening.wait(START_SECONDS)
        return None if said else self._ended()

    def stop(self) -> int:
        """End it as an operator does."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """End it as a power cut does."""
        return self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(how)
        return self._ended()

    def _ended(self) -> int:
        assert self._process is not None
        assert self._reader is not None
        try:
            code = self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        finally:
            self._reader.join()
            if self._http is not None:
                self._http.close()
        self._process = self._http = None
        return code

    def token(self, person: str = "paul") -> str:
        """A fresh access token: the start of a workflow of its own."""
        answer = self.http.post("/dev/token", data={"user": person})
        return str(answer.raise_for_status().json()["access_token"])

    def keeper(self, person: str = "paul") -> Callable[[], str]:
        """Gives tokens of the person, to any thread; asks for a new one only when the last one is getting old."""
        kept: list[tuple[float, str]] = []

        def token() -> str:
            if not kept or time.monotonic() - kept[-1][0] > TOKEN_SECONDS:
                answer = httpx.post(f"{self.url}/dev/token", data={"user": person}, trust_env=False, timeout=60)
                kept.append((time.monotonic(), str(answer.raise_for_status().json()["access_token"])))
            return kept[-1][1]

        return token

    @property
    def http(self) -> httpx.Client:
        """Plain HTTP to this process."""
        if self._http is None:
            self._http = httpx.Client(base_url=self.url, trust_env=False, verify=False, timeout=60)
        return self._http

    def post(self, path: str, message: dict[str, Any], headers: Mapping[str, str]) -> httpx.Response:
        """One JSON-RPC message."""
        return self.http.post(path, json=message, headers=dict(headers))

    def call(self, tool: str, credential: str | None, *, version: str = LEGACY, trace: str = "", **more: Any) -> httpx.Response:
        """Call `server.tool`; `more` are further headers by name, and `arguments`.

        `capabilities` are what a client of the stateless era declares, `params` what else it says.
        """
        server, name = tool.split(".")
        arguments, capabilities = more.pop("arguments", {"text": "hello"}), more.pop("capabilities", {})
        params: dict[str, Any] = {"name": name, "arguments": arguments} | more.pop("params", {})
        headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": version}
        if version == MODERN:
            headers |= {"Mcp-Method": "tools/call", "Mcp-Name": name}
            prefix = "io.modelcontextprotocol/"
            params["_meta"] = {f"{prefix}protocolVersion": version, f"{prefix}clientCapabilities": capabilities}
        headers |= _frame(credential, trace) | more
        return self.post(f"/mcp/{server}", {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}, headers)

    def send(self, agent: str, credential: str | None, text: str = "hello", *, trace: str = "", **more: str) -> httpx.Response:
        """Send a message to an agent."""
        message = {"messageId": str(uuid.uuid4()), "role": "ROLE_USER", "parts": [{"text": text}]}
        return self.ask(agent, "SendMessage", {"message": message}, credential, trace=trace, **more)

    def ask(
        self, agent: str, method: str, params: dict[str, Any], credential: str | None, *, trace: str = "", **more: str
    ) -> httpx.Response:
        """Any A2A operation."""
        headers = {"A2A-Version": "1.0"} | _frame(credential, trace) | more
        return self.post(f"/a2a/{agent}/", {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}, headers)

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The ledger, to be read with the key that opens its values."""
        key = base64.b64decode((self.folder / "data" / "seal-key").read_text())
        url = self.settings["ledger"].get("url") or f"sqlite:///{self.ledger_file}"
        with Ledger.open(url, key) as log:
            yield log

    def records(self, **fields: str) -> list[Record]:
        """Every record whose leaf has these fields."""
        with self.ledger() as log:
            return [record for record in log.records() if all(record.leaf.get(key) == value for key, value in fields.items())]

    def opened(self, record: Record, name: str) -> bytes:
        """A sealed value in clear."""
        with self.ledger() as log:
            value = log.open_value(record, name)
            assert isinstance(value, bytes)
            return value

    def audit(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`bailiwick audit WORDS --config …`; what is sealed is opened, for a reason."""
        words += ("--reason", "a test") if words[0] in {"show", "trace", "tail"} else ()
        command = [sys.executable, "-m", "gateway.cli", "audit", *words, "--config", str(self.config)]
        environment = os.environ | {"COLUMNS": "240", "NO_COLOR": "1"}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=ROOT)


def _frame(credential: str | None, trace: str) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {credential}"} if credential is not None else {}
    return headers | ({"traceparent": f"00-{trace}-00f067aa0ba902b7-01"} if trace else {})


def write_bundle(folder: Path) -> None:
    """The bundle of these tests, on the shipped model."""
    if folder.exists():
        return
    (folder / "grants").mkdir(parents=True)
    shutil.copy(ROOT / "policies" / "default" / "model.conf", folder)
    for name, text in BUNDLE.items():
        (folder / name).write_text(text)


def new_trace() -> str:
    """A trace id of one's own: by it a test finds what is its."""
    return secrets.token_hex(16)
