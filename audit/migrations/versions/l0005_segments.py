"""Segments: what was put into an archive, and what of it was retired.  Leaves of a retired segment alone can be deleted."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "l0005"
down_revision = "l0004"
branch_labels = None
depends_on = None

SEGMENTS: Final = (
    "stop BIG NOT NULL PRIMARY KEY, start BIG NOT NULL, sealed TEXT NOT NULL, retired TEXT NOT NULL, carry BYTES NOT NULL"
)
_RETIRED: Final = "(SELECT coalesce(max(stop), 0) FROM ledger_segments WHERE retired <> '')"
_END: Final = "(SELECT coalesce(max(stop), 0) FROM ledger_segments)"
_SAME: Final = "NEW.stop = OLD.stop AND NEW.start = OLD.start AND NEW.sealed = OLD.sealed AND NEW.carry = OLD.carry"


def upgrade() -> None:
    """Make the table and its guards, and let go of what is retired."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"CREATE TABLE ledger_segments ({SEGMENTS.replace('BIG', 'INTEGER').replace('BYTES', 'BLOB')})")
        for statement in _guards_sqlite():
            op.execute(statement)
    else:
        op.execute(f"CREATE TABLE ledger_segments ({SEGMENTS.replace('BIG', 'BIGINT').replace('BYTES', 'BYTEA')})")
        for statement in _guards_postgresql():
            op.execute(statement)


def _guards_sqlite() -> tuple[str, ...]:
    return (
        "DROP TRIGGER ledger_leaves_no_delete",
        (
            f"CREATE TRIGGER ledger_leaves_no_delete BEFORE DELETE ON ledger_leaves WHEN OLD.idx >= {_RETIRED} "
            "BEGIN SELECT RAISE(ABORT, 'ledger_leaves is append-only'); END"
        ),
        (
            "CREATE TRIGGER ledger_segments_no_delete BEFORE DELETE ON ledger_segments "
            "BEGIN SELECT RAISE(ABORT, 'ledger_segments is append-only'); END"
        ),
        (
            f"CREATE TRIGGER ledger_segments_once BEFORE UPDATE ON ledger_segments WHEN NOT (OLD.retired = '' AND {_SAME}) "
            "BEGIN SELECT RAISE(ABORT, 'a segment is retired once, and nothing else of it changes'); END"
        ),
        (
            "CREATE TRIGGER ledger_segments_next BEFORE INSERT ON ledger_segments "
            f"WHEN NEW.start <> {_END} OR NEW.stop <= NEW.start OR NEW.stop % 256 <> 0 OR NEW.retired <> '' "
            "BEGIN SELECT RAISE(ABORT, 'a segment follows the one before it'); END"
        ),
    )


def _guards_postgresql() -> tuple[str, ...]:
    """As the others: ENABLE ALWAYS, so that superusers and replication roles meet them too."""
    return (
        (
            "CREATE FUNCTION ledger_refuse_leaf() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF TG_OP = 'DELETE' THEN IF OLD.idx < {_RETIRED} THEN RETURN OLD; END IF; END IF; "
            "RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
        ),
        (
            "CREATE FUNCTION ledger_check_segment() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF TG_OP = 'INSERT' THEN IF NEW.start = {_END} AND NEW.stop > NEW.start AND NEW.stop % 256 = 0 "
            "AND NEW.retired = '' THEN RETURN NEW; END IF; "
            f"ELSIF TG_OP = 'UPDATE' THEN IF OLD.retired = '' AND {_SAME} THEN RETURN NEW; END IF; END IF; "
            "RAISE EXCEPTION 'a segment follows the one before it, and is retired once'; END $$"
        ),
        "DROP TRIGGER ledger_leaves_no_change ON ledger_leaves",
        (
            "CREATE TRIGGER ledger_leaves_no_change BEFORE UPDATE OR DELETE ON ledger_leaves "
            "FOR EACH ROW EXECUTE FUNCTION ledger_refuse_leaf()"
        ),
        "ALTER TABLE ledger_leaves ENABLE ALWAYS TRIGGER ledger_leaves_no_change",
        (
            "CREATE TRIGGER ledger_segments_no_change BEFORE INSERT OR UPDATE OR DELETE ON ledger_segments "
            "FOR EACH ROW EXECUTE FUNCTION ledger_check_segment()"
        ),
        "ALTER TABLE ledger_segments ENABLE ALWAYS TRIGGER ledger_segments_no_change",
        (
            "CREATE TRIGGER ledger_segments_no_truncate BEFORE TRUNCATE ON ledger_segments "
            "FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()"
        ),
        "ALTER TABLE ledger_segments ENABLE ALWAYS TRIGGER ledger_segments_no_truncate",
    )
