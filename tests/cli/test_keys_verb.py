"""`bailiwick keys`: the ring as people see and change it, and a gateway that notices."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.identity.keyfiles import delegation_key, private_pem
from gateway.identity.keys import es256_jwk

from .conftest import Run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "bailiwick.yaml"
    path.write_text("tenant: acme\ndata: data\n")
    return path


def pem(path: Path, key: ec.EllipticCurvePrivateKey | None = None) -> Path:
    path.write_bytes(private_pem(key or ec.generate_private_key(ec.SECP256R1())))
    path.chmod(0o600)
    return path


def test_a_rotation_is_shown_before_and_after(config: Path, run: Run) -> None:
    (config.parent / "data").mkdir(mode=0o700)
    old = es256_jwk(delegation_key(config.parent / "data").public_key())["kid"]
    made = run("keys", "rotate", "--config", config, "--json")
    assert made.code == 0
    assert made.json["before"] == old
    listed = run("keys", "list", "--config", config, "--json").json["keys"]
    assert [(row["kid"], row["state"], row["private"]) for row in listed] == [
        (old, "signs", True),
        (made.json["kid"], "waits", True),
    ]
    assert listed[1]["activates"] - listed[1]["created"] == 600
    shown = run("keys", "list", "--config", config)
    assert "signs from" in shown.out
    assert "counts until" in shown.out


def test_in_an_emergency_people_are_told_what_breaks_and_what_comes_next(config: Path, run: Run) -> None:
    first = run("keys", "rotate", "--now", "--config", config, "--json").json
    ran = run("keys", "rotate", "--now", "--config", config)
    assert ran.code == 0
    assert "refuses transaction tokens" in ran.out
    assert f"bailiwick keys retire {first['kid']}" in ran.out
    retired = run("keys", "retire", first["kid"], "--config", config)
    assert retired.code == 0
    assert first["kid"] not in run("keys", "list", "--config", config).out


def test_a_key_from_elsewhere_is_added_and_its_file_stays(config: Path, run: Run, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    file = pem(tmp_path / "theirs.pem", key)
    before = file.read_bytes()
    ran = run("keys", "add", file, "--config", config, "--json")
    kid = es256_jwk(key.public_key())["kid"]
    assert ran.json["kid"] == kid
    assert file.read_bytes() == before
    kept = config.parent / "data" / "keys" / f"{kid}.pem"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "PRIVATE" not in ran.out
    again = run("keys", "add", file, "--now", "--config", config)
    assert again.code == 0  # it waited; nothing has been signed with it, so it may begin at once


@pytest.mark.parametrize("verb", [["rotate"], ["retire", "A" * 43], ["add", "x.pem"]])
def test_keys_that_the_settings_name_are_changed_there_and_the_steps_are_told(
    config: Path, run: Run, tmp_path: Path, verb: list[str]
) -> None:
    pem(tmp_path / "key.pem")
    pem(tmp_path / "next.pem")
    config.write_text("delegation:\n  key: {file: key.pem}\n  former_keys: [{file: next.pem}]\n")
    ran = run("keys", *verb, "--config", config)
    assert ran.code == 2
    for word in ("openssl genpkey", "former_keys", "ten minutes", "restart"):
        assert word in ran.err
    listed = run("keys", "list", "--config", config, "--json").json["keys"]
    assert [row["state"] for row in listed] == ["signs", "counts"]


def test_what_cannot_be_done_is_misuse_with_a_next_step(config: Path, run: Run, tmp_path: Path) -> None:
    assert run("keys", "list", "--config", config).code == 2
    current = run("keys", "rotate", "--now", "--config", config, "--json").json["kid"]
    signs = run("keys", "retire", current, "--config", config)
    assert signs.code == 2
    assert "rotate --now, then retire" in signs.err
    unknown = run("keys", "retire", "../x", "--config", config, "--json")
    assert unknown.code == 2
    assert unknown.json["problems"][0]["code"] == "unknown-key"
    weak = tmp_path / "rsa.pem"
    key = rsa.generate_private_key(65537, 2048)
    weak.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    weak.chmod(0o600)
    assert "P-256" in run("keys", "add", weak, "--config", config).err
    shared = pem(tmp_path / "open.pem")
    shared.chmod(0o644)
    assert "chmod 600" in run("keys", "add", shared, "--config", config).err
    assert run("keys", "add", tmp_path / "none.pem", "--config", config).code == 2
    assert run("keys", "rotate", "--overlap", "0", "--config", config).code == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_key_that_the_gateways_user_could_not_read_is_not_made(config: Path, run: Run) -> None:
    run("keys", "rotate", "--now", "--config", config)
    keys = config.parent / "data" / "keys"
    index = json.loads((keys / "index.json").read_text())
    os.chown(keys, 12345, 12345)
    ran = run("keys", "rotate", "--config", config)
    assert ran.code == 2
    assert "run this as the user with the id 12345" in ran.err
    assert json.loads((keys / "index.json").read_text()) == index
