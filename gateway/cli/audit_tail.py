"""The newest records, and those that come: a follower reads the log's own order, so that it misses none and shows none twice."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Final

from gateway.cli.audit_search import LINE, line_of
from gateway.cli.audit_views import summary
from gateway.cli.output import console, print_json, printable, unread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audit.reader import Ledger, Record

_PAUSE: Final = 0.3


def listed(log: Ledger, count: int, witnessed: str, *, as_json: bool) -> None:
    """The newest `count` records, oldest first, and who saw the log."""
    rows = [summary(record, log) for record in log.tail(count)]
    if as_json:
        print_json({"records": rows, "witnessed": witnessed})
        return
    out = console()
    out.print(LINE, style="bold")
    for row in rows:
        out.print(printable(line_of(row)))
    out.print(printable(witnessed), style="yellow" if witnessed.startswith("unwitnessed") else "green")


def followed(log: Ledger, count: int, *, as_json: bool) -> None:
    """The newest `count` records and every later one as it is committed, until the process is interrupted."""
    out = console()
    if not as_json:
        out.print(LINE, style="bold")
    with contextlib.suppress(KeyboardInterrupt):
        for record in _coming(log, max(log.size - count, 0)):
            row = summary(record, log)
            if as_json:
                print(json.dumps(row, ensure_ascii=False), flush=True)
            else:
                out.print(printable(line_of(row)))
            if unread():
                return


def _coming(log: Ledger, start: int) -> Iterator[Record]:
    while True:
        size = log.size
        yield from log.records(start, size)
        if size == start:
            time.sleep(_PAUSE)  # a database tells a reader of nothing
        start = size
