"""PostgreSQL that takes no writes or lost some, and guards that are gone: refused, said, and gone on with where that can be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from audit.model import LedgerUnavailableError
from audit.reader import Ledger
from audit.verify_url import verify_url

from .conftest import VKEY, Open, denial, postgres_server


def cut(server: Any) -> None:
    with server.connect() as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bailiwick-ledger'")


@pytest.mark.postgres
async def test_a_server_that_takes_no_writes_refuses_and_is_gone_on_with_when_it_does(
    postgres: Any, postgres_url: str, open_journal: Open
) -> None:
    heard: list[str] = []
    journal = await open_journal(postgres_url, alarm=heard.append)
    await journal.append(denial("d1"))
    database = make_url(postgres_url).database
    with postgres.connect() as connection:
        connection.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        cut(postgres)
        with pytest.raises(LedgerUnavailableError, match="read-only"):
            await journal.append(denial("d2"))
        assert not journal.healthy
        connection.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
        cut(postgres)
    await journal.append(denial("d3"))
    assert journal.healthy
    assert [bool(each) for each in heard] == [True, False]
    await journal.close()
    assert verify_url(postgres_url, VKEY).findings == []


@pytest.mark.postgres
async def test_a_server_that_comes_back_with_an_older_state_is_not_gone_on_with(tmp_path: Path, open_journal: Open) -> None:
    with postgres_server.server() as own, postgres_server.database(own) as database:
        kept = tmp_path / "kept"
        first = await open_journal(database)
        await first.append(denial("d1"))
        await first.close()
        own.stop("fast")
        shutil.copytree(own.folder / "data", kept)
        own.start()
        journal = await open_journal(database)
        await journal.append(denial("d2"))
        own.stop("fast")
        swap(own.folder / "data", kept)
        own.start()
        for record in ("d3", "d4"):
            with pytest.raises(LedgerUnavailableError, match="it was set back"):
                await journal.append(denial(record))
        assert "tampered" in journal.healthy.reason
        with Ledger.open(database) as ledger:
            assert "d3" not in {record.id for record in ledger.records()}


def swap(data: Path, kept: Path) -> None:
    """Another state in the place of the server's, owned as its own was."""
    owner = data.stat()
    shutil.rmtree(data)
    shutil.copytree(kept, data)
    for path in (data, *data.rglob("*")):
        shutil.chown(path, owner.st_uid, owner.st_gid)


async def test_a_log_whose_guards_are_gone_is_not_written_into(path: Path, open_journal: Open) -> None:
    await (await open_journal()).close()
    with Ledger.open(f"sqlite:///{path}") as ledger:
        assert next(iter(ledger.records())).leaf["guards"] == "removable"
    without(path, "ledger_leaves_next")
    with pytest.raises(LedgerUnavailableError, match="lacks what keeps records from being changed: ledger_leaves_next"):
        await open_journal()


def without(path: Path, guard: str) -> None:
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute(f"DROP TRIGGER {guard}")
    connection.close()


@pytest.mark.postgres
async def test_a_guard_that_is_switched_off_in_postgresql_is_seen_and_an_owner_is_said_to_be_one(
    postgres: Any, postgres_url: str, open_journal: Open
) -> None:
    await (await open_journal(postgres_url)).close()
    with Ledger.open(postgres_url) as ledger:
        assert next(iter(ledger.records())).leaf["guards"] == "removable"
    with postgres.connect(make_url(postgres_url).database) as connection:
        connection.execute("ALTER TABLE ledger_leaves ENABLE REPLICA TRIGGER ledger_leaves_no_change")
        with pytest.raises(LedgerUnavailableError, match="ledger_leaves_no_change"):
            await open_journal(postgres_url)
        connection.execute("ALTER TABLE ledger_leaves ENABLE ALWAYS TRIGGER ledger_leaves_no_change")
    await (await open_journal(postgres_url)).close()
