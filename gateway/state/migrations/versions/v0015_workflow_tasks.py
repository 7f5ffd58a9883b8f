"""Which task a step became, and which record says what became of that."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; what was open before stays so."""
    op.add_column("workflow_steps", sa.Column("task", sa.String(64), nullable=False, server_default=""))
    op.add_column("workflow_steps", sa.Column("settler", sa.String(40), nullable=False, server_default=""))
    filled = sa.text("task <> ''")
    op.create_index("ix_workflow_steps_task", "workflow_steps", ["task"], sqlite_where=filled, postgresql_where=filled)


def downgrade() -> None:
    """Forget them."""
    op.drop_index("ix_workflow_steps_task", "workflow_steps")
    op.drop_column("workflow_steps", "settler")
    op.drop_column("workflow_steps", "task")
