"""`bailiwick audit seal`, `retire` and `segments`: old records into the archive, out of the log, and what is where."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from gateway.cli.asking import CONFIG, Config, Json, operator
from gateway.cli.output import console, misuse, print_json, printable
from gateway.cli.which_log import LogName, one

if TYPE_CHECKING:
    from audit.archive import Archive
    from audit.model import Entry, Receipt
    from audit.retention import Retention
    from gateway.settings import Settings
    from gateway.settings_ledger import Retention as Wanted

T = TypeVar("T")

_HELP: Final = "ledger.retention in the settings names a folder or a bucket: docs/how-to/retention.md"


def seal(
    until: Annotated[str, typer.Option("--until", help="Records before then: 2026-11-01, or 31d ago.")] = "31d",
    config: Config = CONFIG,
    log_name: LogName = "",
    as_json: Json = False,
) -> None:
    """Put the oldest records into the archive, 256 by 256, once they verify.  They stay in the log until they are retired.

    [bold]Example[/bold]   bailiwick audit seal --until 2026-11-01
    """
    before = _instant(until)
    made = _with(config, log_name, lambda retention: retention.seal(before, _progress("sealed")))
    if as_json:
        print_json({"sealed": None if made is None else _manifest(made)})
    elif made is None:
        console().print("nothing to seal: there are not 256 signed records before then that are in no segment")
    else:
        console().print(printable(f"sealed: records {made.start} to {made.stop - 1}, kept until {_day(made.keep_until)}"))


def retire(
    reason: Annotated[str, typer.Option("--reason", help="Why, and who agreed; it is recorded.")],
    config: Config = CONFIG,
    log_name: LogName = "",
    as_json: Json = False,
) -> None:
    """Let go of the segments whose time has come, once every file of them was read back from the archive.

    Exits with 1 where one whose turn it is cannot go, as under a legal hold.

    [bold]Example[/bold]   bailiwick audit retire --reason 'yearly, agreed by the DPO'
    """
    gone, held = _with(config, log_name, lambda retention: retention.retire(operator(), reason, _progress("deleted")))
    if as_json:
        print_json(
            {
                "retired": [{"from": each.start, "to": each.stop} for each in gone],
                "stays": [{"from": each.segment.start, "to": each.segment.stop, "why": each.why} for each in held],
            }
        )
    else:
        out = console()
        for each in gone:
            out.print(printable(f"retired: records {each.start} to {each.stop - 1}"))
        for kept in held:
            out.print(printable(f"stays: records {kept.segment.start} to {kept.segment.stop - 1}: {kept.why}"))
        if not gone and not held:
            out.print("there is no segment that is not retired")
    raise typer.Exit(1 if any(each.hold for each in held) else 0)


def segments(
    check: Annotated[bool, typer.Option("--check", help="Read every segment back, and verify it record by record.")] = False,
    config: Config = CONFIG,
    log_name: LogName = "",
    as_json: Json = False,
) -> None:
    """What is in the archive, until when, and what of it was retired.  With --check exits with 1 where one does not verify.

    [bold]Example[/bold]   bailiwick audit segments --check
    """
    from audit.retention import verify_segment  # noqa: PLC0415  the command line pays for what it uses
    from audit.segment import CARRY_OUT, MANIFEST, Manifest, name_of  # noqa: PLC0415

    def look(retention: Retention) -> list[dict[str, Any]]:
        found, before = [], b""
        for each in retention.known():
            name = name_of(each.start, each.stop)
            manifest = Manifest.parse(retention.archive.get(f"{name}/{MANIFEST}"))
            shown = _manifest(manifest) | {"retired": bool(each.retired)}
            if check:
                shown["wrong"] = verify_segment(retention.archive, name, retention.vkey, before)[0]
                before = retention.archive.get(f"{name}/{CARRY_OUT}")
            found.append(shown)
        return found

    found = _with(config, log_name, look)
    if as_json:
        print_json({"segments": found})
    elif not found:
        console().print("nothing is in the archive yet: bailiwick audit seal puts it there")
    for each in found if not as_json else ():
        state = "retired" if each["retired"] else "in the log too"
        wrong = "; ".join(each.get("wrong", ()))
        told = f"  WRONG: {wrong}" if wrong else "  verified" if check else ""
        console().print(
            printable(f"{each['from']:>12} to {each['to'] - 1:<12} kept until {each['keep_until'][:10]}, {state}{told}")
        )
    raise typer.Exit(1 if any(each.get("wrong") for each in found) else 0)


def _with(config: Path, log_name: str, work: Callable[[Retention], T]) -> T:
    """Do something with the settings' retention, in a thread beside the journal that records it."""
    from audit.archive import ArchiveError  # noqa: PLC0415
    from audit.model import LedgerUnavailableError, TamperedError  # noqa: PLC0415
    from audit.store import StoreError  # noqa: PLC0415

    settings = one(config, log_name)
    wanted = settings.ledger.retention
    if wanted is None:
        misuse("the settings name no archive", help=_HELP)
    try:
        return asyncio.run(_beside(settings, wanted, work))
    except ImportError:
        misuse("segments need another package", help="pip install 'bailiwick[archive]'")
    except TamperedError as error:
        console(stderr=True).print(printable(f"bailiwick: {error}"))
        raise typer.Exit(1) from None
    except (ArchiveError, StoreError, LedgerUnavailableError, ValueError, OSError) as error:
        misuse(f"the ledger's retention: {error}", help=_HELP)


async def _beside(settings: Settings, wanted: Wanted, work: Callable[[Retention], T]) -> T:
    from audit.retention import Retention as Made  # noqa: PLC0415
    from audit.retention import Rule  # noqa: PLC0415
    from gateway.cli.ledger_writing import journal_of  # noqa: PLC0415
    from gateway.model import wall_clock  # noqa: PLC0415
    from gateway.stores import ledger_url_of  # noqa: PLC0415
    from gateway.upstream.client import Upstreams  # noqa: PLC0415

    loop, upstreams = asyncio.get_running_loop(), Upstreams()
    try:
        async with journal_of(settings) as journal:

            def append(entry: Entry) -> Receipt:
                return asyncio.run_coroutine_threadsafe(journal.append(entry), loop).result()

            rule = Rule(wanted.classes, wanted.days)
            made = Made(ledger_url_of(settings), _archive(wanted, upstreams, loop), rule, append, wall_clock)
            return await asyncio.to_thread(work, made)
    finally:
        await upstreams.aclose()


def _archive(wanted: Wanted, upstreams: Any, loop: asyncio.AbstractEventLoop) -> Archive:
    from audit.archive import FolderArchive  # noqa: PLC0415
    from gateway.anchors.opening import bucket_of  # noqa: PLC0415
    from gateway.archive_s3 import BucketArchive  # noqa: PLC0415
    from gateway.model import wall_clock  # noqa: PLC0415

    if wanted.folder is not None:
        return FolderArchive(wanted.folder)
    assert wanted.s3 is not None  # noqa: S101  the settings have exactly one kind
    return BucketArchive(bucket_of(wanted.s3, os.environ, upstreams.send, wall_clock), loop, object_lock=wanted.object_lock)


def _instant(text: str) -> int:
    from audit.query import QueryError, instant  # noqa: PLC0415
    from gateway.model import wall_clock  # noqa: PLC0415

    try:
        return instant(text, wall_clock())
    except QueryError as error:
        misuse(str(error), help="bailiwick audit seal --until 2026-11-01")


def _progress(what: str) -> Callable[[int, int], None]:
    out = console(stderr=True)

    def told(done: int, of: int) -> None:
        out.print(f"{what} {done} of {of} records")

    return told


def _manifest(made: Any) -> dict[str, Any]:
    return {
        "from": made.start,
        "to": made.stop,
        "root": made.root,
        "classes": list(made.classes),
        "keep_until": _day(made.keep_until),
        "files": len(made.files) + 1,
    }


def _day(at: int) -> str:
    return datetime.fromtimestamp(at / 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
