"""The verifier finds every change that somebody with the file can make, and names the record.  It needs nothing but Python."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.engine import make_url

from audit import checkpoint, verify
from audit.checkpoint import Checkpoint, Vkey
from audit.leaf import parse
from audit.model import Entry, Value
from audit.tree import Frontier, leaf_hash
from audit.verify import Report, verify_sqlite
from audit.verify_url import verify_url

from .conftest import NOON, ORIGIN, SIGNING_KEY, VKEY, Open, copy_ledger, denial, end, start, tamper

VERIFIER = Path(verify.__file__)


async def fill(open_journal: Open, url: str, count: int = 0) -> None:
    """Two writers, two people, a call with an end, one without, an erased person, and enough records for a tile."""
    journal, other = await open_journal(url), await open_journal(url, writer="gw-2")
    await journal.append(start("c1", "user:corp/ann", Value("request", b"ask"), Value("facts", b"{}")))
    await other.append(denial("d1"))
    await journal.append(end("e1", "c1", Value("response", b"told")))
    await other.append(start("c2", "user:corp/bob", Value("request", b"more")))
    await journal.append(Entry("decision.deny", "d2", NOON, "user:corp/eve", {}, (Value("request", b"gone"),)))
    await journal.shred("user:corp/eve", request="REQ-1", approver="user:corp/dpo")
    for n in range(count):
        await journal.append(denial(f"n{n}"))
    await journal.close()
    await other.close()


@pytest.fixture
async def ledger(path: Path, open_journal: Open) -> Path:
    await fill(open_journal, f"sqlite:///{path}")
    return path


def messages(report: Report) -> str:
    return "\n".join(map(str, report.findings))


async def test_nothing_is_found_in_a_log_that_nobody_touched(url: str, open_journal: Open) -> None:
    await fill(open_journal, url, 300)
    report = verify_url(url, VKEY)
    assert (report.findings, report.ok, report.open_calls) == ([], True, 1)
    assert report.signed == report.size
    assert (report.origin, report.key_given) == (ORIGIN, True)
    assert [note.partition(" ")[0] for note in report.notes] == ["1", "UNWITNESSED:"]  # a call is open, and nobody outside saw it
    assert "1 calls have no end yet" in report.notes[0]


SWAP = "; ".join(f"UPDATE ledger_leaves SET idx = {new} WHERE idx = {old}" for old, new in ((4, -1), (6, 4), (-1, 6)))
TAMPERED = [
    # the records
    (
        "UPDATE ledger_leaves SET data = CAST(replace(data, 'erp', 'crm') AS BLOB) WHERE id = 'c1'",
        r"record 4 .*c1.*not those that were",
    ),
    ("UPDATE ledger_leaves SET data = CAST(data AS TEXT) WHERE id = 'c1'", r"record 4 .*c1.*other types"),
    ("UPDATE ledger_leaves SET hash = randomblob(32) WHERE id = 'c1'", r"record 4 .*c1.*not those that were hashed"),
    ("UPDATE ledger_leaves SET id = 'other' WHERE id = 'c1'", r"record 4 .*another version, id or log"),
    ("DELETE FROM ledger_leaves WHERE id = 'c1'", r"1 records before this one are missing"),
    ("DELETE FROM ledger_leaves WHERE idx > 6", r"the end of the log is gone"),
    ("DELETE FROM ledger_leaves", r"the end of the log is gone"),
    (SWAP, r"chain of its writer is broken"),
    ("INSERT INTO ledger_leaves SELECT max(idx) + 1, 'new', hash, data FROM ledger_leaves", r"another version, id or log"),
    ("INSERT INTO ledger_leaves VALUES (999, 'new', x'00', x'7b7d')", r"records before this one are missing"),
    ("UPDATE ledger_leaves SET data = x'7b7d20' WHERE idx = 3", r"record 3 .*no record"),
    # what stands beside them
    ("UPDATE ledger_openings SET sealed = randomblob(length(sealed)) WHERE name = 'facts'", r"c1.*'facts' is not the one"),
    ("UPDATE ledger_openings SET sealed = CAST(sealed AS TEXT) WHERE name = 'facts'", r"'facts' is not the one|cannot be read"),
    ("DELETE FROM ledger_openings WHERE name = 'facts'", r"c1.*sealed value of 'facts' is missing"),
    ("UPDATE ledger_openings SET name = 'fakts' WHERE name = 'facts'", r"'fakts' that the record does not name"),
    ("UPDATE ledger_openings SET idx = 999 WHERE name = 'facts'", r"record 999, which does not exist"),
    ("UPDATE ledger_openings SET idx = -1 WHERE name = 'facts'", r"record -1, which does not exist"),
    ("INSERT INTO ledger_openings VALUES ('zzz', 'x', x'00')", r"which does not exist"),
    ("UPDATE ledger_head SET size = size - 1", r"the head is not that of the records"),
    ("UPDATE ledger_head SET frontier = x''", r"the head is not that of the records"),
    ("UPDATE ledger_head SET erasures = 0", r"the head is not that of the records"),
    ("DELETE FROM ledger_head", r"the head is not that of the records"),
    ("INSERT INTO ledger_head VALUES (2, 0, x'', 0)", r"the head is not that of the records"),
    ("INSERT INTO ledger_nodes VALUES (1, 0, x'00')", r"subtree 0 at level 1 is not that"),
    ("UPDATE ledger_subjects SET dek = randomblob(60)", r"stored key of .* is not the one that was recorded"),
    ("DELETE FROM ledger_subjects WHERE pseudonym <> 'log'", r"is gone without a record that destroys it"),
    ("INSERT INTO ledger_subjects VALUES ('s_x', x'00', x'00', x'00')", r"stored key of s_x"),
    ("DELETE FROM ledger_open_calls", r"list of open calls and the records differ about c2"),
    ("INSERT INTO ledger_open_calls VALUES ('c1', 4, 'gw-1', 'x')", r"list of open calls and the records differ about c1"),
    ("UPDATE ledger_open_calls SET writer = 'gw-1'", r"says something else about c2"),
    ("UPDATE ledger_log SET origin = 'example.org/other'", r"another key|another version, id or log"),
    ("UPDATE ledger_log SET vkey = 'x'", r"key that the log names is none"),
    ("DELETE FROM ledger_log", r"does not name itself"),
    # the checkpoints
    ("UPDATE ledger_checkpoints SET note = replace(note, 'example.org', 'example.com')", r"the checkpoint of \d+ leaves"),
    ("UPDATE ledger_checkpoints SET size = size + 1000", r"it is of example.org/ledger at"),
    ("DELETE FROM ledger_checkpoints", r"no checkpoint signs any of the records"),
    ("INSERT INTO ledger_checkpoints VALUES (1, 'x')", r"the checkpoint of 1 leaves: not three lines"),
    # the schema
    ("DROP TABLE ledger_openings; CREATE TABLE ledger_openings (idx, name, sealed)", r"ledger_openings is not as it was made"),
    ("CREATE TABLE notes (x)", r"unexpected table notes"),
    ("CREATE TRIGGER t AFTER INSERT ON ledger_leaves BEGIN SELECT 1; END", r"unexpected trigger t"),
    ("CREATE VIEW v AS SELECT 1", r"unexpected view v"),
    ("CREATE INDEX i ON ledger_leaves (hash)", r"unexpected index i"),
    ("ALTER TABLE ledger_leaves ADD COLUMN note TEXT", r"table ledger_leaves is not as it was made"),
    ("UPDATE ledger_version SET version_num = 'l9999'", r"another revision"),
    ("UPDATE ledger_version SET version_num = 'l0001'", r"ledger_open_calls is not as it was made"),
    ("INSERT INTO ledger_version VALUES ('l0001')", r"another revision"),
    ("PRAGMA writable_schema=ON; DELETE FROM sqlite_master WHERE name = 'ledger_checkpoints'", r"lacks the table|cannot be read"),
]


@pytest.mark.parametrize(("script", "found"), TAMPERED, ids=[script[:60] for script, _ in TAMPERED])
def test_a_change_is_found_and_named(ledger: Path, script: str, found: str) -> None:
    tamper(ledger, script + ";")
    report = verify_sqlite(ledger, VKEY)
    assert re.search(found, messages(report)), messages(report)
    assert not report.ok


def test_a_guard_that_was_removed_is_missed(ledger: Path) -> None:
    connection = sqlite3.connect(ledger)
    connection.execute("DROP TRIGGER ledger_leaves_no_update")
    connection.close()
    assert "lacks the trigger ledger_leaves_no_update" in messages(verify_sqlite(ledger, VKEY))


def rewrite(ledger: Path, key: Ed25519PrivateKey) -> None:
    """What an insider with file and key can do: change a record, and make everything fit again."""

    connection = sqlite3.connect(ledger, isolation_level=None)
    guards = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in guards:
        connection.execute(f"DROP TRIGGER {name}")
    frontier, last = Frontier(), {}
    for index, data in connection.execute("SELECT idx, data FROM ledger_leaves ORDER BY idx").fetchall():
        leaf: dict[str, Any] = parse(data)
        if leaf["id"] == "c1":
            leaf["tool"] = "write"
        writer = leaf["writer"]
        writer["wprev"] = last.get(writer["boot"], "")
        changed = orjson.dumps(leaf, option=orjson.OPT_SORT_KEYS)
        last[writer["boot"]] = leaf_hash(changed).hex()
        frontier.append(leaf_hash(changed))
        connection.execute("UPDATE ledger_leaves SET data = ?, hash = ? WHERE idx = ?", (changed, leaf_hash(changed), index))
    connection.execute("UPDATE ledger_head SET frontier = ?", (frontier.encode(),))
    connection.execute("DELETE FROM ledger_checkpoints")
    note = checkpoint.sign(Checkpoint(ORIGIN, frontier.size, frontier.root()), key)
    connection.execute("INSERT INTO ledger_checkpoints VALUES (?, ?)", (frontier.size, note))
    connection.execute("UPDATE ledger_log SET vkey = ?", (str(Vkey.of(ORIGIN, key)),))
    for _, sql in guards:
        connection.execute(sql)
    connection.close()


def test_a_log_rewritten_with_another_key_is_found_by_whoever_brings_the_key(ledger: Path) -> None:
    rewrite(ledger, Ed25519PrivateKey.generate())
    report = verify_sqlite(ledger, VKEY)
    assert "names another key" in messages(report)
    assert "is not signed by" in messages(report)
    without = verify_sqlite(ledger)
    assert without.ok, "the key in the file proves nothing"
    assert "NO KEY WAS GIVEN" in without.notes[0]


def test_a_log_rewritten_with_its_own_key_is_found_by_whoever_kept_a_checkpoint(ledger: Path) -> None:
    connection = sqlite3.connect(ledger)
    [(kept,)] = connection.execute("SELECT note FROM ledger_checkpoints ORDER BY size DESC LIMIT 1").fetchall()
    connection.close()
    assert verify_sqlite(ledger, VKEY, kept).ok
    rewrite(ledger, SIGNING_KEY)
    assert verify_sqlite(ledger, VKEY).ok, "no log shows what its own operator rewrote and signed again"
    assert "the checkpoint that you kept" in messages(verify_sqlite(ledger, VKEY, kept))


async def test_a_log_that_lost_its_end_is_found_by_whoever_kept_a_checkpoint(ledger: Path, open_journal: Open) -> None:
    older = copy_ledger(ledger, ledger.parent / "older")
    journal = await open_journal(f"sqlite:///{ledger}")
    await journal.append(denial("late"))
    await journal.close()
    kept = journal.checkpoint()
    assert verify_sqlite(older, VKEY).ok
    assert "the end of the log is gone" in messages(verify_sqlite(older, VKEY, kept))


def test_a_kept_checkpoint_of_another_key_is_found(ledger: Path) -> None:

    forged = checkpoint.sign(Checkpoint(ORIGIN, 1, bytes(32)), Ed25519PrivateKey.generate())
    assert "kept is not signed by this key" in messages(verify_sqlite(ledger, VKEY, forged))


def test_a_file_that_is_cut_short_or_is_no_database_is_a_finding(ledger: Path, tmp_path: Path) -> None:
    data = ledger.read_bytes()
    for name, content in (("cut", data[: len(data) // 2]), ("other", b"x" * 5000), ("empty", b"")):
        file = tmp_path / name
        file.write_bytes(content)
        assert "cannot be read" in messages(verify_sqlite(file, VKEY)), name


def test_findings_are_bounded(ledger: Path) -> None:
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) "
    tamper(ledger, many + "INSERT INTO ledger_subjects SELECT 's' || i, CAST('l' || i AS BLOB), x'00', x'00' FROM n;")
    report = verify_sqlite(ledger, VKEY)
    assert len(report.findings) == verify.MAX_FINDINGS + 1
    assert "there is more" in report.findings[-1].message


# ------------------------------------------------------------------------------------------------- as a stranger runs it


def run(program: Path, *arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [python, "-I", "-S", str(program), *arguments]  # no site-packages, no environment, no current folder
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    (tmp_path / "alone").mkdir()
    return Path(shutil.copy(VERIFIER, tmp_path / "alone"))


def test_one_file_and_nothing_but_python_verifies_a_ledger(ledger: Path, alone: Path) -> None:
    done = run(alone, str(ledger), "--key", VKEY)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("nothing was found\n")
    tamper(ledger, "UPDATE ledger_leaves SET hash = randomblob(32) WHERE id = 'c1';")
    done = run(alone, str(ledger), "--key", VKEY, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["ok"], report["size"] > 5) == (False, True)
    assert {"index": 4, "id": "c1", "kind": "", "message": "the bytes are not those that were hashed"} in report["findings"]


def test_it_is_written_for_python_3_9_and_imports_the_standard_library_alone() -> None:
    tree = ast.parse(VERIFIER.read_text(), feature_version=(3, 9))
    modules = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
        + ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
    }
    assert modules - {"__future__"} <= set(sys.stdlib_module_names)


def test_it_runs_on_the_oldest_python_that_it_promises(ledger: Path, alone: Path) -> None:
    places = [*map(str, Path.home().glob(".pyenv/versions/3.9.*/bin/python3.9")), shutil.which("python3.9") or ""]
    python = next((place for place in places if place and subprocess.run([place, "-V"], check=False).returncode == 0), None)
    if python is None:
        pytest.skip("there is no Python 3.9 on this machine")
    done = run(alone, str(ledger), "--key", VKEY, python=python)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_key_and_the_kept_checkpoint_may_come_from_files(ledger: Path, alone: Path, tmp_path: Path) -> None:
    connection = sqlite3.connect(ledger)
    [(note,)] = connection.execute("SELECT note FROM ledger_checkpoints ORDER BY size LIMIT 1").fetchall()
    connection.close()
    (tmp_path / "key").write_text(VKEY + "\n")
    (tmp_path / "kept").write_text(note)
    done = run(alone, str(ledger), "--key-file", str(tmp_path / "key"), "--checkpoint", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing.db",),
        (),
        ("{ledger}", "--key", "x"),
        ("{ledger}", "--key-file", "nothing"),
        ("{ledger}", "--checkpoint", "{ledger}"),
    ],
)
def test_misuse_has_an_exit_code_of_its_own(ledger: Path, alone: Path, arguments: tuple[str, ...]) -> None:
    done = run(alone, *(argument.format(ledger=ledger) for argument in arguments))
    assert done.returncode == 2
    assert done.stdout == ""


def test_a_reader_that_closes_early_still_gets_the_exit_code_and_no_traceback(ledger: Path, alone: Path) -> None:
    end, writing = os.pipe()
    os.close(end)
    command = [sys.executable, "-I", "-S", str(alone), str(ledger), "--key", VKEY]
    try:
        ran = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(writing)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_without_a_key_it_says_so_loudly(ledger: Path, alone: Path) -> None:
    assert "NO KEY WAS GIVEN" in run(alone, str(ledger)).stdout


def test_verifying_changes_nothing_and_makes_nothing(ledger: Path) -> None:
    before = {file.name: hashlib.sha256(file.read_bytes()).digest() for file in ledger.parent.iterdir()}
    verify_sqlite(ledger, VKEY)
    assert {file.name: hashlib.sha256(file.read_bytes()).digest() for file in ledger.parent.iterdir()} == before


async def test_a_log_that_is_being_written_is_verified_as_it_stands(url: str, open_journal: Open) -> None:
    journal = await open_journal(url)
    for n in range(5):
        await journal.append(denial(f"a{n}"))
        report = verify_url(url, VKEY)
        assert report.findings == []
    assert any("not under a signed checkpoint yet" in note for note in report.notes)


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE ledger_leaves SET data = data || ' '::bytea WHERE id = 'c1'", "not those that were hashed"),
        ("DELETE FROM ledger_leaves WHERE id = 'c1'", "records before this one are missing"),
        ("DELETE FROM ledger_openings", "sealed value"),
        ("DELETE FROM ledger_subjects", "is gone without a record"),
        ("DROP TRIGGER ledger_leaves_no_change ON ledger_leaves", "ledger_leaves_no_change is missing or switched off"),
        ("ALTER TABLE ledger_leaves DISABLE TRIGGER ledger_leaves_no_truncate", "is missing or switched off"),
    ],
)
async def test_what_a_superuser_changes_in_postgresql_is_found(
    postgres: Any, postgres_url: str, open_journal: Open, statement: str, found: str
) -> None:
    await fill(open_journal, postgres_url)
    with postgres.connect(make_url(postgres_url).database) as connection:
        connection.execute("ALTER TABLE ledger_leaves DISABLE TRIGGER ledger_leaves_no_change")
        connection.execute(statement)
        if "DROP" not in statement:
            connection.execute("ALTER TABLE ledger_leaves ENABLE ALWAYS TRIGGER ledger_leaves_no_change")
    assert found in messages(verify_url(postgres_url, VKEY))


@pytest.mark.parametrize(
    ("named", "policy", "right"),
    [
        ("new", "new", True),
        ("old", "old", True),
        ("old", "new", False),
        ("new", "old", False),
        ("no policy", "new", False),
        ("itself", "new", False),
        ("a text", "new", False),
    ],
)
async def test_a_decision_names_the_record_by_which_its_bundle_came_into_force(
    path: Path, open_journal: Open, named: str, policy: str, right: bool
) -> None:
    journal, places = await open_journal(), dict[str, Any]()
    for digest in ("old", "new"):
        entry = Entry("policy.activate", digest, NOON, None, {"policy": digest, "role": "active"})
        places[digest] = (await journal.append(entry)).index
    places["no policy"] = (await journal.append(denial("d1"))).index
    places |= {"itself": places["no policy"] + 1, "a text": str(places["new"])}
    decision = {"effect": "deny", "reason": "none", "policy": policy, "policy_seq": places[named]}
    await journal.append(Entry("decision.deny", "d2", NOON, None, {"decision": decision}))
    await journal.close()
    report = verify_sqlite(path, VKEY)
    assert report.ok == right
    assert right or "by which its bundle did not come into force" in str(report.findings[0])
