"""Who owns which task and context."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "task_owners",
        sa.Column("agent", sa.String(63), primary_key=True),
        sa.Column("task_id", sa.String(512), primary_key=True),
        sa.Column("context_id", sa.String(512), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("subject", sa.String(400), nullable=False),
        sa.Column("workflow", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "context_owners",
        sa.Column("agent", sa.String(63), primary_key=True),
        sa.Column("context_id", sa.String(512), primary_key=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("subject", sa.String(400), nullable=False),
        sa.Column("workflow", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Forget who owns what: nobody could read a task any more."""
    op.drop_table("context_owners")
    op.drop_table("task_owners")
