"""`bailiwick audit logs`: which logs the ledger is, whose each is, under which key; and making those that are not there yet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.output import console, misuse, print_json, printable
from gateway.cli.which_log import view

if TYPE_CHECKING:
    from gateway.settings import Settings


def logs(
    make: Annotated[
        bool, typer.Option("--make", help="Make those that are not there, for a gateway whose account may not.")
    ] = False,
    config: Annotated[Path, typer.Option("--config", help="The settings, which say where the ledger is.")] = Path(
        "bailiwick.yaml"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """The logs that the ledger is: name, origin, place, how many records, verifier key.

    [bold]Example[/bold]   bailiwick audit logs
    """
    from audit.store import StoreError  # noqa: PLC0415  the command line pays for what it uses
    from gateway.configuration import load  # noqa: PLC0415
    from gateway.stores import ROOT, logs_of  # noqa: PLC0415

    settings = load(config, os.environ)
    try:
        if make:
            _made(settings)
        found = [_told(name, view(settings, name)) for name in logs_of(settings)]
    except (StoreError, ValueError, OSError) as error:
        misuse(f"the logs cannot be looked at: {error}", help="run it as an account that reads (--make: that owns) the ledger")
    if as_json:
        print_json({"logs": found})
        return
    for each in found:
        size = "not made yet" if each["records"] is None else f"{each['records']} records"
        kind = "the root log over the others" if each["log"] == ROOT else each["origin"]
        console().print(printable(f"{each['log']:<20} {size:>16}  {kind}  {each['place']}"))
        if each["records"] is not None:
            style = "yellow" if each["witnessed"].startswith("unwitnessed") else "green"
            console().print(printable(f"{'':<20} {'':>16}  {each['witnessed']}"), style=style)
        if each["key"]:
            console().print(printable(f"{'':<20} {'':>16}  {each['key']}"), soft_wrap=True)


def _made(settings: Settings) -> None:
    from audit.store_sql import migrate  # noqa: PLC0415  as above
    from gateway.stores import ledger_url_of, logs_of  # noqa: PLC0415

    for name in logs_of(settings):
        migrate(ledger_url_of(view(settings, name)))


def _told(name: str, of: Settings) -> dict[str, Any]:
    from audit.reader import Ledger  # noqa: PLC0415  as above
    from audit.several import exists, place_of  # noqa: PLC0415
    from gateway.cli.audit_views import own_vkey, seen_by  # noqa: PLC0415
    from gateway.stores import ledger_url_of  # noqa: PLC0415

    url, size = ledger_url_of(of), None
    if exists(url):
        with Ledger.open(url) as log:
            size = log.size
    key = own_vkey(of, os.environ)
    said = str(seen_by(of, None))
    return {"log": name, "origin": of.ledger.origin, "place": place_of(url), "records": size, "key": key, "witnessed": said}
