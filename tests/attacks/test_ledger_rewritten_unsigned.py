"""A thief with the database and without the signing key: writes the log anew, takes away the checkpoints that would say so."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import Vkey
from audit.journal import Journal
from audit.model import Entry
from audit.verify import Tree, leaf_hash, verify_sqlite

ORIGIN = "example.org/log"
KEY = Ed25519PrivateKey.generate()
VKEY = str(Vkey.of(ORIGIN, KEY))


def now() -> int:
    return time.time_ns() // 1000


@pytest.fixture
async def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    journal = await Journal.open(
        url=f"sqlite:///{path}", origin=ORIGIN, signing_key=KEY, seal_key=os.urandom(32), writer="one", clock=now
    )
    for number in range(5):
        await journal.append(Entry("decision.deny", f"d{number}", now(), "user:corp/ann", {"resource": "erp.write_po"}))
    await journal.close()
    assert verify_sqlite(path, VKEY).findings == []
    return path


def rewrite(path: Path, forge: Callable[[int, dict[str, object]], None], keep_checkpoints_to: int) -> None:
    """Everything that needs no key: leaves, their hashes, the writers' chains, the tree, the head; then the triggers again."""
    database = sqlite3.connect(path, isolation_level=None)
    triggers = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        database.execute(f"DROP TRIGGER {name}")
    tree = Tree()
    last: dict[str, str] = {}
    for index, data in database.execute("SELECT idx, data FROM ledger_leaves ORDER BY idx").fetchall():
        record = json.loads(data)
        forge(index, record)
        boot = record["writer"]["boot"]
        record["writer"]["wprev"] = last.get(boot, "")
        forged = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
        digest = leaf_hash(forged)
        last[boot] = digest.hex()
        tree.append(digest)
        database.execute("UPDATE ledger_leaves SET hash = ?, data = ? WHERE idx = ?", (digest, forged, index))
    database.execute("DELETE FROM ledger_checkpoints WHERE size > ?", (keep_checkpoints_to,))
    database.execute("UPDATE ledger_head SET frontier = ?", (b"".join(tree.stack),))
    for _, sql in triggers:
        database.execute(sql)
    database.close()


def deny_to_other(index: int, record: dict[str, object]) -> None:
    if record["id"] == "d3":
        record["resource"] = "crm.campaign_report"


async def test_a_log_written_anew_without_any_checkpoint_does_not_verify(ledger: Path) -> None:
    rewrite(ledger, deny_to_other, keep_checkpoints_to=0)
    report = verify_sqlite(ledger, VKEY)
    assert [finding.message.partition(":")[0] for finding in report.findings] == ["no checkpoint signs any of the records"]


async def test_a_long_end_of_the_log_without_a_checkpoint_does_not_verify(ledger: Path) -> None:
    signed = min(size for (size,) in sqlite3.connect(ledger).execute("SELECT size FROM ledger_checkpoints"))

    def forge(index: int, record: dict[str, object]) -> None:
        deny_to_other(index, record)
        writer = record["writer"]
        assert isinstance(writer, dict)
        if record["kind"] == "writer.stop":  # the log had gone on for a while
            writer["mono"] += 61_000_000

    rewrite(ledger, forge, keep_checkpoints_to=signed)
    report = verify_sqlite(ledger, VKEY)
    assert len(report.findings) == 1
    assert "under no checkpoint: one is missing" in report.findings[0].message


async def test_rewriting_what_a_remaining_checkpoint_covers_is_found(ledger: Path) -> None:
    rewrite(ledger, deny_to_other, keep_checkpoints_to=1 << 40)
    assert any("are not those that the checkpoint of that size signs" in f.message for f in verify_sqlite(ledger, VKEY).findings)
