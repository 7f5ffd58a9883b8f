"""Whoever may write a folder of policy can neither wedge the gateway nor bring back what a newer signature replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.policy.archive import Archive
from policies import reading
from policies.bundle import load_texts
from policies.finding import Report
from policies.manifest import sign
from policies.reading import read_folder
from tests.gateway.policy.live import ASKED_ONLY, QUICK, live, texts, write
from tests.interaction.world import Peers, done
from tests.interaction.world import peers as scripted

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
SEAL = "p, role:buyer, acme, desk.seal, call, allow, -, -, BUY-9\n"
ODD = (b"\xff.csv", b"\xed\xa0\x80.csv", b"a\nb.csv", b"\x1b[31m.csv")


@pytest.fixture(scope="module")
def peers() -> Any:
    with scripted() as world:
        yield world


def signed(files: dict[str, str], serial: int) -> dict[str, str]:
    return {**files, **sign(files, KEY, serial=serial, created="2026-11-22T18:00:00Z")}


def trusted(folder: Path) -> dict[str, Any]:
    pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "trusted.pem").write_bytes(pem)
    return {"trust": ["trusted.pem"], **ASKED_ONLY}


def test_a_file_name_that_is_no_text_is_refused_recorded_and_told_and_the_watch_goes_on(tmp_path: Path, peers: Peers) -> None:
    with live(tmp_path, peers, texts(), **QUICK) as running:
        first = running.digest()
        for name in ODD:
            odd = os.fsencode(running.folder) + b"/grants/" + name
            Path(os.fsdecode(odd)).touch()
            answer = running.reload()
            assert answer.status_code == 422
            assert {each["code"] for each in answer.json()["active"]["rejected"]["findings"]} == {"stray-file"}
            assert running.status()["active"]["digest"] == first
            done(running.gateway.call("desk.read", running.admin))
            Path(os.fsdecode(odd)).unlink()
        write(running.folder, texts(more=SEAL))
        running.becomes(load_texts(texts(more=SEAL)).digest)
        refused = [record for record in running.gateway.records() if record.kind == "policy.reject"]
        assert len({json.dumps(record.leaf["findings"]) for record in refused}) >= len(ODD)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("verb", [("check", "--json"), ("test", "--json"), ("diff", "--json"), ("diff", "--markdown")])
def test_a_verb_tells_of_a_file_name_that_is_no_text(tmp_path: Path, name: bytes, verb: tuple[str, ...]) -> None:
    write(tmp_path / "p", texts())
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/p/grants/" + name)).touch()
    folders = ["p", "p"] if verb[0] == "diff" else ["p"]
    command = [sys.executable, "-m", "gateway.cli", "policy", verb[0], *folders, *verb[1:]]
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
    )
    assert ran.returncode in (1, 2)
    assert b"Traceback" not in ran.stderr
    assert b"\x1b" not in ran.stdout
    assert b"stray-file" in ran.stdout + ran.stderr or b"not part of a bundle" in ran.stderr


def test_no_more_is_read_of_a_folder_than_a_bundle_may_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 10_000)
    write(tmp_path / "p", texts() | {f"grants/a{n}.csv": "# 5 000\n" * 625 for n in range(60)})
    report = Report()
    assert sum(map(len, read_folder(tmp_path / "p", report).values())) <= 10_000 + 5_000
    assert "too-large" in {found.code for found in report.error().findings}


def test_no_more_files_are_opened_than_a_bundle_may_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_FILES", 10)
    write(tmp_path / "p", texts() | {f"grants/a{n}.csv": "# a\n" for n in range(60)})
    report = Report()
    assert len(read_folder(tmp_path / "p", report)) <= 11
    assert "too-large" in {found.code for found in report.error().findings}


def test_a_canary_is_no_door_for_a_bundle_that_a_newer_signature_replaced(tmp_path: Path, peers: Peers) -> None:
    old, new = signed(texts(more=SEAL), 1), signed(texts(), 2)
    write(tmp_path / "next", new)
    more = {"canary": {"folder": str(tmp_path / "next"), "percent": 100}, **trusted(tmp_path)}
    with live(tmp_path, peers, new, **more) as running:
        assert "result" not in running.gateway.call("desk.seal", running.admin).json()
        write(tmp_path / "next", old)
        answer = running.reload()
        assert "result" not in running.gateway.call("desk.seal", running.admin).json()
        assert {each["code"] for each in answer.json()["canary"]["rejected"]["findings"]} == {"old-serial"}


def test_a_bundle_that_was_signed_anew_is_kept_with_its_new_signature(tmp_path: Path) -> None:
    archive, files = Archive(tmp_path / "bundles"), texts()
    digest = load_texts(files).digest
    for kept in (files, signed(files, 1), signed(files, 3)):
        archive.put(load_texts(kept))
        assert archive.get(digest).texts == load_texts(kept).texts
    assert archive.find("3") == digest


@pytest.mark.parametrize("below", ["", "grants/"])
def test_names_that_are_not_read_hide_none_that_is(tmp_path: Path, below: str) -> None:
    write(tmp_path / "p", texts())
    whole = read_folder(tmp_path / "p", Report())
    for number in range(2 * reading.MAX_FILES):
        (tmp_path / "p" / f"{below}..{number}").touch()
    report = Report()
    found = read_folder(tmp_path / "p", report)
    assert found == whole or "too-large" in {each.code for each in report.error().findings}


def test_a_stranger_s_body_is_not_read_and_nobody_s_is_beyond_its_bound(tmp_path: Path, peers: Peers) -> None:
    with live(tmp_path, peers, texts(), **ASKED_ONLY) as running:
        http = running.gateway.http
        for body in (b"not json", b'{"bundle": "' + b"x" * 9_000_000 + b'"}'):
            assert http.post("/api/policy/rollback", content=body).status_code == 401
        assert http.post("/api/policy/rollback", headers=running.frame, content=b'{"bundle": 1}').status_code == 422
        assert http.post("/api/policy/rollback", headers=running.frame, content=b"[" * 4000).status_code == 422
        assert http.post("/api/policy/rollback", headers=running.frame, content=b" " * 5000).status_code == 422
