"""One bit of the file flips: it is found, or it is shown to be in bytes that hold nothing (SQLite's counters and free space).

Every byte of the records, their hashes, the checkpoints and the sealed values is flipped when LEDGER_FLIPS=all; else a seeded
sample of them.
"""

from __future__ import annotations

import os
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from audit.model import Value
from audit.verify import TABLES, verify_sqlite

from .conftest import VKEY, Open, end, start

EVERYTHING = os.environ.get("LEDGER_FLIPS") == "all"


@pytest.fixture
async def ledger(path: Path, open_journal: Open) -> Path:
    journal = await open_journal()
    await journal.append(start("c1", "user:corp/ann", Value("request", b"ask")))
    await journal.append(end("e1", "c1", Value("response", b"told")))
    await journal.close()
    return path


def content(path: Path) -> Any:
    """All that the file says: schema and rows, with their types."""
    connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        schema = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
        tables = [
            [(row, [type(value) for value in row]) for row in connection.execute(f"SELECT {', '.join(columns)} FROM {table}")]
            for table, (columns, _) in TABLES.items()
        ]
        return schema, tables
    finally:
        connection.close()


def flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes((byte ^ 1 << bit,)))


def undetected(path: Path, places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The flips after which nothing is found although the file says something else."""
    before = content(path)
    missed = []
    for at, bit in places:
        flip(path, at, bit)
        if verify_sqlite(path, VKEY).ok:
            try:
                same = content(path) == before
            except sqlite3.DatabaseError:
                same = False
            if not same:
                missed.append((at, bit))
        flip(path, at, bit)
    return missed


def held(path: Path) -> dict[str, list[int]]:
    """Where in the file the bytes of the rows are."""
    data, found = path.read_bytes(), {}
    for table, column in (
        ("ledger_leaves", "data"),
        ("ledger_leaves", "hash"),
        ("ledger_checkpoints", "note"),
        ("ledger_openings", "sealed"),
        ("ledger_subjects", "dek"),
        ("ledger_head", "frontier"),
        ("ledger_log", "vkey"),
    ):
        connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
        values = [row[0] for row in connection.execute(f"SELECT {column} FROM {table}")]
        connection.close()
        places: list[int] = []
        for value in values:
            raw = value.encode() if isinstance(value, str) else value
            at = data.find(raw)
            assert at > 0, (table, column)
            places += range(at, at + len(raw))
        found[f"{table}.{column}"] = places
    return found


def test_a_flip_in_what_was_recorded_is_found(ledger: Path) -> None:
    chance = random.Random(11)
    for column, places in held(ledger).items():
        some = places if EVERYTHING else chance.sample(places, min(len(places), 40))
        flips = [(at, chance.randrange(8)) for at in some]
        before = verify_sqlite(ledger, VKEY)
        assert before.ok
        for at, bit in flips:
            flip(ledger, at, bit)
            assert not verify_sqlite(ledger, VKEY).ok, (column, at, bit)
            flip(ledger, at, bit)


def test_a_flip_anywhere_in_the_file_is_found_or_changes_nothing_that_the_file_says(ledger: Path) -> None:
    chance = random.Random(12)
    size = ledger.stat().st_size
    data = ledger.read_bytes()
    used = [at for at in range(size) if data[at]]
    places = [*range(100), *chance.sample(range(size), 100), *chance.sample(used, 2000 if EVERYTHING else 150)]
    assert undetected(ledger, [(at, chance.randrange(8)) for at in places]) == []
