"""`bailiwick audit stream`: what a caller kept of a streamed answer, held against the record of its end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from gateway.cli.ledger_writing import opened
from gateway.cli.output import console, misuse, print_json, printable
from gateway.cli.which_log import LogName, holding

if TYPE_CHECKING:
    from audit.reader import Ledger, Record

_LARGEST: Final = 256 * 1024 * 1024


def stream(  # noqa: PLR0917  Typer reads the signature
    record: Annotated[str, typer.Argument(help="Id of the call: the decision id that its caller got.")],
    kept: Annotated[Path, typer.Argument(help="What was kept: the event stream as it came, or one message a line.")],
    reason: Annotated[str, typer.Option("--reason", help="Why you read what is sealed; recorded before it is opened.")] = "",
    config: Annotated[Path, typer.Option("--config", help="The settings, which say where the ledger is.")] = Path(
        "bailiwick.yaml"
    ),
    log_name: LogName = "",
    ledger: Annotated[Path | None, typer.Option("--ledger", help="Another ledger file (SQLite), such as a copy.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Whether the messages of a stream that somebody kept are those that were released.  Exits with 1 where they are not.

    The record commits to all of them together; the salt is sealed, so that a reason is needed.

    [bold]Example[/bold]   bailiwick audit stream 019a7f3c-0000-7000-8000-000000000000 kept.txt --reason 'ticket 812'
    """
    from audit.model import TamperedError  # noqa: PLC0415  the command line pays for what it uses
    from audit.reader import Shredded  # noqa: PLC0415
    from audit.streamed import SALT, STREAM, agreeing  # noqa: PLC0415

    if not reason:
        misuse("the commitment's salt is sealed", help="--reason says why you read it, and is recorded")
    messages = _messages(kept)
    settings = holding(config, log_name, ledger, lambda log: log.get(record) is not None)
    with opened(settings, ledger, f"the stream of record {record}", reason) as log:
        end = _end(log, record)
        said = end.leaf.get(STREAM) if end is not None else None
        if end is None or not isinstance(said, dict):
            _no(f"no stream is on record for {record}", as_json=as_json)
        try:
            salt = log.open_value(end, SALT)
        except TamperedError as error:
            _no(f"the salt is not the one that the record commits to: {error}", as_json=as_json)
    if salt is None or isinstance(salt, Shredded):
        why = "its person was erased" if isinstance(salt, Shredded) else "there is no key here that opens its salt"
        _no(f"nobody can say any more: {why}" if isinstance(salt, Shredded) else f"nothing can be said: {why}", as_json=as_json)
    released, held = int(said.get("chunks") or 0), agreeing(messages, bytes.fromhex(salt.decode("ascii")), said)
    if held is None:
        _no(f"these are not the {released} messages that were released: {len(messages)} were kept", as_json=as_json)
    if held < len(messages):
        _no(f"the first {held} messages are those that were released, and {len(messages) - held} more are not", as_json=as_json)
    if as_json:
        print_json({"ok": True, "messages": held, "record": end.id, "index": end.index})
    else:
        console().print(printable(f"these {held} messages are those that were released: record {end.index}, {end.id}"))


def _end(log: Ledger, record: str) -> Record | None:
    """The record of the call's end, by that of its start or by its own id."""
    found = log.get(record)
    if found is None or found.kind != "call.start":
        return found
    ends = log.workflow(str(found.leaf.get("workflow", "")))
    return next((each for each in ends if each.kind == "call.end" and each.leaf.get("call") == record), None)


def _messages(kept: Path) -> list[bytes]:
    """Of an event stream the data of each event; else each line that is not empty."""
    from gateway.upstream.events import EventParser  # noqa: PLC0415  as above

    try:
        with kept.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        misuse(f"{kept} cannot be read: {error.strerror}")
    if len(data) > _LARGEST:
        misuse(f"{kept} is larger than {_LARGEST} bytes")
    lines = [line for line in data.splitlines() if line]
    if any(line.startswith(b"data:") for line in lines):
        return EventParser(_LARGEST).feed(data + b"\n\n")
    return lines


def _no(why: str, *, as_json: bool) -> NoReturn:
    said: dict[str, Any] = {"ok": False, "why": why}
    if as_json:
        print_json(said)
    else:
        print(f"bailiwick: {printable(why)}", file=sys.stderr)
    raise typer.Exit(1)
