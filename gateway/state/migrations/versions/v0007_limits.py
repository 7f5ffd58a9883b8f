"""Rates and slots of calls that a duty limits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "limit_rates",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("due", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_limit_rates_due", "limit_rates", ["due"])
    op.create_table(
        "limit_slots",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("holder", sa.String(40), primary_key=True),
        sa.Column("until", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_limit_slots_holder", "limit_slots", ["holder"])
    op.create_index("ix_limit_slots_until", "limit_slots", ["until"])


def downgrade() -> None:
    """Forget them: every limit is unused then."""
    op.drop_table("limit_slots")
    op.drop_table("limit_rates")
