"""What people call their conversations, where the agent was given another id."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns: what was claimed before is called as the agent calls it."""
    op.add_column("context_owners", sa.Column("word", sa.String(512), nullable=True))
    op.add_column("context_owners", sa.Column("word_key", sa.String(64), nullable=True))
    op.create_index("ix_context_owners_word_key", "context_owners", ["word_key"], unique=True)


def downgrade() -> None:
    """Forget the words: whoever uses one again begins another conversation."""
    op.drop_index("ix_context_owners_word_key", "context_owners")
    op.drop_column("context_owners", "word_key")
    op.drop_column("context_owners", "word")
