"""`bailiwick audit report` and `review`: what a period of the log comes to, and the word of somebody who looked at it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.asking import CONFIG, Config, Json, Url, ask
from gateway.cli.output import console, misuse, print_json, printable
from gateway.cli.which_log import LogName, one

if TYPE_CHECKING:
    from audit.report import Report

Since = Annotated[str, typer.Option("--from", help="From when: 2026-11-01, 2026-11-01T10:00Z, or 30d ago.")]
Until = Annotated[str, typer.Option("--to", help="Until when (exclusive).")]


def report(  # noqa: PLR0917  Typer reads the signature
    since: Since = "30d",
    until: Until = "0s",
    controls: Annotated[bool, typer.Option("--controls", help="Add which records speak to which control.")] = False,
    config: Config = CONFIG,
    log_name: LogName = "",
    ledger: Annotated[Path | None, typer.Option("--ledger", help="Another ledger file (SQLite), such as a copy.")] = None,
    as_json: Json = False,
) -> None:
    """Counts, gaps, calls without an end, changes, and who read, exported, reviewed.  Exits with 1 where something looks missing.

    It reads the log; that nobody changed it, `bailiwick audit verify` shows.

    [bold]Example[/bold]   bailiwick audit report --from 2026-11-01 --to 2026-12-01
    """
    from audit.controls import CONTROLS, NOTICE  # noqa: PLC0415  the command line pays for what it uses
    from audit.report import describe  # noqa: PLC0415
    from gateway.cli.audit_views import seen_by  # noqa: PLC0415

    settings = one(config, log_name, ledger)
    made = _made(settings, ledger, *_period(since, until))
    witnessed = str(seen_by(settings, ledger))
    if as_json:
        told: dict[str, Any] = made.to_dict() | {"witnessed": witnessed}
        if controls:
            told["controls"] = {"notice": NOTICE, "rows": [control._asdict() for control in CONTROLS]}
        print_json(told)
    else:
        out = console()
        out.print(printable(describe(made)))
        out.print(printable(witnessed), style="yellow" if witnessed.startswith("unwitnessed") else "green")
        if controls:
            out.print(f"controls ({NOTICE}):", style="bold")
            for control in CONTROLS:
                where = f"{', '.join(control.fields)}; bailiwick audit {', '.join(control.verbs)}"
                out.print(printable(f"  {control.framework} {control.clause}: {control.asks}: {where}"))
    raise typer.Exit(0 if made.complete else 1)


def review(  # noqa: PLR0917  as above
    note: Annotated[str, typer.Option("--note", help="What you looked at and found, in at most 160 characters.")],
    since: Since = "30d",
    until: Until = "0s",
    config: Config = CONFIG,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Put on record that you reviewed a period of the log: who, which period, the log's size then, and your note.

    Your access token stands in BAILIWICK_TOKEN; policy must grant you `review` on `audit:ledger`.

    [bold]Example[/bold]   bailiwick audit review --from 2026-11-01 --to 2026-12-01 --note 'two refusals looked into, none open'
    """
    first, last = _period(since, until)
    done = ask("POST", "/api/audit/reviews", config, url, {"from": first, "to": last, "note": note})
    if as_json:
        print_json(done)
    else:
        console().print(printable(f"on record as {done['id']}: {done['wanted']}"))


def _period(since: str, until: str) -> tuple[int, int]:
    from audit.query import QueryError, instant  # noqa: PLC0415

    now = time.time_ns() // 1000
    try:
        first, last = instant(since, now), instant(until, now)
    except QueryError as error:
        misuse(str(error), help="bailiwick audit report --from 2026-11-01 --to 2026-12-01")
    if first >= last:
        misuse(f"--from {since} is not before --to {until}")
    return first, last


def _made(settings: Any, ledger: Path | None, since: int, until: int) -> Report:
    from audit.model import TamperedError  # noqa: PLC0415
    from audit.reader import Ledger  # noqa: PLC0415
    from audit.report import report as made  # noqa: PLC0415
    from audit.store import StoreError  # noqa: PLC0415
    from gateway.cli.audit_views import ledger_url  # noqa: PLC0415

    try:
        with Ledger.open(ledger_url(settings, ledger)) as log:
            size = log.size
            return made(log.origin, log.records(0, size), size=size, since=since, until=until)
    except (StoreError, TamperedError, ValueError) as error:
        misuse(f"the ledger cannot be read: {error}", help="has the gateway run with these settings?")
