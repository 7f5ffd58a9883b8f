"""PostgreSQL that takes no writes or lost some, and guards that are gone: refused, said, and gone on with where that can be."""

from __future__ import annotations

import shutil
import subprocess
import sys
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


FULL = """
import asyncio, os, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from audit.journal import Journal
from audit.model import Entry, LedgerUnavailableError, Value

async def main(folder):
    with open(f"{folder}/filler", "wb") as filler:
        filler.write(bytes(6_000_000))
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    journal = await Journal.open(url=f"sqlite:///{folder}/ledger.db", origin="example.org/ledger", signing_key=key,
                                 seal_key=bytes(range(32, 64)), writer="gw-1", clock=lambda: 5, checkpoint_seconds=3600)
    begun, refused = [], ""
    while not refused:
        call = f"c{len(begun)}"
        try:
            await journal.append(Entry("call.start", call, 5, "user:corp/ann", {}, (Value("request", bytes(20_000)),)))
            begun.append(call)
        except LedgerUnavailableError as error:
            refused = error.detail
    assert not os.path.exists(f"{folder}/ledger.db.ballast")
    for call in begun:
        await journal.append(Entry("call.end", f"{call}-end", 6, "user:corp/ann", {"call": call}, (Value("response", b"done"),)))
    assert not journal.healthy, "what was begun is closed, and that does not make it well"
    try:
        await journal.append(Entry("decision.deny", "new", 5))
        raise SystemExit("something new was recorded")
    except LedgerUnavailableError:
        pass
    os.unlink(f"{folder}/filler")
    while not journal.healthy:
        await asyncio.to_thread(os.stat, folder)
    await journal.append(Entry("decision.deny", "after", 5))
    assert os.path.getsize(f"{folder}/ledger.db.ballast") == 4 * 1024 * 1024
    await journal.close()
    from audit.verify import verify_sqlite
    from pathlib import Path
    report = verify_sqlite(Path(folder) / "ledger.db", journal.vkey)
    print(len(begun), report.open_calls, len(report.findings), refused)

asyncio.run(main(sys.argv[1]))
"""


def test_a_disk_that_is_really_full_takes_the_last_words_and_nothing_new(tmp_path: Path) -> None:
    mounted = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=16m tmpfs "$1" && shift && exec "$@"', "sh", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here: a full one is not tested (one whose files may not grow is)")
    command = [*mounted, sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    begun, still_open, findings, *why = done.stdout.split()
    assert int(begun) > 20
    assert (still_open, findings) == ("0", "0")
    assert "full" in " ".join(why)
