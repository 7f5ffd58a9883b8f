"""Levels: everything, bytes and tree alone, and what came since; each finds what it says that it looks at."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from audit import verify
from audit.model import Value
from audit.verify import verify_sqlite

from .conftest import VKEY, Open, end, start, tamper

Fill = Callable[[int, int], Awaitable[None]]


@pytest.fixture
def fill(open_journal: Open) -> Fill:
    """Writes calls first to last, each with its end."""

    async def write(first: int, last: int) -> None:
        journal = await open_journal()
        for n in range(first, last):
            journal_start = journal.append(start(f"c{n}", "user:corp/ann", Value("request", b"ask")))
            await asyncio.gather(journal_start)
            await journal.append(end(f"e{n}", f"c{n}"))
        await journal.close()

    return write


async def test_each_level_finds_nothing_in_what_was_not_touched_and_quick_looks_at_the_rest_alone(path: Path, fill: Fill) -> None:
    await fill(0, 300)
    whole = verify_sqlite(path, VKEY)
    assert (whole.ok, whole.level) == (True, "semantic")
    assert whole.left is not None
    full = verify_sqlite(path, VKEY, level="full")
    assert (full.findings, full.root, full.signed) == ([], whole.root, whole.signed)
    await fill(300, 320)
    quick = verify_sqlite(path, VKEY, level="quick", state=whole.left)
    assert quick.findings == []
    assert quick.first == 512
    assert quick.root == verify_sqlite(path, VKEY).root
    assert any("512 records were verified before" in note for note in quick.notes)
    assert quick.left is not None
    assert verify_sqlite(path, VKEY, level="quick", state=quick.left).findings == []


@pytest.mark.parametrize(
    ("script", "levels"),
    [
        ("UPDATE ledger_leaves SET data = replace(data, 'wf-1', 'wf-9') WHERE id = 'c310'", {"semantic", "full", "quick"}),
        ("UPDATE ledger_leaves SET data = replace(data, 'wf-1', 'wf-9') WHERE id = 'c3'", {"semantic", "full"}),
        ("DELETE FROM ledger_openings WHERE idx = (SELECT idx FROM ledger_leaves WHERE id = 'c310')", {"semantic", "quick"}),
        ("DELETE FROM ledger_leaves WHERE id = 'c311'", {"semantic", "full", "quick"}),
        ("UPDATE ledger_nodes SET hash = zeroblob(32) WHERE level = 1 AND idx = 0", {"semantic", "full", "quick"}),
        ("UPDATE ledger_head SET size = size - 1", {"semantic", "full", "quick"}),
        ("DELETE FROM ledger_checkpoints", {"semantic", "full", "quick"}),
    ],
)
async def test_each_level_finds_what_it_looks_at(path: Path, fill: Fill, script: str, levels: set[str]) -> None:
    await fill(0, 300)
    state = verify_sqlite(path, VKEY).left
    await fill(300, 320)
    tamper(path, script)
    found = {
        level
        for level in verify.LEVELS
        if not verify_sqlite(path, VKEY, level=level, state=state if level == "quick" else None).ok
    }
    assert found == levels


async def test_a_state_of_another_log_or_that_was_changed_is_a_finding(path: Path, fill: Fill) -> None:
    await fill(0, 140)
    state = verify_sqlite(path, VKEY).left
    assert state is not None
    said = json.loads(state)
    for wrong in (
        b"{}",
        state.replace(b"example.org", b"example.net"),
        verify.compact(said | {"size": 255}).encode(),
        verify.compact(said | {"tree": ["00" * 32]}).encode(),
    ):
        assert not verify_sqlite(path, VKEY, level="quick", state=wrong).ok
    with pytest.raises(ValueError, match="quick goes on from a state"):
        verify_sqlite(path, VKEY, level="quick")


async def test_the_verifier_alone_keeps_its_state_and_goes_on_from_it(path: Path, fill: Fill, tmp_path: Path) -> None:
    await fill(0, 140)
    kept = tmp_path / "state.json"
    alone = [sys.executable, "-S", "-I", verify.__file__, str(path), "--key", VKEY, "--json", "--state", str(kept)]

    def ran(*words: str) -> tuple[int, dict[str, object]]:
        told = subprocess.run([*alone, *words], capture_output=True, text=True, timeout=60, check=False)
        return told.returncode, json.loads(told.stdout) if told.stdout else {}

    assert ran()[0] == 0
    assert json.loads(kept.read_text())["size"] == 256
    code, report = ran("--level", "quick")
    assert (code, report["first"], report["level"]) == (0, 256, "quick")
    tamper(path, "UPDATE ledger_leaves SET data = replace(data, 'wf-1', 'wf-9') WHERE id = 'e139'")
    before = kept.read_bytes()
    assert ran("--level", "quick")[0] == 1
    assert kept.read_bytes() == before


@pytest.mark.parametrize(("table", "levels"), [("ledger_openings", {"semantic"}), ("ledger_leaves", {"semantic", "full"})])
async def test_damage_to_a_page_is_found_by_the_levels_that_read_its_table(
    path: Path, fill: Fill, table: str, levels: set[str]
) -> None:
    await fill(0, 300)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        page = connection.execute("SELECT max(pageno) FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (table,)).fetchone()[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * size + 1)
        file.write(b"\xff\xff")  # where its free space begins
    assert {level for level in ("semantic", "full") if verify_sqlite(path, VKEY, level=level).findings} == levels
