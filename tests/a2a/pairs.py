"""The reference agent twice, as processes: once asked directly, once behind `bailiwick serve`; and a webhook that both reach."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.a2a.world import reference_agent_at
from tests.interaction.world import ROOT, TENANT, Gateway, Peers, free_port

KINDS: Mapping[str, tuple[str, ...]] = {"full": ("--extended",), "minimal": ("--no-push", "--no-stream"), "auth": ("--auth",)}
"""The agents, by name, and how each is started."""
REACHED = ("full-rest", "full-grpc")
"""The full one once more, reached by the gateway over another binding than JSON-RPC."""
SIDES = ("direct", "through")
SECONDS = 30


@dataclass
class Hook:
    """A webhook at `http://localhost:<port>/<key>`, which takes everything and remembers it by key."""

    port: int = 0
    came: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    grown: threading.Condition = field(default_factory=threading.Condition)

    def url(self, key: str) -> str:
        return f"http://localhost:{self.port}/{key}"

    def take(self, key: str, news: dict[str, Any]) -> None:
        with self.grown:
            self.came.setdefault(key, []).append(news)
            self.grown.notify_all()

    def until(self, key: str, task: str) -> list[dict[str, Any]]:
        """What came under the key of a task, once it is over; what there is after a while otherwise."""
        with self.grown:
            self.grown.wait_for(lambda: any(_completed(news["body"]) for news in self._of(key, task)), SECONDS)
            return self._of(key, task)

    def _of(self, key: str, task: str) -> list[dict[str, Any]]:
        return [news for news in self.came.get(key, ()) if task in json.dumps(news["body"])]


def _completed(event: dict[str, Any]) -> bool:
    return any(each.get("status", {}).get("state") == "TASK_STATE_COMPLETED" for each in event.values())


@contextmanager
def hook() -> Iterator[Hook]:
    """A webhook that is listening."""
    found = Hook()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            shown = {name: self.headers[name] for name in ("Authorization", "X-A2A-Notification-Token", "Content-Type")}
            found.take(self.path.removeprefix("/"), {"headers": shown, "body": body})
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    found.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Sending(Gateway):
    """`bailiwick serve` in front of agents (by name, their settings), to all of whom every buyer may send."""

    def __init__(self, folder: Path, agents: Mapping[str, Mapping[str, Any]], *, webhooks: tuple[str, ...]) -> None:
        self._agents = agents
        self._webhooks = webhooks
        _bundle(folder / "policies", tuple(agents))
        super().__init__(folder, Peers(port=free_port()))

    def door(self, agent: str) -> str:
        """Where an agent is served over gRPC."""
        return f"127.0.0.1:{self.settings['a2a']['grpc']['agents'][agent]['port']}"

    def _settings(self, peers: Peers) -> dict[str, Any]:
        agents = {name: dict(said) for name, said in self._agents.items()}
        doors = {name: {"port": free_port()} for name in agents}
        more = {"agents": agents, "mcp": {}, "push": {"private": list(self._webhooks)}, "a2a": {"grpc": {"agents": doors}}}
        return super()._settings(peers) | more


def _bundle(folder: Path, agents: tuple[str, ...]) -> None:
    (folder / "grants").mkdir(parents=True)
    shutil.copy(ROOT / "policies" / "default" / "model.conf", folder)
    rows = [f"p, role:buyer, {TENANT}, a2a:{agent}, send, allow, -, -, SEND-{n}\n" for n, agent in enumerate(agents)]
    files = {
        "grants/all.csv": "".join(rows),
        "roles.csv": f"g, idp:procurement-managers, role:buyer, {TENANT}\n",
        "conditions.yaml": "{}\n",
        "obligations.yaml": "{}\n",
        "tools.yaml": json.dumps({"tenants": [TENANT], "tools": {}, "sets": {}}),
    }
    for name, text in files.items():
        (folder / name).write_text(text)


@dataclass(frozen=True)
class Side:
    """One way to an agent: its base URL, the header that lets a client in, and where gRPC is."""

    name: str
    url: str
    headers: Mapping[str, str]
    grpc: str = ""


@dataclass(frozen=True)
class Pairs:
    """By kind of agent, both ways to one."""

    gateway: Gateway
    hook: Hook
    sides: Mapping[str, Mapping[str, Side]]
    keeper: Callable[[], str]

    def token(self) -> dict[str, str]:
        """A header with a token for the gateway, which is not old."""
        return {"authorization": f"Bearer {self.keeper()}"}

    def side(self, kind: str, name: str) -> Side:
        """A way, with a credential that has just been made."""
        found = self.sides[kind][name]
        return found if name == "direct" else replace(found, headers=self.token())


@contextmanager
def pairs(folder: Path) -> Iterator[Pairs]:
    """Both ways to an agent of every kind; the two agents of a kind know nothing of one another."""
    with ExitStack() as stack:
        direct, behind = (
            {kind: stack.enter_context(reference_agent_at("--grpc", *arguments)) for kind, arguments in KINDS.items()}
            for _ in SIDES
        )
        webhook = stack.enter_context(hook())
        (folder / "agent-secret").write_text("gateway")
        (folder / "agent-secret").chmod(0o600)
        agents: dict[str, dict[str, Any]] = {kind: {"url": url} for kind, (url, *_) in behind.items()}
        url, grpc = behind["full"]
        agents["full-rest"] = {"url": f"{url}/a2a/rest", "binding": "rest"}
        agents["full-grpc"] = {"url": f"grpc://{grpc}", "card_url": f"{url}/.well-known/agent-card.json"}
        # a credential of the gateway's own: the delegation token then travels in a header of another name
        agents["auth"] |= {
            "headers": {"Authorization": {"file": "agent-secret", "prefix": "Bearer "}},
            "delegation_header": "Txn-Token",
        }
        running = Sending(folder, agents, webhooks=(f"localhost:{webhook.port}",)).start()
        stack.callback(running.stop)
        asked = {"full": {}, "minimal": {}, "auth": {"authorization": "Bearer paul"}}
        sides = {kind: {"direct": Side("direct", direct[kind][0], asked[kind], direct[kind][1])} for kind in KINDS}
        sides |= {kind: {"direct": sides["full"]["direct"]} for kind in REACHED}
        for kind, ways in sides.items():
            ways["through"] = Side("through", f"{running.url}/a2a/{kind}/", {}, running.door(kind))
        yield Pairs(running, webhook, sides, running.keeper())
