"""`bailiwick audit prove`: one record's proof as a file, for somebody who has nothing else; and the check of such a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import console, misuse, print_json, printable
from gateway.cli.which_log import LogName, holding

if TYPE_CHECKING:
    from audit.reader import Ledger


def prove(  # noqa: PLR0917  Typer reads the signature
    record: Annotated[
        str, typer.Argument(help="Id of a record, or a file with a receipt for it; with --check, a file that this verb wrote.")
    ],
    config: Annotated[Path, typer.Option("--config", help="The settings, which say where the ledger is.")] = Path(
        "bailiwick.yaml"
    ),
    log_name: LogName = "",
    ledger: Annotated[Path | None, typer.Option("--ledger", help="Another ledger file (SQLite): a copy, or a root log.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Verify a proof instead of making one.")] = False,
    key: Annotated[str, typer.Option("--key", help="With --check: the log's verifier key.")] = "",
    witness: Annotated[list[str] | None, typer.Option("--witness", help="With --check: a witness's verifier key.")] = None,
    quorum: Annotated[
        int | None, typer.Option("--quorum", min=0, help="With --check: how many must have cosigned (all).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Prove that a record is in the log, in a file that stands alone (c2sp.org/tlog-proof), on stdout.

    The checkpoint is the newest that enough witnesses cosigned and that covers the record, else the newest.

    [bold]Example[/bold]   bailiwick audit prove 019a7f3c-0000-7000-8000-000000000000 > call.tlog-proof
    """
    if check:
        _check(Path(record), key, witness or [], quorum, as_json=as_json)
        return
    from audit.model import TamperedError  # noqa: PLC0415  the command line pays for what it uses
    from audit.reader import Ledger  # noqa: PLC0415
    from audit.store import StoreError  # noqa: PLC0415
    from audit.tlog_proof import TlogProof  # noqa: PLC0415
    from gateway.cli.audit_views import ledger_url, seen_by  # noqa: PLC0415

    settings = holding(config, log_name, ledger, lambda log: _is_in(record, log))
    try:
        with Ledger.open(ledger_url(settings, ledger)) as log:
            record, told = _told(record, log.vkey)
            found = log.get(record)
            if found is not None and told is not None and told not in ((found.index, found.hash), (-1, found.hash)):
                misuse(f"{record} is not the record that its caller was told of: keep that receipt")
            if found is None and told is not None:
                misuse(f"there is no record {record}, and its caller was told that there is: keep that receipt")
            if found is None:
                misuse(f"there is no record {record}", help="`bailiwick audit tail` lists ids")
            said = seen_by(settings, ledger)
            note = said.note if said.note is not None and said.size > found.index and ledger is None else log.checkpoint()
            size = int(note.split("\n")[1]) if note else 0
            if note is None or size <= found.index:
                misuse("the record is under no checkpoint yet", help="ask again in a second")
            proof = TlogProof(found.data, found.index, tuple(log.inclusion(found.index, size)), note)
    except (StoreError, TamperedError, ValueError) as error:
        misuse(f"the record cannot be proven: {error}")
    if as_json:
        print_json({"record": record, "index": proof.index, "size": size, "proof": str(proof)})
    else:
        sys.stdout.write(str(proof))


def _is_in(given: str, log: Ledger) -> bool:
    """Whether the record is in the log, or (of a file) what it holds is a receipt of it."""
    from audit.verify import receipts_in  # noqa: PLC0415  as above

    path = Path(given)
    if not path.is_file():
        return log.get(given) is not None
    try:
        said = receipts_in(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return any(isinstance(each, dict) and each.get("log") == log.origin for each in said)


def _told(given: str, vkey: str) -> tuple[str, tuple[int, bytes] | None]:
    """The record that is meant; and what a receipt says of it, where a file with one was given."""
    from audit.checkpoint import Vkey  # noqa: PLC0415
    from audit.receipt import verify  # noqa: PLC0415
    from audit.verify import receipts_in  # noqa: PLC0415

    path = Path(given)
    if not path.is_file():
        return given, None
    try:
        [said] = receipts_in(path.read_text(encoding="utf-8"))
        record, index, digest = verify(said, Vkey.parse(vkey))
    except (OSError, ValueError) as error:
        misuse(
            f"{given} holds no receipt of this log: {error}", help="a file with one receipt, or with the answer that it came in"
        )
    return record, (index, digest)


def _check(path: Path, key: str, witnesses: list[str], quorum: int | None, *, as_json: bool) -> None:
    from audit.checkpoint import Vkey  # noqa: PLC0415
    from audit.cosignature import WitnessKey  # noqa: PLC0415
    from audit.tlog_proof import MAX_PROOF, TlogProof  # noqa: PLC0415

    if not key:
        misuse("--check needs the log's verifier key", help="--key 'ORIGIN+…', as the log's gateway says it at its start")
    try:
        log, seen = Vkey.parse(key), [WitnessKey.parse(each) for each in witnesses]
    except ValueError as error:
        misuse(f"--key and --witness are verifier keys: {error}")
    try:
        with path.open("rb") as file:
            proof = TlogProof.parse(file.read(MAX_PROOF + 1).decode("utf-8"))
        head = proof.verify(log, seen, len(seen) if quorum is None else quorum)
    except OSError as error:
        misuse(f"the proof cannot be read: {error}")
    except ValueError as error:
        if as_json:
            print_json({"ok": False, "why": str(error)})
        else:
            console(stderr=True).print(printable(f"bailiwick: nothing is proven: {error}"))
        raise typer.Exit(1) from None
    if as_json:
        said = proof.record.decode("utf-8", "replace")
        print_json({"ok": True, "log": head.origin, "index": proof.index, "size": head.size, "record": said})
        return
    console().print(printable(f"record {proof.index} of {head.size} in {head.origin}:"))
    console().print(printable(proof.record.decode("utf-8", "replace")), soft_wrap=True)
