"""Histories of workflows: what was called, what came of it, and what of budgets is used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "workflow_histories",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("workflow", sa.String(64), primary_key=True),
        sa.Column("epoch", sa.String(32), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("subject", sa.String(400), nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_workflow_histories_subject", "workflow_histories", ["subject"])
    op.create_index("ix_workflow_histories_until", "workflow_histories", ["until"])
    op.create_table(
        "workflow_steps",
        sa.Column("call", sa.String(40), primary_key=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("workflow", sa.String(64), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("resource", sa.String(1000), nullable=False),
        sa.Column("actor", sa.String(400), nullable=False),
        sa.Column("subject", sa.String(400), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("begun", sa.Text, nullable=False),
        sa.Column("results", sa.Text, nullable=False),
        sa.Column("purses", sa.Text, nullable=False),
    )
    op.create_index("ix_workflow_steps_version", "workflow_steps", ["tenant", "workflow", "version"])
    op.create_index("ix_workflow_steps_subject", "workflow_steps", ["subject", "at"])
    op.create_index("ix_workflow_steps_actor", "workflow_steps", ["actor", "at"])
    op.create_index("ix_workflow_steps_at", "workflow_steps", ["at"])
    op.create_index("ix_workflow_steps_state", "workflow_steps", ["state", "at"])
    op.create_table(
        "workflow_purses",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("subject", sa.String(400), nullable=False),
        sa.Column("drawn", sa.BigInteger, nullable=True),
        sa.Column("total", sa.Text, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_workflow_purses_subject", "workflow_purses", ["subject"])
    op.create_index("ix_workflow_purses_until", "workflow_purses", ["until"])
    op.create_table(
        "workflow_marks",
        sa.Column("mark", sa.String(64), primary_key=True),
        sa.Column("call", sa.String(40), primary_key=True),
    )
    op.create_index("ix_workflow_marks_call", "workflow_marks", ["call"])


def downgrade() -> None:
    """Forget them: every workflow then begins anew."""
    for table in ("workflow_marks", "workflow_purses", "workflow_steps", "workflow_histories"):
        op.drop_table(table)
