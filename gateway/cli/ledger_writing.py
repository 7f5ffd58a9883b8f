"""Writing into the ledger from the command line, beside the gateways; above all that something sealed is read, before it is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gateway.cli.asking import operator
from gateway.cli.output import misuse

if TYPE_CHECKING:
    from audit.journal import Journal
    from audit.reader import Ledger
    from gateway.settings import Settings

T = TypeVar("T")


@asynccontextmanager
async def journal_of(settings: Settings) -> AsyncIterator[Journal]:
    """The settings' ledger, to append to.  Nothing is made anew: neither a ledger nor a key.  `LedgerUnavailableError`."""
    from audit.journal import Journal as Opened  # noqa: PLC0415  the command line pays for what it uses
    from audit.model import LedgerUnavailableError  # noqa: PLC0415
    from gateway.cli.audit_views import existing_seal_key, own_vkey  # noqa: PLC0415
    from gateway.identity.keyfiles import ledger_key  # noqa: PLC0415
    from gateway.model import wall_clock  # noqa: PLC0415
    from gateway.stores import ledger_url_of, signed_head_of  # noqa: PLC0415

    url, seal = ledger_url_of(settings), existing_seal_key(settings, os.environ)
    if seal is None or own_vkey(settings, os.environ) is None or not kept(settings):
        raise LedgerUnavailableError("there is no ledger with its keys where the settings say")
    journal = await Opened.open(
        url=url,
        origin=settings.ledger.origin,
        signing_key=ledger_key(settings.data, settings.ledger.key, os.environ),
        seal_key=seal,
        writer=f"cli:{os.getpid()}",
        clock=wall_clock,
        kept=signed_head_of(settings),
    )
    try:
        yield journal
    finally:
        await journal.close()


def kept(settings: Settings) -> bool:
    """Whether there is a ledger where the settings say (a server is taken to have one)."""
    from gateway.stores import ledger_url_of  # noqa: PLC0415  as above

    url = ledger_url_of(settings)
    return not url.startswith("sqlite:///") or Path(url.removeprefix("sqlite:///")).exists()


def written(settings: Settings, work: Callable[[Journal], Awaitable[T]], what: str) -> T:
    """What `work` returns; ends the process where the ledger cannot be written."""
    from audit.model import LedgerUnavailableError  # noqa: PLC0415

    async def run() -> T:
        async with journal_of(settings) as journal:
            return await work(journal)

    try:
        return asyncio.run(run())
    except (LedgerUnavailableError, OSError, ValueError) as error:
        misuse(f"{what}: {error}", help="run it where the gateway's data folder is, as an account that may write there")


def reading(settings: Settings, wanted: str, reason: str) -> None:
    """Record that somebody is about to read what was sealed: durable on return; ends the process where that cannot be."""
    from audit.leaf import Kind  # noqa: PLC0415
    from audit.model import Entry, Value  # noqa: PLC0415
    from gateway.model import new_id, wall_clock  # noqa: PLC0415

    async def record(journal: Journal) -> None:
        at = wall_clock()
        fields: dict[str, object] = {"proto": "cli", "by": operator(), "wanted": wanted[:256]}
        await journal.append(Entry(Kind.AUDIT_READ, new_id(at), at, None, fields, (Value("reason", reason.encode()[:2048]),)))

    written(settings, record, "nothing is opened, as reading it cannot be recorded")


def opened(settings: Settings, ledger: Path | None, wanted: str, reason: str) -> Ledger:
    """The ledger that the settings name, or another file; what is sealed opens for a reason, once that is on record."""
    from audit.reader import Ledger as Log  # noqa: PLC0415  as above
    from audit.store import StoreError  # noqa: PLC0415
    from gateway.cli.audit_views import existing_seal_key, ledger_url  # noqa: PLC0415

    url = ledger_url(settings, ledger)
    try:
        log = Log.open(url, existing_seal_key(settings, os.environ), reveal=bool(reason))
        if reason:
            reading(settings, wanted, reason)
        return log
    except (StoreError, ValueError) as error:
        misuse(f"the ledger cannot be read: {error}", help="has the gateway run with these settings?")
