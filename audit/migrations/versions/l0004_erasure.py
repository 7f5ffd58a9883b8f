"""What erasing a person needs: legal holds in force, and whose sealed values are still to be deleted."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "l0004"
down_revision = "l0003"
branch_labels = None
depends_on = None

TABLES: Final = {
    "ledger_holds": "id TEXT NOT NULL PRIMARY KEY, pseudonym TEXT NOT NULL",
    "ledger_sweeps": "pseudonym TEXT NOT NULL PRIMARY KEY, idx BIG NOT NULL",
}


def upgrade() -> None:
    """Make the tables."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    for table, columns in TABLES.items():
        said = columns.replace("BIG", "INTEGER" if sqlite else "BIGINT")
        op.execute(f"CREATE TABLE {table} ({said}){' WITHOUT ROWID' if sqlite else ''}")
