"""A ledger whose tables belong to nobody's login: the gateway's account adds records, and cannot change one or free itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from audit.model import Value
from audit.reader import Ledger
from audit.several import url_of
from audit.store_sql import migrate
from audit.verify_url import verify_url

from .conftest import VKEY, Open, end, start

SCRIPT = Path(__file__).resolve().parents[2] / "deploy/ledger-roles.sql"
NAMES = {"owner": "ledger_owner", "gateway": "bw_gateway", "auditor": "bw_auditor"}
pytestmark = pytest.mark.postgres


@pytest.fixture
def roles(postgres: Any, postgres_url: str) -> Iterator[str]:
    """The URL of the gateway's account."""
    yield from granted(postgres, postgres_url, os.environ)


@pytest.fixture
def tenants_roles(postgres: Any, postgres_url: str) -> Iterator[str]:
    """The same of one tenant's log, in a schema beside another log."""
    migrate(postgres_url)
    yield from granted(postgres, url_of(postgres_url, "acme-eu"), os.environ | {"PGOPTIONS": "-c search_path=log_t_acme_eu"})


def granted(postgres: Any, url: str, environment: Mapping[str, str]) -> Iterator[str]:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is not installed: the script is not tested here")
    migrate(url)
    database = str(make_url(url).database)
    named = [part for name, role in NAMES.items() for part in ("-v", f"{name}={role}")]
    for _ in range(2):  # again after an update
        command = [psql, "-X", "-v", "ON_ERROR_STOP=1", *named, "-h", str(postgres.folder), "-U", "bailiwick"]
        done = subprocess.run(
            [*command, "-f", str(SCRIPT), database], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
    yield url.replace("bailiwick@", f"{NAMES['gateway']}@")
    with postgres.connect(database) as connection:
        connection.execute(f"REASSIGN OWNED BY {NAMES['owner']} TO bailiwick")
        for role in NAMES.values():
            connection.execute(f"DROP OWNED BY {role}")
            connection.execute(f"DROP ROLE {role}")


async def test_the_gateways_account_records_erases_and_closes_and_the_log_says_that_its_guards_are_kept(
    roles: str, open_journal: Open
) -> None:
    journal = await open_journal(roles)
    await journal.append(start("c1", "user:corp/ann", Value("request", b"x")))
    await journal.append(end("e1", "c1"))
    await journal.shred("user:corp/ann", request="r-1", approver="dpo")
    await journal.append(start("c2"))
    await journal.close()
    journal = await open_journal(roles)
    await journal.close()
    with Ledger.open(roles.replace(NAMES["gateway"], NAMES["auditor"])) as ledger:
        assert next(iter(ledger.records())).leaf["guards"] == "kept"
    report = verify_url(roles.replace(NAMES["gateway"], NAMES["auditor"]), VKEY)
    assert (report.findings, report.open_calls) == ([], 0)


async def test_the_same_account_writes_a_tenants_log_in_a_schema_of_its_own(tenants_roles: str, open_journal: Open) -> None:
    journal = await open_journal(tenants_roles)
    await journal.append(start("c1", "user:corp/ann", Value("request", b"x")))
    await journal.append(end("e1", "c1"))
    await journal.close()
    with Ledger.open(tenants_roles.replace(NAMES["gateway"], NAMES["auditor"])) as ledger:
        assert next(iter(ledger.records())).leaf["guards"] == "kept"
    assert verify_url(tenants_roles.replace(NAMES["gateway"], NAMES["auditor"]), VKEY).findings == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_leaves SET data = ''",
        "TRUNCATE ledger_leaves",
        "DELETE FROM ledger_checkpoints",
        "UPDATE ledger_openings SET sealed = ''",
        "ALTER TABLE ledger_leaves DISABLE TRIGGER ALL",
        "DROP TRIGGER ledger_leaves_no_change ON ledger_leaves",
        "DROP TABLE ledger_leaves",
        "CREATE OR REPLACE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "SET session_replication_role = replica",
        "SET ROLE ledger_owner",
        "UPDATE ledger_version SET version_num = 'l9'",
    ],
)
def test_what_it_may_not_do_the_database_refuses(roles: str, statement: str) -> None:
    plain = roles.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(plain, autocommit=True) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


async def test_a_record_that_was_not_retired_cannot_be_deleted_by_it_either(roles: str, open_journal: Open) -> None:
    await (await open_journal(roles)).close()
    plain, refused = roles.replace("postgresql+psycopg", "postgresql"), psycopg.errors.RaiseException
    with psycopg.connect(plain, autocommit=True) as connection, pytest.raises(refused, match="append-only"):
        connection.execute("DELETE FROM ledger_leaves")
