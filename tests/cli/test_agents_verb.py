"""`bailiwick agents`: a secret that works, shown once, and what is weak about the proofs of each."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gateway.configuration import load
from gateway.identity.agents import AgentCredentials

from .conftest import Run

SETTINGS = """\
tenant: acme
trust_domains: [{name: acme, jwks: {file: keys.json}}]
agents:
  nobody: {url: http://127.0.0.1:1/}
  plain: {auth: {secret_sha256: [%s]}}
  turning: {auth: {secret_sha256: [%s, %s]}}
  keyed: {auth: {jwks: {file: keys.json}, spiffe_id: "spiffe://acme/keyed"}}
  loose: {auth: {bearer_ok: true}}
  traced: {url: http://127.0.0.1:1/, auth: {jwks: {file: keys.json}, trace_ok: true}}
  app: {client_ids: [app-1]}
""" % ("a" * 64, "b" * 64, "c" * 64)  # noqa: UP031  braces are YAML's


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "bailiwick.yaml"
    path.write_text(SETTINGS)
    return path


def test_the_secret_that_is_printed_is_the_one_that_the_printed_line_accepts(config: Path, run: Run) -> None:
    ran = run("agents", "secret", "turning", "--config", config)
    assert ran.code == 0
    (secret,) = [line for line in ran.out.splitlines() if line.startswith("bws_turning_")]
    (line,) = [line for line in ran.out.splitlines() if line.startswith("secret_sha256:")]
    digests = yaml.safe_load(line)["secret_sha256"]
    assert digests[:2] == ["b" * 64, "c" * 64]  # those of now stay valid until people take them away
    config.write_text(f"agents: {{turning: {{auth: {{{line}}}}}}}\n")
    agents = load(config, {}).agents
    assert AgentCredentials(agents, "http://127.0.0.1:8080").by_secret(secret) == "turning"


def test_as_json_it_is_one_object_and_every_secret_is_another(config: Path, run: Run) -> None:
    made = [run("agents", "secret", "plain", "--config", config, "--json").json for _ in range(3)]
    assert len({each["secret"] for each in made} | {each["secret_sha256"] for each in made}) == 6
    assert all(each.keys() == {"agent", "secret", "secret_sha256"} for each in made)


def test_an_agent_that_nobody_registered_gets_no_secret(config: Path, run: Run) -> None:
    ran = run("agents", "secret", "stranger", "--config", config)
    assert ran.code == 2
    assert "bws_" not in ran.out + ran.err
    assert "they know app, keyed" in ran.err


def test_the_list_says_which_proofs_each_has_and_what_is_weak(config: Path, run: Run) -> None:
    found = {row["agent"]: row for row in run("agents", "list", "--config", config, "--json").json["agents"]}
    assert {name: row["proofs"] for name, row in found.items()} == {
        "app": ["client id"],
        "keyed": ["key", "svid"],
        "loose": ["delegation alone"],
        "nobody": [],
        "plain": ["secret"],
        "traced": ["key", "trace"],
        "turning": ["secret (2)"],
    }
    said = {name: " ".join(row["warnings"]) for name, row in found.items()}
    assert "can call nobody" in said["nobody"]
    assert "bearer_ok" in said["loose"]
    assert "trace_ok" in said["traced"]
    assert "replayed" in said["plain"]
    assert "2 secrets are valid" in said["turning"]
    assert not said["keyed"]
    assert "a" * 64 not in run("agents", "list", "--config", config).out
