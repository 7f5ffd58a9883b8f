"""Signing a bundle and verifying it, as people do it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from .conftest import PROCUREMENT, Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PROCUREMENT, tmp_path / "policies"))


def keys(tmp_path: Path, name: str = "signer") -> tuple[Path, Path]:
    key = Ed25519PrivateKey.generate()
    private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    private.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_what_was_signed_verifies_and_the_serial_grows_by_itself(run: Run, folder: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    assert run("policy", "sign", folder, "--key", private, "--json").json["serial"] == 1
    assert run("policy", "sign", folder, "--key", private, "--json").json["serial"] == 2
    ran = run("policy", "verify", folder, "--trust", public, "--least-serial", 2, "--json")
    assert (ran.code, ran.json["ok"], ran.json["serial"]) == (0, True, 2)
    assert "serial 2" in run("policy", "verify", folder, "--trust", public).out
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_every_changed_added_and_missing_file_is_named(run: Run, folder: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    run("policy", "sign", folder, "--key", private)
    with (folder / "roles.csv").open("a") as file:
        file.write("g, agent:evil, agents:procurement, acme\n")
    (folder / "grants/more.csv").write_text("")
    (folder / "tests/purchase.yaml").unlink()
    (folder / "notes.txt").write_text("hello")
    ran = run("policy", "verify", folder, "--trust", public, "--json")
    assert ran.code == 1
    assert {(p["code"], Path(p["location"]).name) for p in ran.json["problems"]} >= {
        ("changed-file", "roles.csv"),
        ("extra-file", "more.csv"),
        ("missing-file", "purchase.yaml"),
        ("stray-file", "notes.txt"),
    }
    assert "the file was changed" in run("policy", "verify", folder, "--trust", public).out


def test_an_unsigned_bundle_another_signer_and_an_old_serial_are_findings(run: Run, folder: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    _, other = keys(tmp_path, "other")
    assert run("policy", "verify", folder, "--trust", public).code == 1
    run("policy", "sign", folder, "--key", private)
    assert run("policy", "verify", folder, "--trust", other).code == 1
    assert run("policy", "verify", folder, "--trust", other, "--trust", public).code == 0
    assert run("policy", "verify", folder, "--trust", public, "--least-serial", 2).code == 1


def test_a_serial_that_does_not_grow_is_not_signed_and_the_old_signature_stays(run: Run, folder: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    run("policy", "sign", folder, "--key", private, "--serial", 9)
    for serial in (9, 3, 0, -1):
        ran = run("policy", "sign", folder, "--key", private, "--serial", serial)
        assert ran.code == 2
        assert "does not grow" in ran.err
    assert run("policy", "verify", folder, "--trust", public, "--least-serial", 9).code == 0
    (folder / "manifest.json").write_text("{}")
    assert run("policy", "sign", folder, "--key", private).code == 2
    assert run("policy", "sign", folder, "--key", private, "--serial", 10).code == 0


def test_a_key_that_others_may_read_and_what_is_no_key_are_refused_without_showing_them(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    private, public = keys(tmp_path)
    private.chmod(0o644)
    ran = run("policy", "sign", folder, "--key", private)
    assert ran.code == 2
    assert "chmod 600" in ran.err
    private.chmod(0o600)
    for words in (("sign", folder, "--key", public), ("sign", folder, "--key", tmp_path / "none")):
        public.chmod(0o600)
        assert run("policy", *words).code == 2
    ran = run("policy", "verify", folder, "--trust", private)
    assert ran.code == 2
    assert not set(private.read_text().split("\n")[1:2]) & set((ran.out + ran.err).split())
    assert run("policy", "verify", tmp_path / "nowhere", "--trust", public).code == 2
    assert not (folder / "manifest.json").exists()


def test_a_key_that_is_not_there_is_misuse_that_says_how_to_make_one(run: Run, folder: Path, tmp_path: Path) -> None:
    ran = run("policy", "sign", folder, "--key", tmp_path / "nosuch.pem")
    assert ran.code == 2
    assert "openssl genpkey" in ran.err
    assert not (folder / "manifest.json").exists()


def test_a_bundle_that_does_not_load_is_not_signed(run: Run, folder: Path, tmp_path: Path) -> None:
    private, _ = keys(tmp_path)
    (folder / "roles.csv").write_text("h, x\n")
    assert run("policy", "sign", folder, "--key", private).code == 2
    assert not (folder / "manifest.jws").exists()
