"""What agents last said of themselves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "agent_cards",
        sa.Column("agent", sa.String(63), primary_key=True),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("verdict", sa.String(200), nullable=False),
        sa.Column("heard_at", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Forget them: every card is then seen for the first time."""
    op.drop_table("agent_cards")
