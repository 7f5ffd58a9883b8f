"""`bailiwick audit`: what was recorded, as a list, a record, a tree; and whether anybody touched it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from gateway.cli import audit_erase
from gateway.cli.audit_export import export
from gateway.cli.audit_logs import logs
from gateway.cli.audit_prove import prove
from gateway.cli.audit_report import report, review
from gateway.cli.audit_reproduce import reproduce
from gateway.cli.audit_retention import retire, seal, segments
from gateway.cli.audit_search import search
from gateway.cli.audit_stream import stream
from gateway.cli.audit_tiles import tiles
from gateway.cli.audit_witness import witness
from gateway.cli.ledger_writing import opened
from gateway.cli.output import console, misuse, print_json, printable
from gateway.cli.which_log import LogName, every, holding, left_out, notes_in_root, one

if TYPE_CHECKING:
    from gateway.settings import Settings

Config = Annotated[Path, typer.Option("--config", help="The settings, which say where the ledger is.")]
LedgerFile = Annotated[Path | None, typer.Option("--ledger", help="Another ledger file (SQLite), such as a copy.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Reason = Annotated[str, typer.Option("--reason", help="Why you read what is sealed; recorded before it is opened.")]
Level = Literal["semantic", "full", "quick"]
CONFIG = Path("bailiwick.yaml")


def register(app: typer.Typer) -> None:
    """Add the group of verbs."""
    group = typer.Typer(
        help="Read and verify the ledger.\n\n[bold]Example[/bold]   bailiwick audit tail -n 50", no_args_is_help=True
    )
    group.command("tail")(tail)
    group.command("search")(search)
    group.command("show")(show)
    group.command("trace")(trace)
    group.command("stream")(stream)
    group.command("verify")(verify)
    group.command("reproduce")(reproduce)
    group.command("report")(report)
    group.command("review")(review)
    group.command("prove")(prove)
    group.command("seal")(seal)
    group.command("retire")(retire)
    group.command("segments")(segments)
    group.command("tiles")(tiles)
    group.command("logs")(logs)
    group.command("witness")(witness)
    group.command("export")(export)
    audit_erase.register(group)
    app.add_typer(group, name="audit")


def tail(  # noqa: PLR0917  Typer reads the signature
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=10_000, help="How many.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is recorded, until Ctrl-C.")] = False,
    reason: Reason = "",
    config: Config = CONFIG,
    log_name: LogName = "",
    ledger: LedgerFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout; with -f one a line.")] = False,
) -> None:
    """The newest records, oldest first.  People are shown by pseudonym; by name with `--reason`.

    [bold]Example[/bold]   bailiwick audit tail -f
    """
    from gateway.cli.audit_tail import followed, listed  # noqa: PLC0415  the command line pays for what it uses
    from gateway.cli.audit_views import seen_by  # noqa: PLC0415

    settings = one(config, log_name, ledger)
    with opened(settings, ledger, "names in the newest records", reason) as log:
        if follow:
            followed(log, count, as_json=as_json)
            return
        listed(log, count, str(seen_by(settings, ledger)), as_json=as_json)


def show(  # noqa: PLR0917  Typer reads the signature
    record: Annotated[str, typer.Argument(help="Id of a record: the decision id that a caller got.")],
    reason: Reason = "",
    config: Config = CONFIG,
    log_name: LogName = "",
    ledger: LedgerFile = None,
    as_json: Json = False,
) -> None:
    """One record and the record of its end; with `--reason` what they carried too, which is then on record itself.

    [bold]Example[/bold]   bailiwick audit show 019a7f3c-0000-7000-8000-000000000000 --reason 'ticket 812'
    """
    from gateway.cli.audit_views import full, render_record  # noqa: PLC0415

    settings = holding(config, log_name, ledger, lambda log: log.get(record) is not None)
    with opened(settings, ledger, f"record {record}", reason) as log:
        found = log.get(record)
        if found is None:
            _missing(
                f"there is no record {record}", "`bailiwick audit tail` lists ids; that of a workflow (wf-…) is for `audit trace`"
            )
        view = full(found, log)
    if as_json:
        print_json(view)
    else:
        console().print(printable(render_record(view)))


def trace(  # noqa: PLR0917  Typer reads the signature
    workflow: Annotated[str, typer.Argument(help="Id of the workflow: the header Bailiwick-Workflow.")],
    reason: Reason = "",
    config: Config = CONFIG,
    log_name: LogName = "",
    ledger: LedgerFile = None,
    values: Annotated[bool, typer.Option("--values/--no-values", help="Show what was received and returned.")] = True,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page that stands alone.")] = None,
    as_json: Json = False,
) -> None:
    """The tree of a workflow: person → agent → agent → tool, with each decision; with `--reason`, what was received and returned.

    [bold]Example[/bold]   bailiwick audit trace wf-0123456789abcdef0123456789 --reason 'incident 7'
    """
    from audit.story_page import Seen, page  # noqa: PLC0415
    from audit.trace import build  # noqa: PLC0415
    from gateway.cli.audit_tree import draw  # noqa: PLC0415
    from gateway.cli.audit_views import seen_by  # noqa: PLC0415

    settings = holding(config, log_name, ledger, lambda log: bool(log.workflow(workflow)))
    with opened(settings, ledger, f"workflow {workflow}", reason) as log:
        opens = log.open_value if values or html is None else _unopened
        story, size, origin = build(workflow, log.workflow(workflow), opens, log.subject_name), log.size, log.origin
    if story is None:
        _missing(f"nothing of workflow {workflow} is recorded", "`bailiwick audit show ID` of a decision names its workflow")
    if html is not None:
        _written(html, page(story, Seen(origin, size, str(seen_by(settings, ledger)), time.time_ns() // 1000)))
    if as_json:
        print_json(story.to_dict())
    elif html is None:
        console().print(draw(story, values=values))


def verify(  # noqa: PLR0917  Typer reads the signature
    config: Config = CONFIG,
    log_name: LogName = "",
    ledger: LedgerFile = None,
    key: Annotated[str, typer.Option("--key", help="The log's verifier key, got from elsewhere than the file.")] = "",
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="A checkpoint you kept, or a folder of them: the log must continue it."),
    ] = None,
    witness_key: Annotated[
        list[str] | None, typer.Option("--witness", help="A witness's verifier key; else those of the settings.")
    ] = None,
    quorum: Annotated[int | None, typer.Option("--quorum", min=0, help="How many witnesses must have cosigned.")] = None,
    receipt: Annotated[
        list[Path] | None, typer.Option("--receipts", help="A file of callers' receipts: each names a record that must be there.")
    ] = None,
    level: Annotated[
        Level,
        typer.Option("--level", help="semantic: everything; full: bytes, tree and signatures; quick: what came since --state."),
    ] = "semantic",
    state: Annotated[Path | None, typer.Option("--state", help="Where is kept what --level quick goes on from.")] = None,
    as_json: Json = False,
) -> None:
    """Check every record, the tree, the signatures and the sealed values.  Exits with 1 where anything does not fit.

    --ledger may name an export, too: a folder, or a zip file.

    Without --key, the key of the settings' data folder is used: good against everybody but its owner.  --witness pins those who
    cosigned: good against its owner too.

    [bold]Example[/bold]   bailiwick audit verify --ledger copy.db --key 'demo.example/acme+1234abcd+AT…'
    """
    from audit.export.checking import check  # noqa: PLC0415
    from audit.verify import describe, is_export, keep_state, kept_in, receipts_in  # noqa: PLC0415
    from audit.verify_url import StoreError, verify_url  # noqa: PLC0415
    from gateway.cli.audit_views import ledger_url, own_vkey  # noqa: PLC0415

    if ledger is None and not log_name:
        _verify_all(config, (checkpoint, receipt, key, state), witness_key, quorum, level, as_json=as_json)
    if ledger is not None and key:  # a stranger has a copy and a key, and no settings
        url, vkey = f"sqlite:///{ledger.resolve()}", key
    else:
        settings = _settings_beside(config, log_name, ledger)
        url, vkey = ledger_url(settings, ledger), key or own_vkey(settings, os.environ) or ""
        if not witness_key and quorum is None:
            witness_key, quorum = [each.key for each in settings.ledger.witnesses], settings.ledger.wanted
    try:
        kept = kept_in(checkpoint or ())
        told = [each for path in receipt or () for each in receipts_in(path.read_text(encoding="utf-8"))]
        if receipt and not told:
            misuse("--receipts names no file that holds one", help="one receipt, or whole answer, a line")
        if ledger is not None and is_export(ledger):
            if told:
                misuse("--receipts are held against a ledger, and this is an export")
            report = check(ledger, vkey or None, kept, witness_key or (), quorum)
        else:
            before = state.read_bytes() if level == "quick" and state is not None else None
            report = verify_url(url, vkey or None, kept, witness_key or (), quorum, told, level, before)
            keep_state(report, state)
    except FileNotFoundError as error:
        named = ledger is not None or str(error.filename) in {
            str(each) for each in (*(checkpoint or ()), *(receipt or ()), state)
        }
        help_ = (
            "--ledger, --checkpoint, --receipts and --state name files that are there"
            if named
            else "has the gateway run with these settings?"
        )
        misuse(f"the ledger cannot be verified: there is no file {error.filename}", help=help_)
    except (OSError, ValueError, StoreError) as error:
        misuse(f"the ledger cannot be verified: {error}")
    if as_json:
        print_json(report.to_dict())
    else:
        console().print(printable(describe(report)))
    raise typer.Exit(0 if report.ok else 1)


def _verify_all(
    config: Path, of_one: tuple[object, ...], witness_key: list[str] | None, quorum: int | None, level: str, *, as_json: bool
) -> None:
    """Every log, each also against all that the root log has of it; exits with 1 where any has a finding.

    Returns where there is one log alone.
    """
    from audit.verify import describe  # noqa: PLC0415  the command line pays for what it uses
    from audit.verify_url import StoreError, verify_url  # noqa: PLC0415
    from gateway.cli.audit_views import own_vkey  # noqa: PLC0415
    from gateway.stores import ledger_url_of  # noqa: PLC0415

    views, reports = every(config, ""), {}
    if len(views) == 1:
        return
    if any(of_one):
        misuse("--checkpoint, --receipts, --key and --state are about one log", help="say which: --log NAME")
    try:
        held = notes_in_root(views)
        for name, view in views:
            said = witness_key or quorum is not None
            trusted = (witness_key or (), quorum) if said else ([each.key for each in view.ledger.witnesses], view.ledger.wanted)
            kept = held.pop(view.ledger.origin, [])
            reports[name] = verify_url(ledger_url_of(view), own_vkey(view, os.environ), kept, *trusted, (), level)
    except (OSError, ValueError, StoreError) as error:
        misuse(f"the ledger cannot be verified: {error}", help="has the gateway run with these settings?")
    gone, unnamed = left_out(views[0][1], held)
    ok = all(report.ok for report in reports.values()) and not gone
    if as_json:
        print_json(
            {"ok": ok, "logs": {name: report.to_dict() for name, report in reports.items()}, "gone": gone, "unnamed": unnamed}
        )
    else:
        for report in reports.values():
            console().print(printable(describe(report)))
        for origin in gone:
            console().print(printable(f"FOUND: {origin}: the root log has checkpoints of it, and it is not there (any more)"))
        for origin in unnamed:
            console().print(printable(f"not checked: {origin}, whose tenant the settings do not name (--ledger FILE --key …)"))
    raise typer.Exit(0 if ok else 1)


def _unopened(_record: object, _name: str) -> None:
    """For whoever wants no values: they stay sealed."""


def _written(place: Path, text: str) -> None:
    """Put a page where its reader wants it, whole, for its owner alone: it may show what was sealed."""
    from gateway.cli.whole_file import write_whole  # noqa: PLC0415

    try:
        write_whole(place, text, mode=0o600)
    except OSError as error:
        misuse(f"{place} cannot be written: {error.strerror}")
    console(stderr=True).print(printable(f"written: {place}"))


def _settings_beside(config: Path, log_name: str, ledger: Path | None) -> Settings:
    """Those that say whose a copy is; who has a copy and no settings has to have its key."""
    if ledger is not None and config == CONFIG and not config.exists():
        misuse(
            f"whose is {ledger}? neither --key nor settings say so",
            help="give the log's verifier key (--key), or the gateway's settings (--config)",
        )
    return one(config, log_name, ledger)


def _missing(message: str, help_: str) -> NoReturn:
    import sys  # noqa: PLC0415

    print(f"bailiwick: {printable(message)}\n  help: {help_}", file=sys.stderr)
    raise typer.Exit(1)
