"""The ledger's first schema: append-only leaves and checkpoints, guarded by triggers."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "l0001"
down_revision = None
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables, the head of an empty log, and the guards."""
    _tables()
    head = sa.table(
        "ledger_head", sa.column("id"), sa.column("size"), sa.column("frontier", sa.LargeBinary), sa.column("erasures")
    )
    op.bulk_insert(head, [{"id": 1, "size": 0, "frontier": b"", "erasures": 0}])
    if op.get_bind().dialect.name == "sqlite":
        _guard_sqlite()
    else:
        _guard_postgresql()


def _key(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False, nullable=False)


def _tables() -> None:
    def blob(name: str) -> sa.Column[bytes]:
        return sa.Column(name, sa.LargeBinary, nullable=False)

    def text(name: str, *, unique: bool = False) -> sa.Column[str]:
        return sa.Column(name, sa.Text, nullable=False, unique=unique)

    def big(name: str) -> sa.Column[int]:
        return sa.Column(name, _BIG, nullable=False)

    op.create_table("ledger_log", _key("id", sa.Integer()), text("origin"), text("vkey"))
    op.create_table("ledger_head", _key("id", sa.Integer()), big("size"), blob("frontier"), big("erasures"))
    op.create_table("ledger_leaves", _key("idx", _BIG), text("id", unique=True), blob("hash"), blob("data"))
    op.create_table("ledger_openings", _key("idx", _BIG), _key("name", sa.Text()), blob("sealed"), sqlite_with_rowid=False)
    lookup = sa.Column("lookup", sa.LargeBinary, nullable=False, unique=True)
    op.create_table("ledger_subjects", _key("pseudonym", sa.Text()), lookup, blob("dek"), blob("name"))
    op.create_table("ledger_open_calls", _key("id", sa.Text()), big("idx"), text("writer"), text("boot"))
    op.create_table("ledger_nodes", _key("level", sa.Integer()), _key("idx", _BIG), blob("hash"), sqlite_with_rowid=False)
    op.create_table("ledger_checkpoints", _key("size", _BIG), text("note"))
    if op.get_bind().dialect.name != "sqlite":  # beside SQLite the last signed head is a file
        op.create_table("ledger_signed", _key("id", sa.Integer()), big("size"), blob("frontier"), text("note"))


def _guard_sqlite() -> None:
    """UPDATE and DELETE are refused.  INSERT OR REPLACE deletes without asking those triggers: the index rule stops it."""
    for table in ("ledger_leaves", "ledger_checkpoints", "ledger_nodes"):
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
    op.execute(
        "CREATE TRIGGER ledger_openings_no_update BEFORE UPDATE ON ledger_openings "
        "BEGIN SELECT RAISE(ABORT, 'ledger_openings is never changed'); END"
    )
    op.execute(
        "CREATE TRIGGER ledger_leaves_next BEFORE INSERT ON ledger_leaves "
        "WHEN NEW.idx IS NOT (SELECT coalesce(max(idx), -1) + 1 FROM ledger_leaves) "
        "BEGIN SELECT RAISE(ABORT, 'a leaf is appended at the end of the log'); END"
    )


def _guard_postgresql() -> None:
    """ENABLE ALWAYS holds for superusers and replication roles too; who disables a trigger is caught by the tree."""
    op.execute(
        "CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    for table in ("ledger_leaves", "ledger_checkpoints", "ledger_nodes"):
        _always(table, "no_change", f"BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW")
        _always(table, "no_truncate", f"BEFORE TRUNCATE ON {table} FOR EACH STATEMENT")
    _always("ledger_openings", "no_change", "BEFORE UPDATE ON ledger_openings FOR EACH ROW")


def _always(table: str, name: str, when: str) -> None:
    op.execute(f"CREATE TRIGGER {table}_{name} {when} EXECUTE FUNCTION ledger_refuse()")
    op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_{name}")
