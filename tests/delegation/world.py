"""A gateway, and agents behind it as processes of their own; who may what is one bundle for all these tests."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from audit.reader import Ledger
from gateway.identity.delegation import Delegations
from gateway.model import Principal, new_id, wall_clock
from tests.interaction.world import ROOT, TENANT, Gateway, Peers, free_port

DESK = Path(__file__).with_name("desk_server.py")
CHAIN = ("intake", "planner", "buyer", "booker")
BESIDE = "checker"
UNCHANGED = "relic"
"""It passes on no token; the settings say that the trace may stand for it."""
AGENTS = (*CHAIN, BESIDE, UNCHANGED)
UNUSED = "fossil"
"""One more like it, that nobody is asked through."""
TOLD = {agent: (sys.executable, str(DESK.with_name("told_agent.py"))) for agent in AGENTS}
TOOLS = ("desk.read", "desk.note", "desk.seal", "desk.proven")

# paul may all; mia may ask every agent, note little, and not seal; fiona may not ask booker
GRANTS = """\
p, role:buyer,      acme, a2a:*,       send,  allow, -, -, BUY-1
p, role:buyer,      acme, desk.*,      call,  allow, -, -, BUY-2
p, role:marketer,   acme, a2a:*,       send,  allow, -, -, MKT-1
p, role:marketer,   acme, desk.read,   call,  allow, -, -, MKT-2
p, role:marketer,   acme, desk.note,   call,  allow, small, -, MKT-3
p, role:controller, acme, a2a:intake,  send,  allow, -, -, FIN-1
p, role:controller, acme, a2a:planner, send,  allow, -, -, FIN-2
p, role:controller, acme, a2a:buyer,   send,  allow, -, -, FIN-3
p, role:controller, acme, a2a:checker, send,  allow, -, -, FIN-4
p, role:controller, acme, desk.*,      call,  allow, -, -, FIN-5
p, agents:told,     acme, a2a:*,       send,  allow, -, -, AGT-1
p, agents:told,     acme, desk.read,   call,  allow, -, -, AGT-2
p, agents:told,     acme, desk.note,   call,  allow, -, -, AGT-7
p, agents:told,     acme, desk.seal,   relay, allow, -, -, AGT-3
p, agent:intake,    acme, desk.seal,   call,  allow, -, -, AGT-4
p, agent:booker,    acme, desk.seal,   call,  allow, -, -, AGT-5
p, agents:told,     acme, desk.proven, call,  allow, -, -, AGT-6
p, role:controller, acme, admin:kills, change, allow, -, -, FIN-6
p, *,               acme, desk.proven, call,  deny,  only-joined, -, SEC-1
"""
ROLES = """\
g, idp:procurement-managers, role:buyer,      acme
g, idp:marketing-managers,   role:marketer,   acme
g, idp:finance-controllers,  role:controller, acme
"""
CONDITIONS = {
    "small": {"if": 'args.text == "little"', "say": "little notes"},
    "only-joined": {"if": 'agent.assurance == "correlated"', "say": "the chain is correlated, not proven"},
}


def who(person: str, *agents: str) -> tuple[str, ...]:
    """A chain as the ledger has it."""
    return (f"user:dev/{person}", *(f"agent:{agent}" for agent in agents))


class Hop(NamedTuple):
    """One call as the ledger has it; `who` is the chain, person first."""

    id: str
    who: tuple[str, ...]
    what: str
    kind: str
    caused_by: str
    method: str
    assurance: str
    reason: str


class Chained(Gateway):
    """`bailiwick serve` with these agents; `urls` says where each of them is, once they are there."""

    def __init__(self, folder: Path, desk: str, agents: Sequence[str]) -> None:
        """`desk` is where the tool server is."""
        self._agents, self.desk = agents, desk
        bundle = folder / "policies"
        (bundle / "grants").mkdir(parents=True)
        shutil.copy(ROOT / "policies" / "default" / "model.conf", bundle)
        files = {
            "grants/all.csv": GRANTS,
            "roles.csv": ROLES + "".join(f"g, agent:{agent}, agents:told, acme\n" for agent in agents),
            "conditions.yaml": json.dumps(CONDITIONS),
            "obligations.yaml": "{}\n",
            "tools.yaml": json.dumps(
                {"tenants": [TENANT], "tools": {tool: {"args": {"text": "string"}, "risk": "low"} for tool in TOOLS}, "sets": {}}
            ),
        }
        for name, text in files.items():
            (bundle / name).write_text(text)
        super().__init__(folder, Peers(port=free_port()))

    def _settings(self, peers: Peers) -> dict[str, Any]:
        self.agent_secrets |= {agent: f"bws_{agent}_{secrets.token_urlsafe(32)}" for agent in (*self._agents, UNUSED)}
        settings = super()._settings(peers)
        settings["agents"] = {agent: {"auth": self._auth(agent)} for agent in (*self._agents, UNUSED)}
        settings["agents"][UNUSED]["url"] = self.desk
        self.key = ec.generate_private_key(ec.SECP256R1())
        (self.folder / "delegations.pem").write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (self.folder / "delegations.pem").chmod(0o600)
        settings["delegation"] = {"key": {"file": "delegations.pem"}}
        self.grpc = {agent: f"127.0.0.1:{free_port()}" for agent in self._agents}
        served = {agent: {"port": int(at.rpartition(":")[2])} for agent, at in self.grpc.items()}
        settings["a2a"] = {"grpc": {"agents": served}}
        settings["mcp"] = {"desk": {"url": f"{self.desk}mcp"}}
        return settings

    def _auth(self, agent: str) -> dict[str, Any]:
        digest = hashlib.sha256(self.agent_secrets[agent].encode()).hexdigest()
        return {"secret_sha256": [digest]} | ({"trace_ok": True} if agent in {UNCHANGED, UNUSED} else {})

    def at(self, addresses: Mapping[str, tuple[str, ...]]) -> Self:
        """Where the agents are; the one beside the chain is reached over gRPC."""
        for agent, (http, *grpc) in addresses.items():
            where = {"url": f"http://{http}/"}
            if agent == BESIDE:
                where = {"url": f"grpc://{grpc[0]}", "card_url": f"http://{http}/.well-known/agent-card.json"}
            self.settings["agents"][agent] |= where
        self.config.write_text(json.dumps(self.settings))
        return self

    def told(self, person: str, agent: str, plan: Mapping[str, Any], binding: str = "JSONRPC") -> tuple[str, Any]:
        """A person tells an agent what to do: the workflow, and the agent's answer, or the error."""
        headers = {"authorization": f"Bearer {self.token(person)}", "a2a-version": "1.0"}
        message = {"messageId": secrets.token_hex(8), "role": "ROLE_USER", "parts": [{"data": plan}]}
        path, body = f"/a2a/{agent}/rest/message:send", {"message": message}
        if binding == "JSONRPC":
            path, body = f"/a2a/{agent}/", {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
        answer = self.http.post(path, json=body, headers=headers)
        said = answer.json()
        said = said.get("result", said)
        workflow = answer.headers.get("bailiwick-workflow", "")
        return workflow, said["task"]["artifacts"][0]["parts"][0]["data"] if "task" in said else said

    def delegation(self, agent: str, age: int = 0) -> str:
        """As the gateway would have minted it for paul so many seconds ago."""
        at = wall_clock() - age * 1_000_000
        ends = at // 1_000_000 + 3600
        paul = Principal(
            subject="user:dev/paul", actors=(), tenant=TENANT, workflow=f"wf-{secrets.token_hex(13)}", ends=ends,
            method="bearer", credential="0" * 64, groups=frozenset({"procurement-managers"}),
        )  # fmt: skip
        return Delegations(self.key, self.url, clock=lambda: at).mint(paul, agent, new_id(at))

    def sealed(self) -> list[str]:
        """What the tool at the end really did, asked past the gateway."""
        found: list[str] = httpx.get(f"{self.desk}sealed", trust_env=False).json()
        return found

    def hops(self, workflow: str, *methods: str) -> list[Hop]:
        """What the ledger says of a workflow's calls of these methods, allowed and refused, in its order."""
        with self.ledger() as log:
            return [
                Hop(record.id, tuple(self._named(log, link) for link in leaf["chain"]), leaf["resource"], record.kind,
                    leaf["caused_by"], leaf["auth"]["method"], leaf["auth"]["assurance"],
                    leaf.get("refused", {}).get("code") or leaf["decision"]["reason"])
                for record in log.workflow(workflow)
                if (leaf := record.leaf)["kind"] in {"call.start", "decision.deny"} and leaf.get("method") in methods
            ]  # fmt: skip

    @staticmethod
    def _named(log: Ledger, link: Sequence[str]) -> str:
        kind, name = link
        return str(log.subject_name(name)) if kind == "user" else name


@contextmanager
def process(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[Callable[[], tuple[str, ...]]]:
    """An agent or a server that says `ready PORT…`; gives what waits for that and says `127.0.0.1:PORT…`."""
    inherited = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    own = inherited | {"PYTHONPATH": str(ROOT)} | environment
    with log.open("wb") as errors:
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=own)

    def ready() -> tuple[str, ...]:
        assert running.stdout is not None
        said = running.stdout.readline().split()
        assert said[:1] == ["ready"], log.read_text()[-2000:]
        return tuple(f"127.0.0.1:{port}" for port in said[1:])

    try:
        yield ready
    finally:
        running.kill()
        running.communicate()


@contextmanager
def chained(folder: Path, agents: Mapping[str, Sequence[str]] = TOLD, **environment: str) -> Iterator[Chained]:
    """Everything, running: by name each agent's command."""
    with ExitStack() as stack:
        desk = stack.enter_context(process([sys.executable, str(DESK)], {}, folder / "desk.log"))()
        gateway = Chained(folder, f"http://{desk[0]}/", tuple(agents))
        started = {}
        for agent, command in agents.items():
            own = {"GATEWAY_URL": gateway.url, "AGENT_ID": agent, "AGENT_SECRET": gateway.agent_secrets[agent]}
            own["GATEWAY_GRPC"] = " ".join(f"http://{at}" for at in gateway.grpc.values())
            started[agent] = stack.enter_context(process(command, environment | own, folder / f"{agent}.log"))
        stack.callback(gateway.stop)
        yield gateway.at({agent: ready() for agent, ready in started.items()}).start()
