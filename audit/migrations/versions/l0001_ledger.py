"""The ledger's first schema: append-only leaves and checkpoints, guarded by triggers.

Written as text, not built: `audit/verify.py` compares what a SQLite file says of its schema with these very words.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "l0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES: Final = {
    "ledger_log": "id INTEGER NOT NULL PRIMARY KEY, origin TEXT NOT NULL, vkey TEXT NOT NULL",
    "ledger_head": "id INTEGER NOT NULL PRIMARY KEY, size BIG NOT NULL, frontier BYTES NOT NULL, erasures BIG NOT NULL",
    "ledger_leaves": "idx BIG NOT NULL PRIMARY KEY, id TEXT NOT NULL UNIQUE, hash BYTES NOT NULL, data BYTES NOT NULL",
    "ledger_openings": "idx BIG NOT NULL, name TEXT NOT NULL, sealed BYTES NOT NULL, PRIMARY KEY (idx, name)",
    "ledger_subjects": (
        "pseudonym TEXT NOT NULL PRIMARY KEY, lookup BYTES NOT NULL UNIQUE, dek BYTES NOT NULL, name BYTES NOT NULL"
    ),
    "ledger_open_calls": "id TEXT NOT NULL PRIMARY KEY, idx BIG NOT NULL, writer TEXT NOT NULL, boot TEXT NOT NULL",
    "ledger_nodes": "level INTEGER NOT NULL, idx BIG NOT NULL, hash BYTES NOT NULL, PRIMARY KEY (level, idx)",
    "ledger_checkpoints": "size BIG NOT NULL PRIMARY KEY, note TEXT NOT NULL",
}
CLUSTERED: Final = frozenset({"ledger_openings", "ledger_nodes"})  # in SQLite: one tree on disk instead of two
# Beside SQLite the last signed head is a file.
SIGNED: Final = "id INTEGER NOT NULL PRIMARY KEY, size BIGINT NOT NULL, frontier BYTEA NOT NULL, note TEXT NOT NULL"
APPEND_ONLY: Final = ("ledger_leaves", "ledger_checkpoints", "ledger_nodes")


def upgrade() -> None:
    """Make the tables, the head of an empty log, and the guards."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    big, raw = ("INTEGER", "BLOB") if sqlite else ("BIGINT", "BYTEA")
    for table, columns in TABLES.items():
        without = " WITHOUT ROWID" if sqlite and table in CLUSTERED else ""
        op.execute(f"CREATE TABLE {table} ({columns.replace('BIG', big).replace('BYTES', raw)}){without}")
    empty = "x''" if sqlite else "''"
    op.execute(f"INSERT INTO ledger_head (id, size, frontier, erasures) VALUES (1, 0, {empty}, 0)")  # noqa: S608  constants
    if sqlite:
        _guard_sqlite()
    else:
        op.execute(f"CREATE TABLE ledger_signed ({SIGNED})")
        _guard_postgresql()


def _guard_sqlite() -> None:
    """UPDATE and DELETE are refused.  INSERT OR REPLACE deletes without asking those triggers: the index rule stops it."""
    for table in APPEND_ONLY:
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
    op.execute(
        "CREATE TRIGGER ledger_openings_no_update BEFORE UPDATE ON ledger_openings "
        "BEGIN SELECT RAISE(ABORT, 'ledger_openings is never changed'); END"
    )
    op.execute(
        "CREATE TRIGGER ledger_leaves_next BEFORE INSERT ON ledger_leaves "
        "WHEN NEW.idx IS NOT (SELECT coalesce(max(idx), -1) + 1 FROM ledger_leaves) "
        "BEGIN SELECT RAISE(ABORT, 'a leaf is appended at the end of the log'); END"
    )


def _guard_postgresql() -> None:
    """ENABLE ALWAYS holds for superusers and replication roles too; who disables a trigger is caught by the tree."""
    op.execute(
        "CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    for table in APPEND_ONLY:
        _always(table, "no_change", f"BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW")
        _always(table, "no_truncate", f"BEFORE TRUNCATE ON {table} FOR EACH STATEMENT")
    _always("ledger_openings", "no_change", "BEFORE UPDATE ON ledger_openings FOR EACH ROW")


def _always(table: str, name: str, when: str) -> None:
    op.execute(f"CREATE TRIGGER {table}_{name} {when} EXECUTE FUNCTION ledger_refuse()")
    op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_{name}")
