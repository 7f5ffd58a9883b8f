"""Cards through `bailiwick serve`: real settings, a real bundle, real keys and stores, the official client."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from a2a.client.card_resolver import A2ACardResolver
from a2a.types import a2a_pb2 as pb
from a2a.utils.signing import create_signature_verifier
from jwt import PyJWK

from tests.a2a.carded import PLAIN, Owner
from tests.interaction.world import Gateway, Peers

SKILLS = """\
# p, who,         tenant, tool,             action, effect, when, must, id
p, role:buyer,    acme,   skill:clerk/*,    read,   allow,  -,    -,    SKL-1
p, role:marketer, acme,   skill:clerk/buy,  read,   allow,  -,    -,    SKL-2
"""


class Agent:
    """An agent whose card can be changed while others read it."""

    def __init__(self) -> None:
        self.owner = Owner()
        self.card: dict[str, Any] = self.owner.signed(PLAIN)
        self.calls: list[str] = []
        agent = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._say(agent.card)

            def do_POST(self) -> None:
                said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                agent.calls.append(said["method"])
                message = {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "done"}]}
                self._say({"jsonrpc": "2.0", "id": said["id"], "result": {"message": message}})

            def _say(self, what: Any) -> None:
                out = json.dumps(what).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(out)))
                self.end_headers()
                self.wfile.write(out)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def agent() -> Iterator[Agent]:
    running = Agent()
    yield running
    running.close()


@pytest.fixture
def pinning(agent: Agent, upstreams: Peers, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway, not started yet, that pins the agent's key and shows its skills by policy."""
    (tmp_path / "pins.json").write_text(json.dumps({"keys": [agent.owner.jwk]}))
    clerk = {"url": f"http://127.0.0.1:{agent.server.server_port}/", "card": {"keys": {"file": "pins.json"}}}
    made = Gateway(tmp_path, upstreams, more={"agents": {"clerk": clerk}})
    (tmp_path / "policies/grants/skills.csv").write_text(SKILLS)
    yield made
    made.kill()


def resolved(gateway: Gateway, person: str) -> pb.AgentCard:
    """The card as the official client resolves and verifies it, with keys from where the gateway publishes them."""

    async def resolve() -> pb.AgentCard:
        headers = {"authorization": f"Bearer {gateway.token(person)}"}
        async with httpx.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
            place = f"{gateway.public_url}/.well-known/jwks.json"
            keys = (await http.get(place)).json()["keys"]

            def key(kid: str | None, jku: str | None) -> PyJWK:
                assert jku == place
                return next(PyJWK(each) for each in keys if each["kid"] == kid)

            resolver = A2ACardResolver(http, f"{gateway.public_url}/a2a/clerk/")
            return await resolver.get_agent_card(signature_verifier=create_signature_verifier(key, ["ES256"]))

    return asyncio.run(resolve())


def read(gateway: Gateway, path: str, person: str = "paul") -> httpx.Response:
    return gateway.http.get(path, headers={"authorization": f"Bearer {gateway.token(person)}"})


def test_a_card_is_verified_shown_by_policy_and_signed_and_the_directory_leads_to_it(pinning: Gateway) -> None:
    gateway = pinning.start()
    assert [skill.id for skill in resolved(gateway, "paul").skills] == ["buy", "pay"]
    assert [skill.id for skill in resolved(gateway, "mia").skills] == ["buy"]
    (entry,) = read(gateway, "/a2a/").json()["agents"]
    assert (entry["id"], entry["status"], entry["name"]) == ("clerk", "current", "Buyer")
    assert read(gateway, entry["cardUrl"]).json()["name"] == "Buyer"
    assert read(gateway, "/a2a/", "fiona").json() == {"agents": []}
    assert 'bailiwick_agent_card_refused{agent="clerk"} 0' in gateway.http.get("/metrics").text


def test_changes_are_on_record_across_restarts_and_a_forged_card_stops_calls(pinning: Gateway, agent: Agent) -> None:
    gateway = pinning.start()
    assert resolved(gateway, "paul").version == "3"
    gateway.stop()
    gateway.start()
    assert resolved(gateway, "paul").version == "3"
    gateway.kill()
    agent.card = agent.owner.signed(PLAIN | {"version": "4"})
    gateway.start()
    assert resolved(gateway, "paul").version == "4"
    assert "result" in gateway.send("clerk", gateway.token()).json()
    gateway.stop()
    agent.card, agent.calls = agent.card | {"description": "Pays anybody."}, []
    gateway.start()
    answer = gateway.send("clerk", gateway.token()).json()
    assert answer["error"]["data"][0]["reason"] == "CARD_UNVERIFIED"
    assert read(gateway, "/a2a/clerk/.well-known/agent-card.json").status_code == 500
    assert agent.calls == []
    assert 'bailiwick_agent_card_refused{agent="clerk"} 1' in gateway.http.get("/metrics").text
    assert "the card of the agent clerk is shown to nobody" in gateway.log.read_text()
    cards = [record for record in gateway.records() if record.kind.startswith("card.")]
    assert [(r.kind, r.leaf["signature"]) for r in cards] == [
        ("card.seen", "verified"), ("card.changed", "verified"), ("card.refused", "invalid"),
    ]  # fmt: skip
    verdict = gateway.audit("verify")
    assert verdict.returncode == 0, verdict.stdout


def test_a_new_line_of_policy_hides_a_skill_from_the_next_reader_without_a_restart(pinning: Gateway) -> None:
    gateway = pinning.start()
    assert [skill.id for skill in resolved(gateway, "paul").skills] == ["buy", "pay"]
    path = gateway.folder / "policies/grants/skills.csv"
    path.write_text(SKILLS + "p, *, acme, skill:clerk/pay, read, deny, -, -, SKL-3\n")
    while len([record for record in gateway.records() if record.kind == "policy.activate"]) < 2:
        threading.Event().wait(0.05)  # the folder is looked at every two seconds
    assert [skill.id for skill in resolved(gateway, "paul").skills] == ["buy"]
