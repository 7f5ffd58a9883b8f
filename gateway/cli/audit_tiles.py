"""`bailiwick audit tiles`: the log as files that any web server can hand out, and any C2SP client can check."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.output import console, misuse, print_json, printable
from gateway.cli.which_log import LogName, one


def tiles(  # noqa: PLR0917  Typer reads the signature
    folder: Annotated[Path, typer.Argument(help="Where the files go; one that was written before is continued.")],
    config: Annotated[Path, typer.Option("--config", help="The settings, which say where the ledger is.")] = Path(
        "bailiwick.yaml"
    ),
    log_name: LogName = "",
    ledger: Annotated[Path | None, typer.Option("--ledger", help="Another ledger file (SQLite), such as a copy.")] = None,
    key: Annotated[str, typer.Option("--key", help="The log's verifier key, got from elsewhere than the file.")] = "",
    entries: Annotated[bool, typer.Option("--entries/--no-entries", help="Write the records too, or hashes alone.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Write the log out as static files (c2sp.org/tlog-tiles), or continue a folder of them.

    Everything is hashed again first; a log that does not continue what the folder holds is not published (exit 1).

    [bold]Example[/bold]   bailiwick audit tiles /srv/www/ledger
    """
    from audit.model import TamperedError  # noqa: PLC0415  the command line pays for what it uses
    from audit.store import StoreError  # noqa: PLC0415
    from audit.store_read import SqlReader  # noqa: PLC0415
    from audit.tile_folder import write  # noqa: PLC0415
    from gateway.cli.audit_views import ledger_url, own_vkey  # noqa: PLC0415

    if ledger is not None and key:
        url, vkey = f"sqlite:///{ledger.resolve()}", key
    else:
        settings = one(config, log_name, ledger)
        url, vkey = ledger_url(settings, ledger), key or own_vkey(settings, os.environ) or ""
    if folder.exists() and not folder.is_dir():
        misuse(f"{folder} is not a folder")
    try:
        rows = SqlReader(url)
        try:
            written = write(rows, folder, entries=entries, key=vkey or None)
        finally:
            rows.close()
    except TamperedError as error:
        console(stderr=True).print(printable(f"bailiwick: nothing was published: {error}"))
        raise typer.Exit(1) from None
    except (StoreError, OSError, ValueError, LookupError) as error:
        misuse(f"the ledger cannot be written out: {error}", help="has the gateway run with these settings?")
    if as_json:
        print_json({"before": written.before, "size": written.size, "files": written.files})
    else:
        console().print(
            printable(f"{folder}: {written.size} records ({written.size - written.before} new), {written.files} files")
        )
