"""Calls that wait for people to approve them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables.  Of one call, at most one approval is open."""
    op.create_table(
        "approvals",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("subject", sa.String(400), nullable=False),
        sa.Column("workflow", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("bundle", sa.String(80), nullable=False),
        sa.Column("resource", sa.String(1000), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("noted", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger, nullable=True),
        sa.Column("used_by", sa.String(40), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_approvals_subject", "approvals", ["subject"])
    op.create_index("ix_approvals_digest", "approvals", ["digest"])
    op.create_index("ix_approvals_expires_at", "approvals", ["expires_at"])
    is_open = sa.text("state = 'open'")
    op.create_index("ux_approvals_open", "approvals", ["digest"], unique=True, sqlite_where=is_open, postgresql_where=is_open)
    op.create_table(
        "approval_grants",
        sa.Column("approval", sa.String(40), primary_key=True),
        sa.Column("subject", sa.String(400), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Forget them: every such call is asked about again."""
    op.drop_table("approval_grants")
    op.drop_table("approvals")
