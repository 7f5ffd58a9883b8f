"""A gateway whose policy has workflows, persons and agents that act in them over sockets, and upstreams that answer with data."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from gateway.identity.devissuer import PEOPLE, DevIssuer
from tests.interaction.world import LEGACY, MODERN, ROOT, Gateway, Heard, Peers

CREW = ("lead", "aide", "clerk", "courier", "hermit", "porter")
"""Registered agents: `lead` holds people's tokens, the others are sent to."""
TOOLS = {"find": "desk.find", "score": "desk.score", "order": "desk.order", "mail": "desk.mail"}
AGENTS = {"find": "a2a:clerk", "score": "a2a:courier", "order": "a2a:hermit", "mail": "a2a:porter"}
"""The same steps in either protocol."""
LABELS = {"find": "[source:confidential]", "score": "[source:untrusted]", "order": "[]", "mail": "[sink:external]"}
ARGS = "{supplier: string, amount: number, vendor: string}"
FILES = {
    "roles.csv": "".join(f"g, agent:{name}, agents:crew, acme\n" for name in CREW)
    + "g, svc:lead, role:staff, acme\n"
    + "".join(f"g, idp:{group}, role:staff, acme\n" for groups in PEOPLE.values() for group in groups),
    "tools.yaml": "tenants: [acme]\ntools:\n"
    + "".join(f"  {tool}: {{args: {ARGS}, risk: low, labels: {LABELS[step]}}}\n" for step, tool in TOOLS.items())
    + "labels:\n"
    + "".join(f"  {agent}: {LABELS[step]}\n" for step, agent in AGENTS.items()),
    "conditions.yaml": "inside: {if: 'like(args.vendor, \"V-*\")', say: to a vendor of ours}\n",
    "obligations.yaml": "stamp: {type: notary-stamp}\nin-full: {type: audit, arguments: full}\n",
    "grants/all.csv": """\
p, role:staff,  acme, desk.*, call, allow, -, -, STAFF-1
p, role:staff,  acme, a2a:*,  send, allow, -, -, STAFF-2
p, agents:crew, acme, desk.*, call, allow, -, -, CREW-1
p, agents:crew, acme, a2a:*,  send, allow, -, -, CREW-2
""",
}
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS = "urn:ietf:params:oauth:token-type:access_token"


def written(rules: str, protocol: str) -> str:
    """Rules with `{find}` and the like put as tools or as agents."""
    names = TOOLS if protocol == "mcp" else AGENTS
    for step, name in names.items():
        rules = rules.replace(f"<{step}>", f'"{name}"')
    return rules


def workflow_gateway(folder: Path, peers: Peers, workflows: dict[str, str], **more: Any) -> Gateway:
    """A gateway, not yet started, whose bundle has these workflows by name."""
    policies = folder / "policies"
    for inner in ("grants", "workflows"):
        (policies / inner).mkdir(parents=True)
    shutil.copy(ROOT / "policies" / "default" / "model.conf", policies)
    for name, text in FILES.items():
        (policies / name).write_text(text)
    for name, text in workflows.items():
        (policies / "workflows" / f"{name}.yaml").write_text(text)
    gateway = Gateway(folder, peers)
    gateway.agent_secrets = {name: f"bws_{name}_{secrets.token_urlsafe(32)}" for name in CREW}
    base = f"http://127.0.0.1:{peers.port}"
    agents: dict[str, Any] = {
        name: {"url": f"{base}/agents/{name}", "auth": {"secret_sha256": [hashlib.sha256(secret.encode()).hexdigest()]}}
        for name, secret in gateway.agent_secrets.items()
    }
    agents["lead"]["client_ids"] = ["lead-app"]
    gateway.settings |= {"agents": agents, "mcp": {"desk": {"url": f"{base}/mcp/desk"}}} | more
    gateway.config.write_text(json.dumps(gateway.settings))
    return gateway


class DataPeers(Peers):
    """Upstreams whose answers are structured: `says` by step's tool or agent, which may be an exception's worth of no."""

    says: dict[str, Any]

    def _task(self, name: str, method: str, params: dict[str, Any], heard: Heard) -> dict[str, Any]:
        answer: dict[str, Any] = super()._task(name, method, params, heard)
        said = getattr(self, "says", {}).get(f"a2a:{name}")
        if said is None or method == "GetTask":
            return answer
        if isinstance(said, str):
            answer["task"]["status"]["state"] = said
        else:
            answer["task"]["artifacts"][0]["parts"] = [{"data": said}]
        return answer


@dataclass
class Play:
    """One history: the workflows that persons began in it, each under one definition."""

    gateway: Gateway
    peers: DataPeers
    definition: str
    version: str = LEGACY
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)

    def begun(self, person: str) -> str:
        """The lead's delegation for this person: the start of a workflow."""
        key = person, "lead"
        if key not in self.tokens:
            issuer = DevIssuer(self.gateway.folder / "data", f"{self.gateway.public_url}/dev", self.gateway.public_url)
            token = issuer.issue(person, PEOPLE[person], "lead-app")
            form = {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": ACCESS}
            form |= {"workflow_definition": self.definition} if self.definition else {}
            answer = self.gateway.http.post("/oauth/token", data=form, auth=("lead", self.gateway.agent_secrets["lead"]))
            assert answer.status_code == 200, answer.text
            self.tokens[key] = answer.json()["access_token"]
        return self.tokens[key]

    def delegation(self, person: str, agent: str) -> str:
        """What an agent shows of a person's workflow: got by a message from the lead."""
        if (person, agent) not in self.tokens and agent != "lead":
            before = len(self.peers.heard)
            answer = self.send(f"{person}:lead", f"a2a:{agent}", {})
            assert "result" in answer.json(), answer.text
            heard = next(h for h in self.peers.heard[before:] if h.path == f"/agents/{agent}")
            self.tokens[person, agent] = heard.headers["authorization"].removeprefix("Bearer ")
        return self.begun(person) if agent == "lead" else self.tokens[person, agent]

    def does(self, who: str, resource: str, arguments: dict[str, Any]) -> httpx.Response:
        """One step, whichever protocol it is of."""
        return (self.send if resource.startswith("a2a:") else self.call)(who, resource, arguments)

    def frame(self, who: str) -> tuple[str, str]:
        """Credential and delegation of `person:agent`."""
        person, agent = who.split(":")
        return self.gateway.agent_secrets[agent], self.delegation(person, agent)

    def call(self, who: str, tool: str, arguments: dict[str, Any]) -> httpx.Response:
        """A tool."""
        secret, delegation = self.frame(who)
        more = {"Bailiwick-Delegation": delegation}
        return self.gateway.call(tool, secret, version=self.version, arguments=arguments, **more)

    def send(self, who: str, agent: str, arguments: dict[str, Any]) -> httpx.Response:
        """A message with one data part."""
        secret, delegation = self.frame(who)
        message = {"messageId": str(uuid.uuid4()), "role": "ROLE_USER", "parts": [{"data": arguments}]}
        more = {"Bailiwick-Delegation": delegation}
        return self.gateway.ask(agent.removeprefix("a2a:"), "SendMessage", {"message": message}, secret, **more)


def code_of(answer: httpx.Response) -> str:
    """The code of a refusal, in either protocol; "" where it was let through."""
    body = answer.json()
    if "error" in body:
        data = body["error"]["data"]
        return str(data["code"] if isinstance(data, dict) else data[0]["metadata"]["code"])
    return str(body["result"].get("_meta", {}).get("bailiwick/code", ""))


def told(answer: httpx.Response) -> str:
    """What the refusal says to whoever reads it."""
    body = answer.json()
    return str(body["error"]["message"] if "error" in body else body["result"]["content"][0]["text"])


def until(what: Any, seconds: float = 30) -> Any:
    """What comes true before long."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


VERSIONS = (LEGACY, MODERN)
