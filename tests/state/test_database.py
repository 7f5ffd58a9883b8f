"""Opening the store: migrations, permissions, and what happens when the database fails."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text

from audit.store_sql import migrate
from gateway.model import Refused
from gateway.problem import ProblemError
from gateway.reasons import Code
from gateway.state import State
from gateway.state.database import open_engine
from gateway.state.tables import Table

ROOT = Path(__file__).resolve().parents[2]

CLAIMER = """
import asyncio, sys
from gateway.state import State
async def main():
    state = State.open(sys.argv[1])
    for n in range(10_000):
        await state.tasks.claim("erp", f"t-{n}", "", "user:idp/paul", "acme", "wf", n)
        print(n, flush=True)
asyncio.run(main())
"""


def test_the_migrations_make_exactly_the_tables_that_the_code_declares(url: str) -> None:
    engine, _ = open_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "state_version", "compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
    engine.dispose()


async def test_replicas_that_start_together_migrate_once(url: str) -> None:
    states = await asyncio.gather(*(asyncio.to_thread(State.open, url) for _ in range(4)))
    await states[0].tasks.claim("erp", "t", "", "user:idp/paul", "acme", "wf", 1)
    for state in states:
        assert await state.tasks.owner("erp", "t") is not None
        await state.close()


async def test_a_process_that_makes_several_stores_at_once_makes_each_of_them_whole(tmp_path: Path) -> None:
    for turn in range(12):
        ledgers = [f"sqlite:///{tmp_path}/ledger-{turn}-{number}.db" for number in range(2)]
        opened = State.open, f"sqlite:///{tmp_path}/state-{turn}.db"
        state, *_ = await asyncio.gather(asyncio.to_thread(*opened), *(asyncio.to_thread(migrate, url) for url in ledgers))
        assert await state.tasks.owner("erp", "t") is None
        await state.close()
        for number in range(2):
            found = sqlite3.connect(tmp_path / f"ledger-{turn}-{number}.db")
            names = {name for (name,) in found.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            found.close()
            assert {"ledger_leaves", "ledger_cosignatures"} <= names
            assert "task_owners" not in names


async def test_a_replica_waits_while_another_one_makes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    first = sqlite3.connect(path, isolation_level=None)
    first.execute("BEGIN IMMEDIATE")
    first.execute("CREATE TABLE somebody_elses (x)")
    opening = asyncio.create_task(asyncio.to_thread(State.open, f"sqlite:///{path}"))
    assert not (await asyncio.wait({opening}, timeout=0.3))[0]
    first.execute("COMMIT")
    first.close()
    await (await opening).close()


async def test_what_was_confirmed_is_there_after_the_process_was_killed(url: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", CLAIMER, url, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    confirmed = [int(await process.stdout.readline()) for _ in range(25)]
    process.kill()
    confirmed += [int(line) for line in (await process.stdout.read()).splitlines() if line]
    await process.wait()
    state = await asyncio.to_thread(State.open, url)
    for n in confirmed:
        assert await state.tasks.owner("erp", f"t-{n}") is not None
    await state.close()


async def test_a_database_that_fails_refuses_the_call_and_shows_no_row(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    state = State.open(f"sqlite:///{path}")
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE task_owners")
    other.close()
    with pytest.raises(Refused) as caught:
        await state.tasks.claim("erp", "t-1", "", "user:idp/paul", "acme", "wf", 1)
    assert caught.value.code is Code.INTERNAL_ERROR
    assert "paul" not in str(caught.value)
    with pytest.raises(Refused):
        await state.tasks.owner("erp", "t-1")
    await state.close()


def test_the_file_and_its_folder_are_for_the_owner_alone(tmp_path: Path) -> None:
    engine, _ = open_engine(f"sqlite:///{tmp_path}/data/state.db")
    engine.dispose()
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "data").iterdir()} == {0o600}


async def test_a_store_in_memory_serves_for_trying_out() -> None:
    state = State.open("sqlite://")
    await state.tasks.claim("erp", "t-1", "", "user:idp/paul", "acme", "wf", 1)
    assert await state.tasks.owner("erp", "t-1") is not None
    await state.close()


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "nonsense",
        "mysql://h/d",
        "postgresql://h/d",
        "postgresql+psycopg://someone:hush@127.0.0.1:1/db",
        "sqlite:////proc/nowhere/x.db",
    ],
)
def test_a_store_that_cannot_be_opened_is_a_problem_without_its_password(bad: str) -> None:
    with pytest.raises(ProblemError) as caught:
        State.open(bad)
    assert "hush" not in str(caught.value)


def test_a_file_that_is_no_database_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_text("this is not a database, and long enough to be looked at" * 20)
    with pytest.raises(ProblemError, match="cannot be opened"):
        State.open(f"sqlite:///{tmp_path}/state.db")


@pytest.mark.postgres
async def test_connections_that_the_server_cuts_are_replaced(postgres_url: str) -> None:
    state = await asyncio.to_thread(State.open, postgres_url)
    await state.tasks.claim("erp", "t-1", "", "user:idp/paul", "acme", "wf", 1)
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        assert connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")).all()
    admin.dispose()
    assert (await state.tasks.claim("erp", "t-2", "", "user:idp/paul", "acme", "wf", 2)).subject == "user:idp/paul"
    await state.close()


@pytest.mark.postgres
def test_a_server_that_may_forget_what_it_confirmed_is_refused(postgres_url: str) -> None:
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        connection.execute(text(f'ALTER DATABASE "{name}" SET synchronous_commit = off'))
    admin.dispose()
    with pytest.raises(ProblemError, match="synchronous_commit"):
        State.open(postgres_url)


@pytest.mark.postgres
async def test_what_was_confirmed_is_there_after_the_server_crashed(postgres, postgres_url: str) -> None:
    state = await asyncio.to_thread(State.open, postgres_url)
    for n in range(20):
        await state.tasks.claim("erp", f"t-{n}", "", "user:idp/paul", "acme", "wf", n)
    await asyncio.to_thread(postgres.stop, "immediate")
    with pytest.raises(Refused) as caught:
        await state.tasks.claim("erp", "while it is down", "", "user:idp/paul", "acme", "wf", 1)
    assert caught.value.code is Code.INTERNAL_ERROR
    await asyncio.to_thread(postgres.start)
    fresh = await asyncio.to_thread(State.open, postgres_url)
    for n in range(20):
        assert await fresh.tasks.owner("erp", f"t-{n}") is not None
    assert (await state.tasks.claim("erp", "afterwards", "", "user:idp/paul", "acme", "wf", 1)).tenant == "acme"
    await state.close()
    await fresh.close()
