"""A ledger in a file or in a real PostgreSQL, opened as the gateway opens it."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import Vkey
from audit.journal import Journal
from audit.model import Entry, Value
from tests.held_ledger import settled

_spec = importlib.util.spec_from_file_location(
    "audit_postgres_server", Path(__file__).resolve().parents[1] / "postgres_server.py"
)
assert _spec is not None
assert _spec.loader is not None
postgres_server: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(postgres_server)

ORIGIN = "example.org/ledger"
SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SEAL_KEY = bytes(range(32, 64))
VKEY = str(Vkey.of(ORIGIN, SIGNING_KEY))
NOON = 1_763_800_000_000_000

Open = Callable[..., Awaitable[Journal]]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A running server of our own."""
    with postgres_server.server() as running:
        yield running


@pytest.fixture
def postgres_url(postgres: Any) -> Iterator[str]:
    """A fresh database of the server."""
    with postgres_server.database(postgres) as database_url:
        yield database_url


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the SQLite ledger of this test is."""
    return tmp_path / "ledger.db"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{path}"
    database: str = request.getfixturevalue("postgres_url")
    return database


@pytest.fixture
async def open_journal(path: Path) -> AsyncIterator[Open]:
    """Opens journals; closes those that are left open."""
    opened: list[Journal] = []
    clock = itertools.count(NOON)

    async def open_one(url: str = f"sqlite:///{path}", writer: str = "gw-1", **settings: Any) -> Journal:
        given: dict[str, Any] = {
            "origin": ORIGIN,
            "signing_key": SIGNING_KEY,
            "seal_key": SEAL_KEY,
            "clock": lambda: next(clock),
            "checkpoint_seconds": 3600.0,
        }
        journal = await Journal.open(url=url, writer=writer, **given | settings)
        opened.append(journal)
        return journal

    yield open_one
    for journal in opened:
        await journal.close()


def start(record: str, subject: str | None = "user:corp/ann", *values: Value, **fields: object) -> Entry:
    """A call that is about to be sent."""
    whose = {"workflow": "wf-1", "chain": [["user", "@subject"], ["agent", "agent:planner"]], "target": "erp", "tool": "read"}
    return Entry("call.start", record, NOON, subject, whose | fields, values)


def end(record: str, call: str, *values: Value) -> Entry:
    """How it ended."""
    outcome = {"status": "ok", "detail": "", "latency_us": 12, "events": 1, "bytes": 2}
    return Entry("call.end", record, NOON + 5, "user:corp/ann", {"call": call, "workflow": "wf-1", "outcome": outcome}, values)


def denial(record: str) -> Entry:
    """A call that was not made."""
    return Entry("decision.deny", record, NOON, "user:corp/ann", {"workflow": "wf-1", "chain": [["user", "@subject"]]})


def tamper(path: Path, script: str) -> None:
    """What somebody with the file can do: switch the guards off, change rows, and put the guards back."""
    settled(path)
    connection = sqlite3.connect(path, isolation_level=None)
    guards = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in guards:
        connection.execute(f"DROP TRIGGER {name}")
    connection.executescript(script)
    for _, sql in guards:
        connection.execute(sql)
    connection.close()


def copy_ledger(path: Path, to: Path) -> Path:
    """The database file, as a thief or an auditor takes it."""
    to.mkdir(exist_ok=True)
    return Path(shutil.copy(path, to / path.name))
