"""Whether the database itself still refuses to change what was written: looked at whenever a writer opens the log.

Whoever may switch a guard off may do so afterwards, too: that only the tree shows, and only memory elsewhere proves.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from sqlalchemy import Connection

_GUARDED: Final = (
    *("ledger_leaves", "ledger_checkpoints", "ledger_nodes", "ledger_cosignatures", "ledger_timestamps", "ledger_segments"),
)
_TRIGGERS: Final = (
    "SELECT tgname, tgenabled::text FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid WHERE NOT tgisinternal "
    "AND relnamespace = current_schema()::regnamespace AND relname LIKE 'ledger_%%'"
)
_REMOVABLE: Final = (
    "SELECT rolsuper OR pg_has_role(current_user, relowner, 'MEMBER') FROM pg_roles, pg_class "
    "WHERE rolname = current_user AND pg_class.oid = 'ledger_leaves'::regclass"
)


class Guards(NamedTuple):
    """What is wrong with them; and whether the account that writes could take them away itself."""

    wrong: tuple[str, ...]
    removable: bool


def guards(connection: Connection, *, sqlite: bool) -> Guards:
    """As they are now."""
    return _sqlite(connection) if sqlite else _postgresql(connection)


def _sqlite(connection: Connection) -> Guards:
    from audit.verify import SCHEMA  # noqa: PLC0415  the verifier knows the words of each

    wanted = {name.removeprefix("trigger "): digest for name, digest in SCHEMA.items() if name.startswith("trigger ")}
    rows = connection.exec_driver_sql("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'")
    there = {name: hashlib.sha256(repr((table, sql)).encode()).hexdigest()[:16] for name, table, sql in rows}
    return Guards(tuple(name for name, digest in sorted(wanted.items()) if there.get(name) != digest), removable=True)


def _postgresql(connection: Connection) -> Guards:
    on = {name for name, enabled in connection.exec_driver_sql(_TRIGGERS) if enabled == "A"}
    wanted = [f"{table}_{guard}" for table in _GUARDED for guard in ("no_change", "no_truncate")] + ["ledger_openings_no_change"]
    removable = connection.exec_driver_sql(_REMOVABLE).scalar()
    return Guards(tuple(name for name in wanted if name not in on), removable=bool(removable))
