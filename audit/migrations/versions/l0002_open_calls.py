"""Open calls in one tree: a call's beginning and its end each touched two pages where one does.

In SQLite alone; PostgreSQL keeps its rows beside the index in any case.  The table is made anew under its own name, because the
verifier compares the words of the schema and a renamed table has others.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "l0002"
down_revision = "l0001"
branch_labels = None
depends_on = None

OPEN_CALLS: Final = "id TEXT NOT NULL PRIMARY KEY, idx INTEGER NOT NULL, writer TEXT NOT NULL, boot TEXT NOT NULL"


def upgrade() -> None:
    """Move the rows over."""
    if op.get_bind().dialect.name != "sqlite":
        return
    op.execute("CREATE TEMPORARY TABLE ledger_moving AS SELECT id, idx, writer, boot FROM ledger_open_calls")
    op.execute("DROP TABLE ledger_open_calls")
    op.execute(f"CREATE TABLE ledger_open_calls ({OPEN_CALLS}) WITHOUT ROWID")
    op.execute("INSERT INTO ledger_open_calls (id, idx, writer, boot) SELECT id, idx, writer, boot FROM ledger_moving")
    op.execute("DROP TABLE ledger_moving")
