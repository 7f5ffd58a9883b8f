"""What Alembic runs: the open connection is handed in, so there is no ini file and no URL here."""

from __future__ import annotations

from alembic import context

from gateway.state.tables import Table

VERSION_TABLE = "state_version"

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    version_table=VERSION_TABLE,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
