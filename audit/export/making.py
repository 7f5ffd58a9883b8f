"""An export from beginning to end; one that was cut off is gone on with, where it was and as it was wished."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from audit import checkpoint as notes
from audit.export import parquet
from audit.export.collecting import Told, collect
from audit.export.finishing import Means, finish, publish
from audit.export.plan import PLAN, Plan, Progress
from audit.export.query import Query
from audit.model import TamperedError
from audit.reader import Ledger
from audit.verify import ROWS

FORMATS: Final = (*ROWS, parquet.NAME)

_TIMES: Final = re.compile(rb'"ts":([0-9]+)')

Record = Callable[[str, Plan, Progress], None]
"""Has the ledger say that an export was made: the SHA-256 (hex) of its manifest, what it holds.  Durable on return."""


class OtherWishError(Exception):
    """What was begun in that place is another export."""


def planned(log: Ledger, wish: Plan) -> Plan:
    """The wish with the records that it is about: from the first that is not too old to the last that is not too new."""
    whole = Query()
    if (wish.query.since, wish.query.until) == (whole.since, whole.until):
        return replace(wish, first=log.first, stop=wish.size)
    first = stop = -1
    for stored in log.rows.leaves(log.first, wish.size):
        found = _TIMES.findall(stored.data)
        at = int(found[0]) if len(found) == 1 else int(str(stored.record()["ts"]))  # spares most of a log being parsed
        if wish.query.since <= at < wish.query.until:
            first, stop = (stored.index if first < 0 else first), stored.index + 1
    return replace(wish, first=max(first, 0), stop=max(stop, 0))


def begun(out: Path) -> Path:
    """Where an export is made until it is whole."""
    return out.with_name(out.name + ".partial")


def resumed(out: Path, wish: Plan) -> Plan | None:
    """The plan of the export that was cut off there; None where there is none.  `OtherWishError` for another wish."""
    folder = begun(out)
    if not (folder / PLAN).exists():
        if folder.exists():
            shutil.rmtree(folder)  # cut off before anything was settled
        return None
    plan = Plan.load(folder)
    asked = (wish.query, wish.formats, wish.reason, wish.disclose)
    if asked != (plan.query, plan.formats, plan.reason, plan.disclose):
        msg = f"{folder} is another export, cut off: ask for that one to end it, or remove it"
        raise OtherWishError(msg)
    return plan


def make(  # noqa: PLR0917  what an export is made of
    log: Ledger, plan: Plan, out: Path, means: Means, record: Record, told: Told = lambda _done, _of: None
) -> tuple[str, Progress]:
    """Make the export at `out`; the SHA-256 (hex) of its manifest, and what it holds.

    `TamperedError` where the log is not what was hashed or signed, `TooManyError` for too large a selection.
    """
    folder = begun(out)
    if not (folder / PLAN).exists():
        folder.mkdir(parents=True, mode=0o700)
        plan.save(folder)
    with _alone(folder):
        return _made(log, plan, out, means, record, told)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else makes this export meanwhile; `OtherWishError` where somebody does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        msg = f"another process makes {folder} just now"
        raise OtherWishError(msg) from None
    finally:
        os.close(descriptor)


def _made(log: Ledger, plan: Plan, out: Path, means: Means, record: Record, told: Told) -> tuple[str, Progress]:  # noqa: PLR0917
    folder = begun(out)
    signed = notes.parse(plan.note)[0]
    progress = collect(log, plan, folder, told)
    if parquet.NAME in plan.formats:
        parquet.write(folder)
    manifest = finish(log.rows, plan, progress, folder, means)
    if (signed.size, plan.complete) == (plan.stop, True) and log.root_at(plan.size) != signed.root:
        msg = f"the stored hashes are not the tree of {plan.size} records that was signed"
        raise TamperedError(msg)
    digest = hashlib.sha256(manifest).hexdigest()
    record(digest, plan, progress)
    publish(folder, out)
    return digest, progress
