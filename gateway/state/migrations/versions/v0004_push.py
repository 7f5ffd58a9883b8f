"""Push notification configurations: where clients want news of their tasks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "push_configs",
        sa.Column("callback", sa.String(64), primary_key=True),
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("task_id", sa.String(512), nullable=False),
        sa.Column("config_id", sa.String(512), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("subject", sa.String(400), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_push_configs_subject", "push_configs", ["subject"])
    op.create_index("ix_push_configs_until", "push_configs", ["until"])


def downgrade() -> None:
    """Forget them: agents' news then reaches nobody."""
    op.drop_table("push_configs")
