"""Who is to be told that a call waits for an approval."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of what was parked before nobody is told."""
    op.add_column("approvals", sa.Column("tell_at", sa.BigInteger, nullable=True))
    op.create_index("ix_approvals_tell_at", "approvals", ["tell_at"])


def downgrade() -> None:
    """Forget it."""
    op.drop_index("ix_approvals_tell_at", "approvals")
    op.drop_column("approvals", "tell_at")
