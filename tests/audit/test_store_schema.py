"""The schema: made by its migrations, described by its tables, known to the verifier word by word."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from audit import migrations, verify
from audit.store import StoreError
from audit.store_connect import engine, parse_url
from audit.store_guards import Guards
from audit.store_sql import REVISION, migrate
from audit.store_tables import METADATA
from audit.verify_url import verify_url

from .conftest import VKEY, Open, denial, end, start


def test_the_tables_are_those_that_the_migrations_make(url: str) -> None:
    migrate(url)
    with engine(parse_url(url)).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "ledger_version", "compare_type": True})
        differences = compare_metadata(context, METADATA)
    beside_sqlite_a_file = [each for each in differences if "ledger_signed" not in str(each[1])]
    assert beside_sqlite_a_file == []


def test_the_newest_migration_is_the_revision_that_store_and_verifier_speak() -> None:
    assert ScriptDirectory(migrations.__path__[0]).get_heads() == [REVISION]
    assert verify.REVISION == REVISION


def test_the_verifier_knows_every_word_of_the_schema(path: Path) -> None:
    migrate(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection:
        made = {
            f"{kind} {name}": hashlib.sha256(repr((table, sql)).encode()).hexdigest()[:16]
            for kind, name, table, sql in connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
        }
    assert made == verify.SCHEMA


def test_migrating_again_changes_nothing(url: str) -> None:
    for _ in range(2):
        migrate(url)


async def test_a_log_of_the_first_schema_is_verified_as_it_stands_and_goes_on_in_the_newest(
    url: str, open_journal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("audit.store_sql.REVISION", "l0001")
        earlier.setattr("audit.store_sql.guards", lambda *_, **__: Guards((), removable=True))  # of today's tables
        journal = await open_journal(url)
        await journal.append(start("c1"))
        await journal.append(end("e1", "c1"))
        await journal.append(start("c2"))
        await journal.close()
    assert revision(url) == "l0001"
    report = verify_url(url, VKEY)
    assert (report.findings, report.open_calls) == ([], 1)
    journal = await open_journal(url)  # c2 was left open: it is closed now
    await journal.append(start("c3"))
    await journal.append(denial("d1"))
    await journal.close()
    assert revision(url) == REVISION
    report = verify_url(url, VKEY)
    assert (report.findings, report.open_calls) == ([], 1)


def revision(url: str) -> str:
    with engine(parse_url(url), read_only=True).connect() as connection:
        return str(connection.exec_driver_sql("SELECT version_num FROM ledger_version").scalar())


def test_two_processes_may_migrate_at_once(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(migrate, [url] * 4)) == [None] * 4


def test_a_schema_that_is_newer_than_the_program_is_left_alone(url: str) -> None:
    migrate(url)
    with engine(parse_url(url)).connect() as connection:
        connection.exec_driver_sql("UPDATE ledger_version SET version_num = 'l9999'")
    with pytest.raises(StoreError, match="not one that this version knows"):
        migrate(url)


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(StoreError, match="not a database"):
        migrate(f"sqlite:///{path}")
    assert path.read_bytes() == b"something else entirely" * 100


def test_a_commit_is_synced_and_what_is_deleted_is_overwritten(path: Path) -> None:
    migrate(f"sqlite:///{path}")
    with engine(parse_url(f"sqlite:///{path}")).connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "recursive_triggers", "secure_delete")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "recursive_triggers": 1, "secure_delete": 1}


def test_a_usual_start_does_not_import_the_migration_tool(path: Path) -> None:
    migrate(f"sqlite:///{path}")
    program = "import sys; from audit.store_sql import SqlStore; SqlStore(sys.argv[1]).close(); print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, f"sqlite:///{path}"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_reading_connection_cannot_write(url: str) -> None:
    migrate(url)
    with engine(parse_url(url), read_only=True).connect() as connection:
        for statement in ("DELETE FROM ledger_openings", "CREATE TABLE x (y INTEGER)"):
            with pytest.raises(DBAPIError, match=r"read-?only"):
                connection.exec_driver_sql(statement)
