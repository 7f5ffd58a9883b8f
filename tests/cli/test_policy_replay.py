"""`policy replay` and `audit reproduce` at the command line: what they print, how they end, what they refuse."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from audit.reader import Ledger
from bench import replay as bench
from gateway.cli import recorded
from gateway.reproduce import decisions
from policies.bundle import load

from .conftest import PROCUREMENT, Ran, Run

NOW = 1_763_800_000_000_000


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gateway's folder: settings, policies, the key, and a ledger of two hundred decisions."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "data").mkdir()
    seal = folder / "data" / "seal-key"
    seal.touch(0o600)
    seal.write_text(base64.b64encode(bench.SEAL).decode())
    pem = Ed25519PrivateKey.from_private_bytes(bench.SEAL).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "data" / "ledger-key.pem").touch(0o600)
    (folder / "data" / "ledger-key.pem").write_bytes(pem)  # who reads decisions is on record
    shutil.copytree(PROCUREMENT, folder / "policies")
    asyncio.run(bench.fill(f"sqlite:///{folder}/data/ledger.db", load(PROCUREMENT), 200))
    (folder / "bailiwick.yaml").write_text(json.dumps({"tenant": "acme", "ledger": {"origin": bench.ORIGIN}}))
    return folder


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    """Mia's people may write purchase orders, through any agent; nobody sends mail."""
    copy = tmp_path / "candidate"
    shutil.copytree(PROCUREMENT, copy, ignore=shutil.ignore_patterns("workflows"))  # which were asked of none of the recorded
    people = copy / "grants" / "people.csv"
    people.write_text(
        re.sub(r"^.*PRO-3$", "p, *, acme, erp.write_po, call, allow, -, -, MKT-9", people.read_text(), flags=re.MULTILINE)
    )
    return copy


@pytest.fixture
def ask(run: Run, world: Path) -> Iterator[object]:
    def command(*words: object) -> Ran:
        return run(*words, "--config", world / "bailiwick.yaml")

    return command


def test_the_same_bundle_says_that_nothing_would_change_and_ends_with_0(ask, world: Path) -> None:
    ran = ask("policy", "replay", world / "policies")
    assert ran.code == 0
    assert "200  would come out the same" in ran.out
    assert "0  would now be ALLOWED" in ran.out
    assert ran.err == ""  # no bar where nobody watches


def test_where_nothing_can_be_asked_again_it_does_not_end_as_if_all_were_well(ask, world: Path, tmp_path: Path) -> None:
    erased = tmp_path / "ledger.db"
    shutil.copy(world / "data" / "ledger.db", erased)
    with closing(sqlite3.connect(erased)) as connection:
        connection.execute("DELETE FROM ledger_openings")
        connection.commit()
    ran = ask("policy", "replay", world / "policies", "--ledger", erased, "--json")
    assert (ran.code, ran.json["replayed"], sum(ran.json["undecidable"].values())) == (1, 0, 200)


def test_a_candidate_is_named_as_a_bundle_of_diff_is(ask, world: Path, candidate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (("init", "-q"), ("add", "."), ("-c", "user.name=a", "-c", "user.email=a@b.invalid", "commit", "-qm", "one")):
        subprocess.run(["git", *words], cwd=candidate, check=True, timeout=60)
    monkeypatch.chdir(candidate)
    assert "by rule    MKT-9" in ask("policy", "replay", "git:HEAD:.").out
    missing = ask("policy", "replay", "nowhere")
    assert (missing.code, missing.err.startswith("nowhere: there is no such folder")) == (2, True)


def test_what_would_be_allowed_stands_first_with_rules_tools_and_examples_and_ends_with_1(ask, candidate: Path) -> None:
    ran = ask("policy", "replay", candidate)
    assert ran.code == 1
    assert ran.out.index("would now be ALLOWED") < ran.out.index("would now be DENIED")
    assert "by rule    MKT-9 grants/people.csv:" in ran.out
    assert "by tool    erp.write_po" in ran.out
    found = ask("policy", "replay", candidate, "--json")
    assert found.code == 1
    changed = found.json["changed"]
    assert list(changed) == ["deny->allow", "allow->deny", "duties"]
    assert changed["deny->allow"]["count"] > 0
    assert changed["allow->deny"]["count"] > 0
    assert found.json["same"] + sum(part["count"] for part in changed.values()) == found.json["replayed"] == 200


def test_people_are_pseudonyms_unless_names_are_asked_for(ask, candidate: Path) -> None:
    plain, named = ask("policy", "replay", candidate), ask("policy", "replay", candidate, "--names")
    assert "user:dev/" not in plain.out
    assert re.search(r"by subject s_[0-9a-f]{32}", plain.out)
    assert "by subject user:dev/" in named.out


def test_the_examples_are_decisions_that_audit_show_knows(ask, candidate: Path) -> None:
    found = ask("policy", "replay", candidate, "--json").json["changed"]["deny->allow"]["rules"][0]["decisions"]
    assert 0 < len(found) <= 3
    for record in found:
        shown = ask("audit", "show", record)
        assert shown.code == 0
        assert '"effect": "deny"' in shown.out


def test_markdown_is_a_comment_with_the_dangerous_part_unfolded(ask, candidate: Path) -> None:
    ran = ask("policy", "replay", candidate, "--markdown")
    assert ran.code == 1
    assert ran.out.startswith("### Policy replay\n")
    top, _, folded = ran.out.partition("<details>")
    assert "denials would become calls" in top
    assert "| rule | `MKT-9 grants/people.csv:" in top
    assert "would now be DENIED" in folded
    assert ran.out.count("<details>") == ran.out.count("</details>")


def test_everything_is_reproduced_from_the_settings_own_bundle(ask) -> None:
    ran = ask("audit", "reproduce")
    assert (ran.code, ran.err) == (0, "")
    assert "200  came out identical" in ran.out
    found = ask("audit", "reproduce", "--json")
    assert (found.json["identical"], found.json["differing"]) == (200, 0)


def test_decisions_whose_bundle_is_not_at_hand_are_told_with_what_to_do(ask, candidate: Path) -> None:
    ran = ask("audit", "reproduce", "--bundle", candidate)
    assert ran.code == 1  # nothing at all could be held against the record
    assert "200  cannot be made again: no-bundle" in ran.out
    assert "give its folder with --bundle" in ran.out


def test_a_candidate_that_is_no_bundle_is_misuse_and_says_where(ask, candidate: Path) -> None:
    (candidate / "grants" / "people.csv").write_text("p, role:nobody, acme, erp.read, call, allow, -, -, X-1\n")
    ran = ask("policy", "replay", candidate)
    assert ran.code == 2
    assert "people.csv:1:" in ran.err


@pytest.mark.parametrize("text", ["yesterday", "30", "1y", "-1d", "2026-13-01", "1e9d", "\x1b[31m"])
def test_a_time_that_is_none_is_misuse(ask, world: Path, text: str) -> None:
    ran = ask("policy", "replay", world / "policies", f"--since={text}")
    assert ran.code == 2
    assert "is no time" in ran.err
    assert "\x1b" not in ran.err


def test_times_are_read_as_people_mean_them() -> None:
    day = 86_400_000_000
    assert recorded.since("", NOW) == 0
    assert recorded.since("30d", NOW) == NOW - 30 * day
    assert recorded.since("2w", NOW) == NOW - 14 * day
    assert recorded.since("12h", NOW) == NOW - day // 2
    assert recorded.since("2025-11-22", NOW) == recorded.since("2025-11-22T00:00:00Z", NOW) == 1_763_769_600_000_000
    assert recorded.since("2025-11-22T01:00:00+01:00", NOW) == 1_763_769_600_000_000
    assert recorded.since("999999w", NOW) == 0


def test_without_the_seal_key_it_is_misuse_that_says_what_is_needed(run: Run, world: Path, tmp_path: Path) -> None:
    (tmp_path / "bailiwick.yaml").write_text('{"tenant": "acme"}')
    for words in (("policy", "replay", world / "policies"), ("audit", "reproduce")):
        ran = run(*words, "--config", tmp_path / "bailiwick.yaml", "--ledger", world / "data" / "ledger.db")
        assert ran.code == 2
        assert "there is no seal key" in ran.err


def test_without_a_ledger_it_is_misuse(run: Run, world: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(world / "data" / "seal-key", tmp_path / "data")
    (tmp_path / "bailiwick.yaml").write_text('{"tenant": "acme"}')
    ran = run("audit", "reproduce", "--config", tmp_path / "bailiwick.yaml")
    assert ran.code == 2
    assert "the ledger cannot be read" in ran.err


def test_a_bar_goes_to_its_end_on_a_terminal(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with Ledger.open(f"sqlite:///{world}/data/ledger.db", bench.SEAL) as log:
        found = list(recorded.watched(decisions(log), log.size, "replaying"))
    assert len(found) == 200
    assert "replaying" in capsys.readouterr().err


def test_limit_stops_after_so_many_decisions(ask, world: Path) -> None:
    found = ask("policy", "replay", world / "policies", "--limit", 5, "--json")
    assert (found.code, found.json["decisions"]) == (0, 5)
