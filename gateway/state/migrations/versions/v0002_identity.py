"""Kills, what was used once, handed hops, kept credentials, standing grants."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "kills",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("target", sa.String(400), nullable=False, index=True),
        sa.Column("before", sa.BigInteger),
        sa.Column("reason", sa.String(256), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("by", sa.String(400), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("lifted_at", sa.BigInteger),
    )
    op.create_table(
        "used_once",
        sa.Column("scope", sa.String(128), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("until", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "handed_hops",
        sa.Column("agent", sa.String(63), primary_key=True),
        sa.Column("trace", sa.String(32), primary_key=True),
        sa.Column("call", sa.String(40), primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False, index=True),
    )
    _kept()


def _kept() -> None:
    op.create_table(
        "subject_tokens",
        sa.Column("workflow", sa.String(64), primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "vault_tokens",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("subject", sa.String(400), primary_key=True),
        sa.Column("upstream", sa.String(80), primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "vault_tickets",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "standing_grants",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("subject", sa.String(400), nullable=False, index=True),
        sa.Column("agent", sa.String(63), nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("definition", sa.String(128), nullable=False),
        sa.Column("ends", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
    )


def downgrade() -> None:
    """Forget all of it: who was killed could act again."""
    for table in (
        "standing_grants", "vault_tickets", "vault_tokens", "subject_tokens", "handed_hops", "used_once", "kills",
    ):  # fmt: skip
        op.drop_table(table)
