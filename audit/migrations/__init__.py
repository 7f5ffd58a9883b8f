"""The ledger's schema, step by step.  Run by `audit.store_sql.migrate`; there is no ini file."""
