"""A database that is restored from a backup brings its own last signed head with it; the one kept apart is not taken back."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy.engine import make_url

from audit.model import LedgerUnavailableError
from tests.audit.conftest import Open, denial

pytestmark = pytest.mark.postgres


def backup_of(server: Any, url: str) -> str:
    """A copy of the database as it stands: leaves, checkpoints and the signed head in it."""
    name = str(make_url(url).database)
    with server.connect() as admin:
        admin.execute("DROP DATABASE IF EXISTS restored WITH (FORCE)")
        admin.execute(f"CREATE DATABASE restored TEMPLATE {name}")
    return str(server.url("restored"))


async def written(open_journal: Open, url: str, kept: Path | None, *records: str) -> str:
    journal = await open_journal(url=url, kept=kept)
    for record in records:
        await journal.append(denial(record))
    await journal.close()
    return journal.checkpoint() or ""


async def test_a_restored_database_is_not_signed_again_where_more_was_signed_before(
    open_journal: Open, postgres: Any, postgres_url: str, tmp_path: Path
) -> None:
    kept = tmp_path / "signed.json"
    await written(open_journal, postgres_url, kept, "a")
    restored = backup_of(postgres, postgres_url)
    await written(open_journal, postgres_url, kept, "b")
    with pytest.raises(LedgerUnavailableError, match="it was set back"):
        await open_journal(url=restored, kept=kept)


async def test_a_restored_database_that_grew_past_it_is_not_signed_either(
    open_journal: Open, postgres: Any, postgres_url: str, tmp_path: Path
) -> None:
    """Another gateway, without the file, went on with the backup: longer than what was signed, and not the same."""
    kept = tmp_path / "signed.json"
    await written(open_journal, postgres_url, kept, "a")
    restored = backup_of(postgres, postgres_url)
    await written(open_journal, postgres_url, kept, "b")
    await written(open_journal, restored, None, *(f"other-{number}" for number in range(20)))
    with pytest.raises(LedgerUnavailableError, match="are not those that were signed"):
        await open_journal(url=restored, kept=kept)


async def test_the_head_kept_apart_is_the_one_that_was_signed_and_may_be_lost(
    open_journal: Open, postgres_url: str, tmp_path: Path
) -> None:
    kept = tmp_path / "signed.json"
    note = await written(open_journal, postgres_url, kept, "a", "b")
    found = orjson.loads(kept.read_bytes())
    assert found["note"] == note
    assert len(base64.b64decode(found["frontier"])) == 32 * int(found["size"]).bit_count()
    kept.unlink()
    await written(open_journal, postgres_url, kept, "c")
    assert orjson.loads(kept.read_bytes())["size"] > found["size"]


async def test_two_replicas_with_a_file_each_sign_one_log(open_journal: Open, postgres_url: str, tmp_path: Path) -> None:
    one = await open_journal(url=postgres_url, writer="gw-1", kept=tmp_path / "one.json")
    two = await open_journal(url=postgres_url, writer="gw-2", kept=tmp_path / "two.json")
    for number in range(10):
        await (one if number % 2 else two).append(denial(f"r-{number}"))
    await one.close()
    await two.close()
    assert one.healthy.reason == two.healthy.reason == "closed"
    await written(open_journal, postgres_url, tmp_path / "one.json", "last")


async def test_a_file_that_is_damaged_stops_signing_and_says_which(open_journal: Open, postgres_url: str, tmp_path: Path) -> None:
    kept = tmp_path / "signed.json"
    kept.write_text("{}")
    with pytest.raises(LedgerUnavailableError, match=r"signed\.json is damaged"):
        await open_journal(url=postgres_url, kept=kept)
