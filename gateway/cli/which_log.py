"""Which log a verb is about, where each tenant has its own: the one that `--log` names, or the one that has what is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import misuse, printable

if TYPE_CHECKING:
    from audit.reader import Ledger
    from gateway.settings import Settings

LogName = Annotated[
    str,
    typer.Option(
        "--log", metavar="NAME", help="Where each tenant has a log of its own: a tenant, `ledger` (the gateway's own) or `root`."
    ),
]


def one(config: Path, log: str, ledger: Path | None = None) -> Settings:
    """The settings as one log has them; misuse where it is not clear which.  Of a copy (`ledger`) `--log` says whose it is."""
    from gateway.configuration import load  # noqa: PLC0415  the command line pays for what it uses
    from gateway.stores import LOG, several  # noqa: PLC0415

    settings = load(config, os.environ)
    if not log and ledger is None and several(settings):
        misuse("which log? each tenant has its own", help=f"--log NAME: {_names(settings)}")
    return _view(settings, log or LOG)


def every(config: Path, log: str) -> list[tuple[str, Settings]]:
    """The logs that are there, by name, or the one that is named."""
    from audit.several import exists  # noqa: PLC0415  as above
    from audit.store import StoreError  # noqa: PLC0415
    from gateway.configuration import load  # noqa: PLC0415
    from gateway.stores import LOG, ledger_url_of, logs_of, several  # noqa: PLC0415

    settings = load(config, os.environ)
    if log or not several(settings):
        return [(log or LOG, _view(settings, log or LOG))]
    views = [(name, _view(settings, name)) for name in logs_of(settings)]
    try:
        return [(name, view) for name, view in views if name == LOG or exists(ledger_url_of(view))]
    except (StoreError, ValueError) as error:
        misuse(f"the logs cannot be looked for: {error}", help="has the gateway run with these settings?")


def holding(config: Path, log: str, ledger: Path | None, has: Callable[[Ledger], bool]) -> Settings:
    """The settings as the log has them that holds what is asked for; of none, the gateway's own."""
    from audit.reader import Ledger as Log  # noqa: PLC0415  as above
    from audit.store import StoreError  # noqa: PLC0415
    from gateway.stores import ledger_url_of  # noqa: PLC0415

    if log or ledger is not None:
        return one(config, log, ledger)
    views = every(config, "")
    for _, view in views if len(views) > 1 else ():
        try:
            with Log.open(ledger_url_of(view)) as found:
                if has(found):
                    return view
        except (StoreError, ValueError) as error:
            misuse(f"the ledger cannot be read: {error}", help="has the gateway run with these settings?")
    return views[0][1]


def notes_in_root(views: list[tuple[str, Settings]]) -> Callable[[str], Iterator[str]]:
    """By origin, every checkpoint that the root log among them holds of a log; nothing where there is none."""
    from audit.reader import Ledger as Log  # noqa: PLC0415  as above
    from gateway.stores import ROOT, ledger_url_of  # noqa: PLC0415

    found: dict[str, list[str]] = {}
    for name, view in views:
        if name == ROOT:
            with Log.open(ledger_url_of(view)) as root:
                for record in root.records():
                    if record.kind == "log.checkpoint":
                        found.setdefault(str(record.leaf["of"]), []).append(str(record.leaf["note"]))
    return lambda origin: iter(found.get(origin, ()))


def _view(settings: Settings, name: str) -> Settings:
    from gateway.stores import of_log  # noqa: PLC0415  as above

    try:
        return of_log(settings, name)
    except LookupError:
        misuse(f"there is no log '{printable(name[:80])}'", help=f"--log NAME: {_names(settings)}")


def _names(settings: Settings) -> str:
    from gateway.stores import logs_of  # noqa: PLC0415  as above

    names = logs_of(settings)
    return ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
