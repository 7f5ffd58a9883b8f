"""One outbox for all that is told; what waits in it about a person can be erased with them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add whom a notice is about, and until when it is told; of what waits already nobody knows whom."""
    op.add_column("outbox", sa.Column("subject", sa.String(400), nullable=False, server_default=""))
    op.add_column("outbox", sa.Column("until", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("ix_outbox_subject", "outbox", ["subject"])
    op.execute(sa.text("UPDATE outbox SET until = made + 259200000000"))
    op.drop_index("ix_approvals_tell_at", "approvals")
    op.drop_column("approvals", "tell_at")


def downgrade() -> None:
    """Take it apart; what waits stays, and of approvals that wait nobody is told any more."""
    op.add_column("approvals", sa.Column("tell_at", sa.BigInteger, nullable=True))
    op.create_index("ix_approvals_tell_at", "approvals", ["tell_at"])
    op.drop_index("ix_outbox_subject", "outbox")
    op.drop_column("outbox", "until")
    op.drop_column("outbox", "subject")
