"""What the verbs that decide recorded calls again have in common: since when, which ledger, how far."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli.output import misuse, printable

if TYPE_CHECKING:
    from audit.reader import Ledger
    from gateway.reproduce import Past, Undecidable
    from gateway.settings import Settings
    from gateway.workflows.again import Retelling

_SPAN = re.compile(r"([0-9]{1,6})([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def since(text: str, now: int) -> int:
    """`30d`, `12h`, `2w` before now, or a date (UTC), in microseconds; "" is the beginning.  Anything else is misuse."""
    if not text:
        return 0
    span = _SPAN.fullmatch(text)
    if span:
        return max(now - int(span[1]) * _SECONDS[span[2]] * 1_000_000, 0)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        misuse(f"--since '{printable(text)}' is no time", help="as 30d, 12h, 2w, or a date: 2026-11-01, 2026-11-01T08:00:00Z")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(int(moment.timestamp()) * 1_000_000, 0)


def opened(settings: Settings, ledger: Path | None, wanted: str, reason: str) -> Ledger:
    """The log that the settings name (or another file) with the key that opens its values; misuse without it.

    What is about to be read, and why, is on record first; of a copy, where the settings have a ledger to record it in.
    """
    from audit.reader import Ledger  # noqa: PLC0415  the command line pays for what it uses
    from audit.store import StoreError  # noqa: PLC0415
    from gateway.cli.audit_views import existing_seal_key, ledger_url  # noqa: PLC0415
    from gateway.cli.ledger_writing import kept, reading  # noqa: PLC0415

    key = existing_seal_key(settings, os.environ)
    if key is None:
        misuse("what was asked is sealed, and there is no seal key", help="run it where the gateway's data folder is")
    try:
        log = Ledger.open(ledger_url(settings, ledger), key)
    except (StoreError, ValueError) as error:
        misuse(f"the ledger cannot be read: {error}", help="has the gateway run with these settings?")
    if ledger is None or kept(settings):
        reading(settings, wanted, reason)
    return log


def retelling(settings: Settings) -> Retelling:
    """Histories of workflows, told again from the ledger of these settings; `opened` was asked before."""
    from gateway.cli.audit_views import existing_seal_key  # noqa: PLC0415  the command line pays for what it uses
    from gateway.parts import derived  # noqa: PLC0415
    from gateway.workflows.again import Retelling  # noqa: PLC0415
    from gateway.workflows.opening import MARKS  # noqa: PLC0415

    key = existing_seal_key(settings, os.environ)
    if key is None:
        misuse("what was asked is sealed, and there is no seal key", help="run it where the gateway's data folder is")
    return Retelling(derived(key, MARKS))


def name_of(logs: Iterable[Ledger], pseudonym: str) -> str:
    """Whom a pseudonym stands for in one of the logs, where that can still be read."""
    from audit.model import TamperedError  # noqa: PLC0415
    from audit.reader import Shredded  # noqa: PLC0415

    last: str | Shredded | None = None
    for log in logs if pseudonym.startswith("s_") else ():
        try:
            last = log.subject_name(pseudonym) or last
        except TamperedError:
            continue
        if isinstance(last, str):
            break  # a log that has no key of theirs cannot tell who was erased there from whom it never knew
    return str(last or pseudonym)


def watched(found: Iterable[Past | Undecidable], size: int, what: str) -> Iterator[Past | Undecidable]:
    """The same, with a bar on stderr where that is a terminal: how far through the log's `size` records."""
    if not sys.stderr.isatty():
        yield from found
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("records"), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=size)
        for count, each in enumerate(found):
            if count % 64 == 0:
                progress.update(task, completed=each.record.index + 1)
            yield each
        progress.update(task, completed=size)
