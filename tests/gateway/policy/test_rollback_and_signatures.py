"""Who may bring back an old bundle, and how: signatures, serials, rollback, restarts; and what a start refuses."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.policy.checks import Checks, RefusedBundleError
from gateway.policy.memory import Memory
from policies.bundle import load_texts
from policies.manifest import sign
from tests.gateway.policy.live import ASKED_ONLY, QUICK, Live, live, only, texts, write
from tests.interaction.world import Gateway, Peers

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
SEAL = "p, role:buyer, acme, desk.seal, call, allow, -, -, BUY-9\n"


def signed(files: Mapping[str, str], serial: int, key: Ed25519PrivateKey = KEY) -> dict[str, str]:
    return {**files, **sign(files, key, serial=serial, created="2026-11-22T18:00:00Z")}


@pytest.fixture
def trust(tmp_path: Path) -> dict[str, Any]:
    """Settings of a gateway that asks for signatures."""
    pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "trusted.pem").write_bytes(pem)
    return {"trust": ["trusted.pem"], **ASKED_ONLY}


def records(running: Live, kind: str) -> list[dict[str, Any]]:
    return [dict(record.leaf) for record in running.gateway.records() if record.kind == kind]


def codes(answer: Any) -> set[str]:
    return {each["code"] for each in answer.json()["active"]["rejected"]["findings"]}


def test_a_rollback_holds_until_the_folder_says_something_new(tmp_path: Path, peers: Peers) -> None:
    first, second, third = texts(), texts(more=SEAL), texts(more=SEAL + "# 3\n")
    old, new = load_texts(first).digest, load_texts(second).digest
    with live(tmp_path, peers, first, **QUICK) as running:
        gateway = running.gateway
        write(running.folder, second)
        running.becomes(new)
        assert "result" in gateway.call("desk.seal", running.admin).json()
        answer = running.roll_back(old[:20])
        assert answer.json()["active"] == {"result": "activated", "digest": old}
        assert "result" not in gateway.call("desk.seal", running.admin).json()
        assert running.reload().json()["active"] == {"result": "unchanged", "digest": old}  # the folder says what it said
        gateway.stop()
        gateway.start()
        assert running.digest() == old  # also after a restart
        write(running.folder, third)
        running.becomes(load_texts(third).digest)
        (rolled,) = [each for each in records(running, "policy.activate") if each["cause"] == "rollback"]
        (wish,) = [each for each in records(running, "policy.reload") if each["wanted"].startswith("rollback")]
    assert (rolled["policy"], rolled["before"]) == (old, new)
    assert rolled["request"] == wish["id"]
    assert rolled["by"] == [["user", rolled["subject"]]]


def test_a_wish_for_a_bundle_that_never_was_in_force_finds_nothing(tmp_path: Path, peers: Peers) -> None:
    with live(tmp_path, peers, texts(), **ASKED_ONLY) as running:
        digest = running.digest()
        for wanted in ("deadbeefdeadbeef", "sha256:../../etc", "7", "\0", "."):
            assert running.roll_back(wanted).status_code == 404, wanted
        for odd in ("", "x" * 81):
            assert running.roll_back(odd).status_code == 422
        assert running.digest() == digest


def test_an_archived_bundle_that_was_changed_does_not_come_back(tmp_path: Path, peers: Peers) -> None:
    first, second = texts(), texts(more=SEAL)
    old = load_texts(first).digest
    with live(tmp_path, peers, first, **ASKED_ONLY) as running:
        write(running.folder, second)
        assert running.reload().status_code == 200
        with (tmp_path / "data/bundles" / old[7:] / "grants/people.csv").open("a") as file:
            file.write("p, *, acme, desk.seal, call, allow, -, -, EVIL-1\n")
        answer = running.roll_back(old)
        assert answer.status_code == 422
        assert codes(answer) == {"not-archived"}
        assert running.digest() == load_texts(second).digest


def test_with_a_pinned_key_only_what_it_signed_comes_into_force(tmp_path: Path, peers: Peers, trust: dict[str, Any]) -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    with live(tmp_path, peers, signed(texts(), 1), **trust) as running:
        good = running.digest()
        swapped = signed(texts(), 5) | {"grants/more.csv": SEAL}
        for files in (
            texts(more=SEAL),
            signed(texts(more=SEAL), 5, other),
            swapped,
            signed(texts(), 5) | {"tests/desk.yaml": ""},
        ):
            write(running.folder, files)
            assert running.reload().status_code == 422
            assert running.digest() == good
        assert "result" not in running.gateway.call("desk.seal", running.admin).json()
        write(running.folder, signed(texts(more=SEAL), 2))
        assert running.reload().status_code == 200
        assert running.status()["active"]["serial"] == 2
        assert "result" in running.gateway.call("desk.seal", running.admin).json()


def test_an_old_signed_bundle_comes_back_by_rollback_alone(tmp_path: Path, peers: Peers, trust: dict[str, Any]) -> None:
    """Whoever can write the folder cannot replay what was signed before: not at once, nor after a restart, nor by its serial."""
    first, second = signed(texts(more=SEAL), 1), signed(texts(), 2)
    old, new = load_texts(first).digest, load_texts(second).digest
    with live(tmp_path, peers, first, **trust) as running:
        gateway = running.gateway
        write(running.folder, second)
        assert running.reload().status_code == 200
        for replayed in (first, signed(texts(more="# other\n"), 2)):
            write(running.folder, replayed)
            answer = running.reload()
            assert codes(answer) == {"old-serial"}
        assert running.digest() == new
        gateway.stop()
        write(running.folder, first)
        assert gateway.attempt() == 1  # a start refuses it too
        assert "old-serial" in gateway.log.read_text() or "the serial is 1" in gateway.log.read_text()
        write(running.folder, second)
        gateway.start()
        assert running.roll_back("1").json()["active"] == {"result": "activated", "digest": old}
        write(running.folder, signed(texts(more="# 3\n"), 2))  # nor does a rollback open the door for other old ones
        assert codes(running.reload()) == {"old-serial"}
        write(running.folder, signed(texts(more="# 3\n"), 3))
        assert running.reload().status_code == 200


def test_a_signed_bundle_that_is_cut_anywhere_is_refused() -> None:
    """At every byte of every file: a table that breaks off between two lines would be a bundle of its own."""
    files = signed(texts(), 1)
    checks, refused = Checks((KEY.public_key(),), require_tests=True), 0
    assert checks.build(files, 0, Memory()).digest == load_texts(files).digest
    for name, text in files.items():
        for end in range(len(text)):
            cut = {**files, name: text[:end]}
            if name == "manifest.jws" and text[:end].strip() == text.strip():
                continue  # only the line's end is missing
            with pytest.raises(RefusedBundleError) as error:
                checks.build(cut, 0, Memory())
            assert error.value.findings
            refused += 1
    assert refused > 3000


def test_without_a_signature_a_table_that_breaks_off_between_lines_is_what_its_tests_must_catch() -> None:
    """The reason for signatures and for tests: nothing else tells a shorter table from a table that was copied by half."""
    files = texts()
    cut = {**files, "grants/guardrails.csv": ""}
    assert Checks(require_tests=True).build(cut, 0, None).digest != load_texts(files).digest
    row = "  - {name: an iban is blanked, who: paul, tool: desk.account, args: {text: a}, expect: allow, must: [redact-iban]}\n"
    with pytest.raises(RefusedBundleError, match="redact-iban"):
        Checks(require_tests=True).build({**cut, "tests/desk.yaml": files["tests/desk.yaml"] + row}, 0, None)


@pytest.mark.parametrize(("files", "says"), [(only("desk.read"), "no test expects a denial"), ({"roles.csv": ""}, "missing")])
def test_a_gateway_does_not_start_without_a_bundle_that_may_decide(
    tmp_path: Path, peers: Peers, files: dict[str, str], says: str
) -> None:
    write(tmp_path / "policies", files)
    gateway = Gateway(tmp_path, peers, more={"policy": {"require_tests": True}})
    try:
        assert gateway.attempt() == 1
    finally:
        gateway.kill()
    assert says in gateway.log.read_text()


def test_without_a_proven_denial_a_bundle_comes_into_force_only_where_the_settings_say_so() -> None:
    with pytest.raises(RefusedBundleError) as error:
        Checks(require_tests=True).build(only("desk.read"), 0, None)
    assert [finding.code for finding in error.value.findings] == ["no-proven-denial"]
    assert Checks(require_tests=False).build(only("desk.read"), 0, None)
    failing = texts() | {"tests/desk.yaml": texts()["tests/desk.yaml"].replace("expect: deny", "expect: allow")}
    with pytest.raises(RefusedBundleError):
        Checks(require_tests=False).build(failing, 0, None)  # a test that is there passes in any case


def test_sighup_has_the_folder_read_again(tmp_path: Path, peers: Peers) -> None:
    files = texts(more=SEAL)
    with live(tmp_path, peers, texts(), **ASKED_ONLY) as running:
        write(running.folder, files)
        os.kill(running.gateway.pid, signal.SIGHUP)
        running.becomes(load_texts(files).digest)
        assert records(running, "policy.activate")[-1]["cause"] == "signal"


def test_only_whom_policy_grants_it_may_see_or_change_it_and_every_refusal_is_recorded(tmp_path: Path, peers: Peers) -> None:
    with live(tmp_path, peers, texts(), **ASKED_ONLY) as running:
        http, digest = running.gateway.http, running.digest()
        write(running.folder, texts(more=SEAL))
        mia = {"Authorization": f"Bearer {running.gateway.token('mia')}"}
        for frame, status in (({}, 401), ({"Authorization": "Bearer x"}, 401), (mia, 403)):
            assert http.get("/api/policy", headers=frame).status_code == status
            assert http.post("/api/policy/reload", headers=frame).status_code == status
            assert http.post("/api/policy/rollback", headers=frame, json={"bundle": digest}).status_code == status
        assert running.digest() == digest
        denied = [each for each in records(running, "decision.deny") if each.get("resource") == "admin:policy"]
        assert [each["action"] for each in denied] == ["read", "change", "change"]
        assert records(running, "policy.reload") == []


def test_what_the_ledger_cannot_record_does_not_come_into_force(tmp_path: Path, peers: Peers) -> None:
    with live(tmp_path, peers, texts(), **ASKED_ONLY) as running:
        digest = running.digest()
        running.gateway.ledger_file.unlink()
        write(running.folder, texts(more=SEAL))
        assert running.reload().status_code == 503  # not even the wish is on record
        os.kill(running.gateway.pid, signal.SIGHUP)
        while "is not recorded" not in running.gateway.log.read_text():
            running.gateway.http.get("/healthz")
        assert running.digest() == digest


def test_what_cannot_be_kept_does_not_come_into_force_and_is_tried_again(tmp_path: Path, peers: Peers) -> None:
    """The archive is away for a while; nobody touches the folder of policy again."""
    files = texts(more=SEAL)
    with live(tmp_path, peers, texts(), **QUICK) as running:
        digest, archive = running.digest(), tmp_path / "data" / "bundles"
        archive.rename(archive.with_name("away"))
        archive.write_text("in the way")
        write(running.folder, files)
        while not running.status()["stale"]:
            pass
        assert running.digest() == digest
        archive.unlink()
        archive.with_name("away").rename(archive)
        running.becomes(load_texts(files).digest)
        assert running.status()["stale"] is False
        assert len(records(running, "policy.reject")) == 1  # tried often, told once
