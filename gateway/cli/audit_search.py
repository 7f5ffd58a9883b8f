"""`bailiwick audit search`: records by what they say, newest first, each read from the log again before it is shown."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.output import console, misuse, print_json, printable
from gateway.cli.which_log import LogName, one

if TYPE_CHECKING:
    from audit.index import Found, Index
    from audit.query import Query
    from audit.reader import Ledger
    from gateway.settings import Settings

CONFIG = Path("bailiwick.yaml")
LINE: Final = f"{'record':>6}  {'time (UTC)':<20} {'kind':<17} {'id, for show':<36}  what, by whom"
_SHOWN: Final = 100


def line_of(row: Mapping[str, Any]) -> str:
    """One line of a list of records."""
    by = str(row["who"]).rpartition(" > ")[2]
    line = f"{row['index']:>6}  {row['at'][:19]:<20} {row['kind']:<17} {row['id']}  {row['what']}"
    return f"{line}  {by}" if by else line


def search(  # noqa: PLR0917  Typer reads the signature
    query: Annotated[list[str] | None, typer.Argument(help="Terms, all of which must hold; none finds everything.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="How many.")] = 50,
    before: Annotated[int | None, typer.Option("--before", min=0, help="Only records before this one: the next page.")] = None,
    size: Annotated[int | None, typer.Option("--size", min=0, help="As of this size of the log: always the same hits.")] = None,
    count_by: Annotated[str, typer.Option("--count-by", help="Count by kind, agent, server, reason … instead of listing.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Compare the whole index with the log.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the index anew first.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why you read people's names; recorded before they are shown.")] = "",
    config: Annotated[Path, typer.Option("--config", help="The settings, which say where the ledger is.")] = CONFIG,
    log_name: LogName = "",
    ledger: Annotated[Path | None, typer.Option("--ledger", help="Another ledger file (SQLite), such as a copy.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Records by what they say, newest first.  Terms: `kind:`, `agent:`, `subject:`, `server:`, `tool:`, `effect:`, `reason:`,
    `outcome:`, `workflow:` …, `since:2h`, `until:2026-12-01`; `-` before one excludes, `,` means or, `*` stands at either end.

    [bold]Example[/bold]   bailiwick audit search effect:deny agent:agent:planner since:7d
    """
    from audit.query import QueryError  # noqa: PLC0415  the command line pays for what it uses

    with _opened(one(config, log_name, ledger), ledger, reason) as (log, index):
        if rebuild:
            index.rebuild()
        if check:
            _checked(list(islice(index.check(), _SHOWN)), as_json=as_json)
            return
        try:
            asked = meant(shlex.join(query or ()), log)
        except QueryError as error:
            misuse(str(error), help="bailiwick audit search --help")
        if count_by:
            _counted(index, count_by, asked, as_json=as_json)
        else:
            _listed(log, index.search(asked, count=count, before=before, size=size), as_json=as_json)


def meant(text: str, log: Ledger) -> Query:
    """The query, with people as this log names them.  Raises `QueryError`."""
    from audit.query import parse  # noqa: PLC0415

    return parse(text, time.time_ns() // 1000).known_by(log.pseudonym)


@contextlib.contextmanager
def _opened(settings: Settings, ledger: Path | None, reason: str) -> Iterator[tuple[Ledger, Index]]:
    """The log and its index: beside the settings' data, or in memory where one only looks at a copy."""
    from audit.index import Index as Made  # noqa: PLC0415
    from audit.model import TamperedError  # noqa: PLC0415
    from audit.reader import Ledger as Log  # noqa: PLC0415
    from audit.store import StoreError  # noqa: PLC0415
    from gateway.cli.audit_views import existing_seal_key, ledger_url  # noqa: PLC0415
    from gateway.cli.ledger_writing import reading  # noqa: PLC0415
    from gateway.stores import index_of  # noqa: PLC0415

    if reason:
        reading(settings, "names in a search", reason)
    try:
        with (
            Log.open(ledger_url(settings, ledger), existing_seal_key(settings, os.environ), reveal=bool(reason)) as log,
            Made(log, index_of(settings) if ledger is None else None) as index,
        ):
            yield log, index
    except TamperedError as error:
        print(f"bailiwick: {printable(str(error))}", file=sys.stderr)
        raise typer.Exit(1) from None
    except (StoreError, ValueError) as error:
        misuse(f"the ledger cannot be searched: {error}", help="has the gateway run with these settings?")


def _listed(log: Ledger, found: Found, *, as_json: bool) -> None:
    from gateway.cli.audit_views import summary  # noqa: PLC0415

    rows = [summary(record, log) for record in found.records]
    if as_json:
        print_json({"records": rows, "size": found.size, "older": found.older})
        return
    out = console()
    out.print(LINE, style="bold")
    for row in rows:
        out.print(printable(line_of(row)))
    shown = f"{len(rows)} of the first {found.size} records"
    more = f"; older ones: --size {found.size} --before {found.older}" if found.older is not None else ""
    out.print(f"{shown}{more}", style="dim")


def _counted(index: Index, facet: str, asked: Query, *, as_json: bool) -> None:
    from audit.facets import FACETS  # noqa: PLC0415

    if facet not in FACETS:
        misuse(f"there is nothing called '{printable(facet)}' to count by", help=f"there are: {', '.join(FACETS)}")
    found = index.counts(facet, asked)
    if as_json:
        print_json({"by": facet, "counts": [{"value": value, "count": count} for value, count in found]})
        return
    for value, count in found:
        console().print(printable(f"{count:>9}  {value or '(none)'}"))


def _checked(wrong: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"agrees": not wrong, "findings": list[object](wrong)})
    else:
        console().print(printable("\n".join(wrong)) or "the index agrees with the log, record by record")
    raise typer.Exit(1 if wrong else 0)
