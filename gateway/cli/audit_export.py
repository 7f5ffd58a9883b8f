"""`bailiwick audit export`: records taken out for an auditor, with what proves them, in a folder or zip that stands alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.asking import operator
from gateway.cli.output import console, misuse, print_json, printable
from gateway.cli.which_log import LogName, one

if TYPE_CHECKING:
    from audit.export.collecting import Told
    from audit.export.plan import Plan, Progress
    from audit.reader import Ledger
    from gateway.settings import Settings

_MOST: Final = 200
Several = list[str] | None


def export(  # noqa: PLR0917  Typer reads the signature
    out: Annotated[Path, typer.Option("--out", help="A new folder, or a new file that ends in .zip.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, and for whom; it stands in the export and in the ledger.")],
    since: Annotated[str, typer.Option("--from", metavar="WHEN", help="30d, 12h, or a date (UTC); default: the beginning.")] = "",
    until: Annotated[str, typer.Option("--to", metavar="WHEN", help="Not from then on; default: now.")] = "",
    subject: Annotated[Several, typer.Option("--subject", help="A person, by name or pseudonym; may be repeated.")] = None,
    workflow: Annotated[Several, typer.Option("--workflow", help="A workflow; may be repeated.")] = None,
    agent: Annotated[Several, typer.Option("--agent", help="An agent of the chain; may be repeated.")] = None,
    server: Annotated[Several, typer.Option("--server", help="A server or agent that was called; may be repeated.")] = None,
    kind: Annotated[Several, typer.Option("--kind", help="A kind of record; may be repeated.")] = None,
    formats: Annotated[str, typer.Option("--format", help="Some of jsonl, csv, ocsf, cef, otlp, parquet.")] = "jsonl,csv",
    disclose: Annotated[Several, typer.Option("--disclose", help="Open values of this name (`all`: every one).")] = None,
    config: Annotated[Path, typer.Option("--config", help="The settings, which say where the ledger is.")] = Path(
        "bailiwick.yaml"
    ),
    log_name: LogName = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Export records with their proof: a complete range of the log, or (with --subject, --kind …) a selection of it.

    What is cut off goes on when the same is asked again.  The export is on record, with the hash of its manifest; check it with
    `bailiwick audit verify --ledger EXPORT`, or with nothing but Python: `python3 verify.py EXPORT`.

    [bold]Example[/bold]   bailiwick audit export --from 2026-01-01 --to 2026-04-01 --out q1.zip --reason 'SOC 2, Q1'
    """
    from audit.export.collecting import TooManyError  # noqa: PLC0415  the command line pays for what it uses
    from audit.export.finishing import Means  # noqa: PLC0415
    from audit.export.making import OtherWishError, make, planned, resumed  # noqa: PLC0415
    from audit.model import TamperedError  # noqa: PLC0415
    from audit.store import StoreError  # noqa: PLC0415
    from gateway.cli.ledger_writing import reading, written  # noqa: PLC0415
    from gateway.identity.keyfiles import ledger_key  # noqa: PLC0415

    if out.exists():
        misuse(f"{out} is there already", help="an export is never written over")
    wanted = tuple(dict.fromkeys(name.strip() for name in formats.split(",") if name.strip()))
    _check(wanted, reason, out)
    settings = one(config, log_name)
    named = tuple(subject or ()), tuple(workflow or ()), tuple(agent or ()), tuple(server or ()), tuple(kind or ())
    try:
        with _opened(settings, reveal=bool(disclose)) as log:
            wish = _wish(settings, log, (since, until), named, wanted, reason, tuple(sorted(disclose or ())))
            plan = resumed(out, wish) or planned(log, wish)
            if plan.disclose:
                reading(
                    settings, f"values {' '.join(plan.disclose)} of records {plan.first} to {plan.stop}, to export them", reason
                )
            key = ledger_key(settings.data, settings.ledger.key, os.environ)
            witnesses = [each.key for each in settings.ledger.witnesses]
            means = Means(key, log.origin, _bundles(settings), witnesses, f"bailiwick {version('bailiwick')}")
            with _watched(plan) as told:
                digest, progress = make(
                    log,
                    plan,
                    out,
                    means,
                    lambda *made: written(settings, _recorded(*made), "the export cannot be recorded"),
                    told,
                )
    except TamperedError as error:
        console(stderr=True).print(printable(f"bailiwick: nothing was exported: {error}"))
        raise typer.Exit(1) from None
    except TooManyError as error:
        misuse(f"the selection is too large: {error}", help="export the complete range, without --subject, --kind and the like")
    except (StoreError, OtherWishError, OSError, ValueError) as error:
        misuse(f"nothing was exported: {error}", help="has the gateway run with these settings?")
    _tell(out, plan, progress, digest, as_json=as_json)


def _check(formats: tuple[str, ...], reason: str, out: Path) -> None:
    from audit.export import parquet  # noqa: PLC0415
    from audit.export.making import FORMATS  # noqa: PLC0415

    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        misuse(f"there is no format '{printable(', '.join(unknown))}'", help=f"there are {', '.join(FORMATS)}")
    if parquet.NAME in formats and ("jsonl" not in formats or not parquet.available()):
        misuse("parquet goes with jsonl, and needs pyarrow", help="pip install 'bailiwick[parquet]'; --format jsonl,parquet")
    if not 1 <= len(reason) <= _MOST or not reason.isprintable():
        misuse(f"--reason is 1 to {_MOST} printable characters")
    if not out.parent.is_dir():
        misuse(f"there is no folder {out.parent}")


@contextmanager
def _opened(settings: Settings, *, reveal: bool) -> Iterator[Ledger]:
    from audit.reader import Ledger as Log  # noqa: PLC0415
    from gateway.cli.audit_views import existing_seal_key, ledger_url, own_vkey  # noqa: PLC0415

    if own_vkey(settings, os.environ) is None:
        misuse("there is no ledger key to sign an export with", help="run it where the gateway's data folder is")
    seal = existing_seal_key(settings, os.environ)
    if reveal and seal is None:
        misuse("what is sealed cannot be disclosed without the seal key", help="run it where the gateway's data folder is")
    with Log.open(ledger_url(settings, None), seal, reveal=reveal) as log:
        yield log


def _wish(  # noqa: PLR0917  what was typed
    settings: Settings,
    log: Ledger,
    span: tuple[str, str],
    named: tuple[tuple[str, ...], ...],
    formats: tuple[str, ...],
    reason: str,
    disclose: tuple[str, ...],
) -> Plan:
    from audit.export.plan import Plan as Made  # noqa: PLC0415
    from audit.export.query import Query  # noqa: PLC0415
    from gateway.cli.audit_views import seen_by  # noqa: PLC0415
    from gateway.cli.recorded import since as moment  # noqa: PLC0415
    from gateway.model import wall_clock  # noqa: PLC0415

    now = wall_clock()
    subjects, workflows, agents, servers, kinds = named
    people = tuple(each if each.startswith("s_") else log.pseudonym(_person(each)) or "" for each in subjects)
    if "" in people:
        misuse("the ledger knows nobody of that name (any more)", help="--subject user:issuer/name, or a pseudonym")
    until = moment(span[1], now) if span[1] else 2**53 - 1
    query = Query(moment(span[0], now), until, people, workflows, agents, servers, kinds)
    query.check()
    said, newest = seen_by(settings, None), log.checkpoint()
    if newest is None:
        misuse("nothing is signed yet", help="ask again in a second")
    note = said.note if said.note is not None else newest
    return Made(query, formats, note, int(note.split("\n")[1]), 0, 0, operator(), reason, now, disclose)


def _person(name: str) -> str:
    return name if name.startswith(("user:", "svc:")) else f"user:{name}"


def _bundles(settings: Settings) -> Any:
    """Bundles of policy by digest; for one tenant's log none, as they hold every tenant's rules."""
    from gateway.policy.archive import Archive, ArchiveError  # noqa: PLC0415

    if settings.ledger.name:
        return lambda _digest: None

    archive = Archive(settings.data / "bundles")

    def files(digest: str) -> dict[str, bytes] | None:
        try:
            return {name: text.encode() for name, text in archive.get(digest).texts.items()}
        except ArchiveError:
            return None

    return files


def _recorded(digest: str, plan: Plan, progress: Progress) -> Any:
    """The record of it: who holds an export can show by the hash of its manifest that it is this one."""
    from audit.leaf import Kind  # noqa: PLC0415
    from audit.model import Entry, Value  # noqa: PLC0415
    from gateway.model import new_id, wall_clock  # noqa: PLC0415

    at = wall_clock()
    fields: dict[str, object] = {
        "by": plan.operator,
        "manifest": f"sha256:{digest}",
        "scope": "complete" if plan.complete else "selection",
        "first": plan.first,
        "stop": plan.stop,
        "records": progress.records,
        "formats": list(plan.formats),
        "disclosed": [[pseudonym, count] for pseudonym, count in sorted(progress.disclosed.items())],
    }

    async def record(journal: Any) -> None:
        entry = Entry(Kind.AUDIT_EXPORT, new_id(at), at, None, fields, (Value("reason", plan.reason.encode()),))
        await journal.append(entry)

    return record


@contextmanager
def _watched(plan: Plan) -> Iterator[Told]:
    """How far it is, on stderr: a bar on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        shown = 0

        def say(done: int, of: int) -> None:
            nonlocal shown
            if of >= 100_000 and done * 10 // of > shown:
                shown = done * 10 // of
                print(f"bailiwick: {done} of {of} records", file=sys.stderr, flush=True)

        yield say
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
    from rich.progress import Progress as Bar  # noqa: PLC0415

    columns = TextColumn("exporting"), BarColumn(), MofNCompleteColumn(), TextColumn("records"), TimeRemainingColumn()
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("exporting", total=plan.stop - plan.first)
        yield lambda done, _of: bar.update(task, completed=done)


def _tell(out: Path, plan: Plan, progress: Progress, digest: str, *, as_json: bool) -> None:
    scope = "complete" if plan.complete else "selection"
    if as_json:
        print_json(
            {
                "out": str(out), "scope": scope, "first": plan.first, "stop": plan.stop, "records": progress.records,
                "kinds": progress.kinds, "disclosed": progress.disclosed, "manifest": f"sha256:{digest}",
            }
        )  # fmt: skip
        return
    console().print(
        printable(f"{out}: {progress.records} records ({scope}, {plan.first} to {plan.stop}), manifest sha256:{digest}")
    )
    if not progress.records:
        console().print("  no record matched: nothing but the proof of where the log stood was exported")
    console().print(printable(f"  check it: bailiwick audit verify --ledger {out}, or: python3 verify.py {out} --key …"))
