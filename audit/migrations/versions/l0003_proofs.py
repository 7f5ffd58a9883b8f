"""What others said of the log, beside it: cosignatures of witnesses, timestamps, and how far each anchor has come."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "l0003"
down_revision = "l0002"
branch_labels = None
depends_on = None

TABLES: Final = {
    "ledger_cosignatures": "size BIG NOT NULL, witness TEXT NOT NULL, line TEXT NOT NULL, PRIMARY KEY (size, witness)",
    "ledger_timestamps": "size BIG NOT NULL, authority TEXT NOT NULL, token BYTES NOT NULL, PRIMARY KEY (size, authority)",
    "ledger_anchors": "name TEXT NOT NULL PRIMARY KEY, size BIG NOT NULL, at BIG NOT NULL",
}
APPEND_ONLY: Final = ("ledger_cosignatures", "ledger_timestamps")


def upgrade() -> None:
    """Make the tables and their guards."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    big, raw = ("INTEGER", "BLOB") if sqlite else ("BIGINT", "BYTEA")
    for table, columns in TABLES.items():
        op.execute(
            f"CREATE TABLE {table} ({columns.replace('BIG', big).replace('BYTES', raw)}){' WITHOUT ROWID' if sqlite else ''}"
        )
    for table in APPEND_ONLY:
        if sqlite:
            for verb in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
        else:
            _always(table, "no_change", f"BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW")
            _always(table, "no_truncate", f"BEFORE TRUNCATE ON {table} FOR EACH STATEMENT")


def _always(table: str, name: str, when: str) -> None:
    op.execute(f"CREATE TRIGGER {table}_{name} {when} EXECUTE FUNCTION ledger_refuse()")
    op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_{name}")
