"""A gateway that serves: a delegation of its token endpoint works on the road within its scope, and ends when its grant does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.identity.keys import es256_jwk
from gateway.model import new_id
from tests.interaction.world import ROOT, Gateway, Peers

EXCHANGE = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
}
JWT = "urn:ietf:params:oauth:token-type:jwt"


class Corp:
    """An issuer with a directory, whose tokens a test writes."""

    def __init__(self, folder: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        folder.mkdir(parents=True, exist_ok=True)
        self.people = folder / "people.yaml"
        self.people.write_text("paul: {groups: [procurement-managers], active: true}\n")
        self.jwks = folder / "corp.json"
        self.jwks.write_text(json.dumps({"keys": [es256_jwk(self.key.public_key())]}))

    def token(self, gateway: Gateway, client: str) -> str:
        now = int(time.time())
        claims = {"iss": "https://corp.example", "aud": gateway.url, "sub": "paul", "groups": ["procurement-managers"]}
        claims |= {"client_id": client, "jti": new_id(now * 10**6), "iat": now, "exp": now + 900}  # type: ignore[dict-item]  # times
        kid = es256_jwk(self.key.public_key())["kid"]
        return jwt.encode(claims, self.key, algorithm="ES256", headers={"typ": "at+jwt", "kid": kid})

    def assertion(self, gateway: Gateway, agent: str) -> str:
        now = int(time.time())
        claims = {"iss": agent, "sub": agent, "aud": gateway.url, "iat": now, "exp": now + 60, "jti": new_id(now * 10**6)}
        kid = es256_jwk(self.key.public_key())["kid"]
        return jwt.encode(claims, self.key, algorithm="ES256", headers={"typ": "client-authentication+jwt", "kid": kid})


@pytest.fixture
def served(upstreams: Peers, tmp_path: Path) -> Iterator[tuple[Gateway, Corp]]:
    corp = Corp(tmp_path / "corp")
    issuer: dict[str, Any] = {
        "alias": "corp", "issuer": "https://corp.example", "jwks": {"file": str(corp.jwks)}, "algorithms": ["ES256"],
        "direct_clients": ["corp-cli"], "directory": {"file": str(corp.people)},
    }  # fmt: skip
    gateway = Gateway(tmp_path / "served", upstreams)
    agents = gateway.settings["agents"]
    agents["clerk"] |= {"client_ids": ["clerk-app"], "scope": ["desk.*", "a2a:courier"]}
    for agent in ("courier", "hermit"):
        agents[agent]["auth"] = {"jwks": {"file": str(corp.jwks)}}
    grants = "p, role:buyer, acme, a2a:*, send, allow, -, -, X-1\np, agent:clerk, acme, a2a:courier, send, allow, -, -, X-2\n"
    (gateway.folder / "policies" / "grants" / "more.csv").write_text(grants)
    gateway.settings["issuers"] = [issuer | {"audience": gateway.url}]
    gateway.config.write_text(json.dumps(gateway.settings))
    try:
        yield gateway.start(), corp
    finally:
        gateway.stop()


def exchanged(gateway: Gateway, **form: str) -> Any:
    return gateway.http.post("/oauth/token", data=form, auth=("clerk", gateway.agent_secrets["clerk"]))


def test_a_delegation_of_the_token_endpoint_works_on_the_road_within_its_scope(served: tuple[Gateway, Corp]) -> None:
    gateway, corp = served
    answer = exchanged(gateway, **EXCHANGE, subject_token=corp.token(gateway, "clerk-app"), scope="desk.read vault.open")
    assert answer.status_code == 200, answer.text
    assert answer.json()["scope"] == "desk.read"
    delegation = {"Bailiwick-Delegation": answer.json()["access_token"]}
    secret = gateway.agent_secrets["clerk"]
    assert "result" in gateway.call("desk.read", secret, **delegation).json()
    assert "error" in gateway.call("desk.slow", secret, **delegation).json()
    assert exchanged(gateway, **EXCHANGE, subject_token=corp.token(gateway, "corp-cli")).json()["error"] == "invalid_request"
    renewed = exchanged(gateway, grant_type=EXCHANGE["grant_type"], subject_token=delegation["Bailiwick-Delegation"],
                        subject_token_type=JWT)  # fmt: skip
    assert "result" in gateway.call("desk.read", secret, **{"Bailiwick-Delegation": renewed.json()["access_token"]}).json()
    (record, again) = [each for each in gateway.records() if each.kind == "identity.delegate"]
    assert record.leaf["workflow"] == again.leaf["workflow"]
    assert record.id == answer.headers["bailiwick-decision"]
    verdict = gateway.audit("verify")
    assert verdict.returncode == 0, verdict.stdout
    said = gateway.http.get("/.well-known/oauth-authorization-server").json()
    assert said["token_endpoint"] == f"{gateway.url}/oauth/token"


def test_a_child_is_handed_on_to_where_policy_says_so_and_that_decision_is_made_again_from_its_record(
    served: tuple[Gateway, Corp],
) -> None:
    gateway, corp = served
    begun = exchanged(gateway, **EXCHANGE, subject_token=corp.token(gateway, "clerk-app")).json()["access_token"]
    again = {"grant_type": EXCHANGE["grant_type"], "subject_token": begun, "subject_token_type": JWT, "actor_token_type": JWT}
    child = exchanged(gateway, **again, actor_token=corp.assertion(gateway, "courier"))
    assert child.status_code == 200, child.text
    denied = exchanged(gateway, **again, actor_token=corp.assertion(gateway, "hermit"))
    assert denied.json()["error"] == "invalid_request"
    handed, refused = (gateway.records(id=answer.headers["bailiwick-decision"])[0] for answer in (child, denied))
    assert (handed.kind, refused.kind) == ("identity.delegate", "decision.deny")
    assert handed.leaf["chain"][1:] == [["agent", "agent:clerk"]]
    told = gateway.audit("reproduce", "--json")
    assert told.returncode == 0, told.stdout
    assert json.loads(told.stdout)["identical"] == 2, told.stdout


def test_a_grant_made_on_the_command_line_lets_the_agent_work_until_it_is_taken_back(served: tuple[Gateway, Corp]) -> None:
    gateway, corp = served

    def grants(*words: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gateway.cli", "grants", *words, "--config", str(gateway.config)]
        environment = os.environ | {
            "COLUMNS": "200",
            "NO_COLOR": "1",
            "BAILIWICK_TOKEN": token or corp.token(gateway, "corp-cli"),
        }
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=ROOT)

    made = grants("add", "clerk", "--scope", "desk.read", "--until", "2h", "--json")
    assert made.returncode == 0, made.stderr
    name = json.loads(made.stdout)["id"]
    assert f"{name}  clerk: desk.read" in grants("list").stdout
    answer = exchanged(gateway, grant_type="client_credentials", standing_grant=name)
    assert answer.status_code == 200, answer.text
    call = {"Bailiwick-Delegation": answer.json()["access_token"]}
    assert "result" in gateway.call("desk.read", gateway.agent_secrets["clerk"], **call).json()
    assert grants("revoke", name).returncode == 0
    assert gateway.call("desk.read", gateway.agent_secrets["clerk"], **call).status_code == 401
    assert exchanged(gateway, grant_type="client_credentials", standing_grant=name).json()["error"] == "invalid_grant"
    assert grants("revoke", name).returncode == 1
    assert grants("add", "clerk", "--scope", "desk.read", "--until", "soon").returncode == 2
    assert grants("add", "nobody", "--scope", "desk.read", "--until", "2h").returncode == 2
    by_agent = grants("add", "clerk", "--scope", "desk.read", "--until", "2h", token=corp.token(gateway, "clerk-app"))
    assert by_agent.returncode == 1
