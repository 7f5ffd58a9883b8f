"""`bailiwick audit agree`: the second person of an erasure without a gateway, on a machine of their own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.asking import Json
from gateway.cli.output import console, misuse, print_json, printable

_REQUEST = re.compile("[0-9a-f-]{36}")
_PSEUDONYM = re.compile("s_[0-9a-f]{32}(,s_[0-9a-f]{32}){0,99}")  # one in each log that knows the person


def agree(  # noqa: PLR0917  Typer reads the signature
    request: Annotated[str, typer.Argument(metavar="ID", help="Of the request, as whoever asked was told.")],
    of: Annotated[
        str, typer.Option("--of", metavar="PSEUDONYM", help="The person who is to be erased, as the ledger names them.")
    ],
    log: Annotated[str, typer.Option("--log", metavar="ORIGIN", help="The ledger.")],
    name: Annotated[str, typer.Option("--name", help="Yours, as the settings have it in `ledger.erasure_keys`.")],
    key: Annotated[Path, typer.Option("--key", help="Your Ed25519 key (PKCS#8 PEM), which nobody else can read.")],
    new: Annotated[bool, typer.Option("--new", help="Make the key, once.")] = False,
    as_json: Json = False,
) -> None:
    """Sign that a person is erased where no gateway answers: the one request of one ledger, and nothing else.

    What it prints goes to whoever asked, into a file.  It says your verifier key too, on standard error: that belongs into the
    settings before anybody asks.

    [bold]Example[/bold]   bailiwick audit agree 019a… --of s_9f… --log example.org/ledger --name dpo.example.org --key my-key.pem
    """
    from audit.agreement import Agreement, sign  # noqa: PLC0415  the command line pays for what it uses
    from audit.checkpoint import Vkey, valid_name  # noqa: PLC0415
    from gateway.identity.keyfiles import create, generated_ed25519, ledger_key  # noqa: PLC0415
    from gateway.settings import Secret  # noqa: PLC0415

    if not _REQUEST.fullmatch(request) or not _PSEUDONYM.fullmatch(of) or not valid_name(log):
        misuse("that is no request of a ledger about a person", help="copy all three as the one who asked was told them")
    if not valid_name(name) or name == log:
        misuse("--name is a name of your own, without spaces and plus signs")
    if key.exists() == new:
        misuse(f"{key} is there already: leave out --new" if new else f"{key} is not there", help="--new makes it, once")
    try:
        if new:
            create(key, generated_ed25519())
        private = ledger_key(key.parent, Secret(file=key.absolute()))
    except OSError as error:
        misuse(f"{key}: {error.strerror}")
    vkey, note = str(Vkey.of(name, private)), sign(Agreement(log, request, of), name, private)
    if as_json:
        print_json({"vkey": vkey, "note": note})
        return
    console(stderr=True).print(printable(f"your verifier key: {vkey}"), soft_wrap=True)
    typer.echo(note, nl=False)
