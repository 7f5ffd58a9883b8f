"""What servers' definitions said when they were first seen, and which of them are held back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "seen_definitions",
        sa.Column("server", sa.String(63), primary_key=True),
        sa.Column("what", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(256), primary_key=True),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.Column("held", sa.String(80), nullable=False),
        sa.Column("held_at", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Forget what was seen: whatever servers say next counts as first seen."""
    op.drop_table("seen_definitions")
