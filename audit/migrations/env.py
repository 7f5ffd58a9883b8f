"""Alembic's entry: runs the steps on the connection that `audit.store_sql.migrate` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from audit.store_tables import METADATA

connection = context.config.attributes["connection"]
# Ours rather than Alembic's, which may spell it differently one day: the verifier compares the words.
connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS ledger_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
context.configure(
    connection=connection,
    target_metadata=METADATA,
    version_table="ledger_version",  # the database may be shared with other tables of ours
    transactional_ddl=False,  # the transaction is the caller's, so that a step and its version stand or fall together
)
context.run_migrations()
