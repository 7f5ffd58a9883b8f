"""What is still to be told of calls."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "outbox",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("receiver", sa.String(63), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.Column("made", sa.BigInteger, nullable=False),
        sa.Column("due", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_outbox_receiver", "outbox", ["receiver"])
    op.create_index("ix_outbox_due", "outbox", ["due"])


def downgrade() -> None:
    """Forget it: what waits is never told."""
    op.drop_table("outbox")
