"""Several logs in one place: each has a database of its own beside the first one (SQLite), or a schema of its own (PostgreSQL).

Nothing is shared between them, not even a table: what holds for one log, its guards and its locks among it, holds for each alone.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from audit.store_connect import engine, parse_url, schema_of, sqlite_path
from audit.store_sql import store_error

ROOT: Final = "@root"
"""The log over the others.  No tenant is called so."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_LONGEST: Final = 50  # PostgreSQL cuts names at 63 bytes, silently


def url_of(url: str, name: str) -> str:
    """Where the log of that name is (a tenant's, or `ROOT`), beside the one at `url`.  `ValueError` for a name that is none."""
    if name != ROOT and _NAME.fullmatch(name) is None:
        msg = "a log is named by a tenant"
        raise ValueError(msg)
    parsed = parse_url(url)
    path = sqlite_path(parsed)
    if path is not None:
        return f"sqlite:///{path.with_name(f'{path.name}.tenants') / f'{name}.db'}"
    made = parsed.update_query_dict({"schema": _schema(name)})
    return made.render_as_string(hide_password=False)


def exists(url: str) -> bool:
    """Whether somebody has written a log at the URL.  Nothing is made.  `StoreError` where the database does not answer."""
    parsed = parse_url(url)
    path = sqlite_path(parsed)
    if path is not None:
        return Path(path).exists()
    where = schema_of(parsed)
    table = f"{where}.ledger_log" if where else "ledger_log"
    reading = engine(parsed, read_only=True)
    try:
        with reading.connect() as connection:
            made = connection.exec_driver_sql("SELECT to_regclass(%s) IS NOT NULL", (table,)).scalar()
            return bool(made and connection.exec_driver_sql("SELECT count(*) FROM ledger_log").scalar())
    except SQLAlchemyError as error:
        raise store_error(error) from error
    finally:
        reading.dispose()


def place_of(url: str) -> str:
    """Where a log is, in words that hold no password."""
    parsed = parse_url(url)
    path = sqlite_path(parsed)
    if path is not None:
        return str(path)
    return f"schema {schema_of(parsed) or '(of the URL)'} of {parsed.database or 'the database'}"


def _schema(name: str) -> str:
    if name == ROOT:
        return "log_root"
    plain = name.replace("-", "_")
    if len(plain) > _LONGEST:
        plain = f"{plain[:40]}_{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return f"log_t_{plain}"
