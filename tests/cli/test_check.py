"""What `check` finds without starting anything."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.identity import devissuer, keyfiles
from gateway.identity.devissuer import DevIssuer

from .conftest import PROCUREMENT, Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(PROCUREMENT, tmp_path / "policies")
    return tmp_path


def _config(folder: Path, text: str) -> Path:
    path = folder / "bailiwick.yaml"
    path.write_text("tenant: acme\n" + text)
    return path


def _codes(found: dict[str, object], severity: str) -> set[str]:
    problems = found["problems"]
    assert isinstance(problems, list)
    return {p["code"] for p in problems if p["severity"] == severity}


def test_a_mistake_in_the_settings_is_shown_with_its_place_and_help(run: Run, folder: Path) -> None:
    path = _config(folder, "server:\n  prot: 1\n")
    ran = run("check", "--config", path)
    assert ran.code == 1
    assert f"{path}:3:3: server: unknown key 'prot'" in ran.out
    assert "      prot: 1\n      ^\n  help: did you mean 'port'?" in ran.out


def test_a_mistake_in_the_policies_is_shown_with_its_place_and_help(run: Run, folder: Path) -> None:
    grants = folder / "policies" / "grants" / "people.csv"
    lines = grants.read_text().splitlines()
    grants.write_text("\n".join([*lines, "p, role:nobody-has-it, acme, erp.raed, call, allow, -, -, NEW-1"]) + "\n")
    ran = run("check", "--config", _config(folder, ""))
    assert ran.code == 1
    assert f"{grants}:{len(lines) + 1}:" in ran.out
    assert "did you mean" in ran.out


def test_a_secret_that_does_not_resolve_is_an_error(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = folder / "empty"
    empty.touch(mode=0o600)
    path = _config(
        folder,
        "mcp:\n  erp:\n    url: http://127.0.0.1:1/\n    headers:\n      A: {env: NOT_SET_ANYWHERE}\n"
        "      B: {file: nowhere}\n      C: {file: empty}\n",
    )
    found = run("check", "--config", path, "--json")
    assert found.code == 1
    places = [p["location"].removeprefix(f"{path}:") for p in found.json["problems"] if p["code"] == "unresolved-secret"]
    assert places == ["6:16", "7:17", "8:17"]
    monkeypatch.setenv("NOT_SET_ANYWHERE", "x")
    (folder / "nowhere").touch(mode=0o600)
    for name in ("nowhere", "empty"):
        (folder / name).write_text("x")
    assert run("check", "--config", path).code == 0


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_a_key_or_secret_that_others_can_read_is_an_error(run: Run, folder: Path) -> None:
    (folder / "data").mkdir()
    for name in ("secret", "data/ledger-key.pem", "data/seal-key"):
        (folder / name).write_text("x")
        (folder / name).chmod(0o644)
    path = _config(folder, "delegation: {key: {file: secret}}\n")
    found = run("check", "--config", path, "--json")
    assert found.code == 1
    assert [p["code"] for p in found.json["problems"] if p["severity"] == "error"] == ["open-secret"] * 3
    for name in ("secret", "data/ledger-key.pem", "data/seal-key"):
        (folder / name).chmod(0o600)
    assert run("check", "--config", path).code == 0


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_every_key_that_the_gateway_makes_for_itself_is_looked_at(run: Run, folder: Path) -> None:
    data = folder / "data"
    keyfiles.delegation_key(data)
    keyfiles.ledger_key(data)
    keyfiles.seal_key(data)
    DevIssuer(data, "http://127.0.0.1:8080", "http://127.0.0.1:8080")
    made = {keyfiles.DELEGATION_FILE, keyfiles.LEDGER_FILE, keyfiles.SEAL_FILE, devissuer.KEY_FILE}
    assert {file.name for file in data.iterdir()} == made | {devissuer.JWKS_FILE}
    path = _config(folder, "")
    assert run("check", "--config", path).code == 0
    for name in sorted(made):
        (data / name).chmod(0o640)
        found = run("check", "--config", path, "--json")
        assert found.code == 1
        assert [(p["code"], p["location"]) for p in found.json["problems"] if p["severity"] == "error"] == [
            ("open-secret", str(data / name))
        ]
        (data / name).chmod(0o600)


def test_an_agent_that_only_the_policies_know_is_a_warning(run: Run, folder: Path) -> None:
    found = run("check", "--config", _config(folder, "agents: {erp-integration: {}}\n"), "--json")
    agents = [p for p in found.json["problems"] if p["code"] == "unknown-agent"]
    assert found.code == 0
    assert any("procurement-analyst" in p["message"] for p in agents)
    assert not any("erp-integration" in p["message"] for p in agents)
    assert all("/policies/" in p["location"] for p in agents)


def test_a_server_without_a_registered_tool_is_a_warning(run: Run, folder: Path) -> None:
    path = _config(folder, "mcp:\n  warehouse: {url: 'http://127.0.0.1:1/'}\n  erp: {url: 'http://127.0.0.1:2/'}\n")
    found = run("check", "--config", path, "--json")
    assert [p["location"] for p in found.json["problems"] if p["code"] == "no-tools"] == [f"{path}:3:14"]
    assert found.code == 0
    assert run("check", "--config", path, "--strict").code == 1


def test_a_tenant_that_the_policies_do_not_know_is_an_error(run: Run, folder: Path) -> None:
    path = folder / "bailiwick.yaml"
    path.write_text("tenant: elsewhere\n")
    found = run("check", "--config", path, "--json")
    assert (found.code, _codes(found.json, "error")) == (1, {"unknown-tenant"})


def test_a_development_issuer_on_an_open_address_is_an_error(run: Run, folder: Path) -> None:
    issuer = "issuers: [{alias: dev, issuer: i, audience: a, jwks: {file: data/dev-jwks.json}, development: true}]\n"
    assert run("check", "--config", _config(folder, issuer)).code == 0
    found = run("check", "--config", _config(folder, issuer + "server: {host: 0.0.0.0}\n"), "--json")
    assert (found.code, _codes(found.json, "error")) == (1, {"development-issuer"})


def test_a_key_set_that_is_not_there_is_an_error(run: Run, folder: Path) -> None:
    found = run(
        "check", "--config", _config(folder, "issuers: [{alias: c, issuer: i, audience: a, jwks: {file: none.json}}]\n"), "--json"
    )
    assert (found.code, _codes(found.json, "error")) == (1, {"missing-file"})


def test_what_serve_would_refuse_to_put_in_force_is_an_error(run: Run, folder: Path) -> None:
    config = _config(folder, "")
    assert _codes(run("check", "--config", config, "--json").json, "error") == set()
    with (folder / "policies" / "grants" / "people.csv").open("a") as table:
        table.write("p, *, acme, erp.read, call, allow, -, -, ALL-1\n")
    found = run("check", "--config", config, "--json").json
    assert "everyone" in _codes(found, "error")


def test_policies_whose_tests_fail_or_prove_no_denial_are_an_error(run: Run, folder: Path) -> None:
    tests = folder / "policies" / "tests"
    failing = tests / "failing.yaml"
    failing.write_text(
        "tests:\n  - {name: anybody writes, who: 'user:dev/nobody', tool: erp.write_po, args: {amount: 1}, expect: allow}\n"
    )
    config = _config(folder, "")
    ran = run("check", "--config", config)
    assert ran.code == 1
    assert f"{failing}:2:" in ran.out
    shutil.rmtree(tests)
    assert "no-proven-denial" in _codes(run("check", "--config", config, "--json").json, "error")
    lenient = _config(folder, "policy: {require_tests: false}\n")
    assert _codes(run("check", "--config", lenient, "--json").json, "error") == set()


def test_policies_that_no_trusted_key_signed_are_an_error(run: Run, folder: Path) -> None:
    config = _config(folder, "policy: {trust: [trusted.pem]}\n")
    assert "bad-key" in _codes(run("check", "--config", config, "--json").json, "error")
    key = Ed25519PrivateKey.generate()
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "key.pem").chmod(0o600)
    (folder / "trusted.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert run("check", "--config", config).code == 1
    assert run("policy", "sign", folder / "policies", "--key", folder / "key.pem").code == 0
    assert _codes(run("check", "--config", config, "--json").json, "error") == set()
