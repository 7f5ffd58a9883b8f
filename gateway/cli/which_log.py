"""Which log a verb is about, where each tenant has its own: the one that `--log` names, or the one that has what is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
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


EveryLog = Annotated[
    bool, typer.Option("--all-logs", help="Where each tenant has a log of its own: over all of them, with one summary.")
]


def one(config: Path, log: str, ledger: Path | None = None, or_else: str = "") -> Settings:
    """The settings as one log has them; misuse where it is not clear which.  Of a copy (`ledger`) `--log` says whose it is.

    or_else  what else the verb takes, for whoever names none.
    """
    from gateway.configuration import load  # noqa: PLC0415  the command line pays for what it uses
    from gateway.stores import LOG, several  # noqa: PLC0415

    settings = load(config, os.environ)
    if not log and ledger is None and several(settings):
        misuse("which log? each tenant has its own", help=f"--log NAME: {_names(settings)}{or_else}")
    return view(settings, log or LOG)


def deciding(config: Path, log: str, ledger: Path | None, *, all_logs: bool) -> list[tuple[str, Settings]]:
    """The log that is meant, or (`all_logs`) every one that is there and holds decisions, by name; else misuse."""
    from gateway.stores import LOG, ROOT  # noqa: PLC0415  as above

    if not all_logs:
        return [(log or LOG, one(config, log, ledger, "; or --all-logs"))]
    if log or ledger is not None:
        misuse("--all-logs is about every log, --log and --ledger are about one")
    return [(name, each) for name, each in every(config, "") if name != ROOT]


def every(config: Path, log: str) -> list[tuple[str, Settings]]:
    """The logs that are there, by name, or the one that is named."""
    from audit.several import exists  # noqa: PLC0415  as above
    from audit.store import StoreError  # noqa: PLC0415
    from gateway.configuration import load  # noqa: PLC0415
    from gateway.stores import LOG, ledger_url_of, logs_of, several  # noqa: PLC0415

    settings = load(config, os.environ)
    if log or not several(settings):
        return [(log or LOG, view(settings, log or LOG))]
    views = [(name, view(settings, name)) for name in logs_of(settings)]
    try:
        return [(name, each) for name, each in views if name == LOG or exists(ledger_url_of(each))]
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
    for _, each in views if len(views) > 1 else ():
        try:
            with Log.open(ledger_url_of(each)) as found:
                if has(found):
                    return each
        except (StoreError, ValueError) as error:
            misuse(f"the ledger cannot be read: {error}", help="has the gateway run with these settings?")
    return views[0][1]


def notes_in_root(views: list[tuple[str, Settings]]) -> dict[str, list[str]]:
    """By origin, every checkpoint that the root log among them holds of a log; nothing where there is none."""
    from audit.reader import Ledger as Log  # noqa: PLC0415  as above
    from gateway.stores import ROOT, ledger_url_of  # noqa: PLC0415

    found: dict[str, list[str]] = {}
    for name, each in views:
        if name == ROOT:
            with Log.open(ledger_url_of(each)) as root:
                for record in root.records():
                    if record.kind == "log.checkpoint":
                        found.setdefault(str(record.leaf["of"]), []).append(str(record.leaf["note"]))
    return found


def left_out(own: Settings, held: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of logs that the root log knows and that were not checked: which are gone, and which no settings name any more."""
    from audit.several import exists, url_of  # noqa: PLC0415  as above
    from gateway.stores import ledger_url_of  # noqa: PLC0415

    prefix = f"{own.ledger.origin}/t/"
    gone: list[str] = []
    unnamed: list[str] = []
    for origin in sorted(each for each in held if each.startswith(prefix)):
        name = origin.removeprefix(prefix)
        (gone if name in own.every_tenant or not exists(url_of(ledger_url_of(own), name)) else unnamed).append(origin)
    return gone, unnamed


def view(settings: Settings, name: str) -> Settings:
    """The settings as the log of that name has them; misuse where they name none."""
    from gateway.stores import of_log  # noqa: PLC0415  as above

    try:
        return of_log(settings, name)
    except LookupError:
        misuse(f"there is no log '{printable(name[:80])}'", help=f"--log NAME: {_names(settings)}")


def _names(settings: Settings) -> str:
    from gateway.stores import logs_of  # noqa: PLC0415  as above

    names = logs_of(settings)
    return ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
