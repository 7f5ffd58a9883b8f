"""`bailiwick policy sign`: a manifest of every file of a bundle, and its signature, written beside them."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.output import console, misuse, print_json, printable


def register(group: typer.Typer) -> None:
    """Add the verb."""
    group.command("sign")(sign)


def sign(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The bundle; manifest.json and manifest.jws are written into it.")
    ],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The signer's Ed25519 key, PKCS#8 in PEM, no password.")],
    *,
    serial: Annotated[
        int | None, typer.Option("--serial", metavar="N", help="Higher than any before; default: one more than the last.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Sign a bundle as it stands.  A bundle that does not load is not signed; nor is one with a serial that does not grow.

    [bold]Example[/bold]   bailiwick policy sign policies --key policy-signer.pem
    """
    from gateway.bundles import read_bundle  # noqa: PLC0415  the command line pays for what it uses
    from gateway.identity.keyfiles import resolve  # noqa: PLC0415
    from gateway.settings import Secret  # noqa: PLC0415
    from policies.manifest import MANIFEST, KeyFileError, key_id, private_key, serial_of  # noqa: PLC0415
    from policies.manifest import sign as signed  # noqa: PLC0415

    bundle = read_bundle(folder)
    if not key.is_file():
        misuse(f"there is no key {printable(str(key))}", help="openssl genpkey -algorithm ed25519 -out policy-signer.pem")
    try:
        private = private_key(resolve(Secret(file=key)).encode())
    except KeyFileError as error:
        misuse(f"{printable(str(key))}: {error}", help="openssl genpkey -algorithm ed25519 -out policy-signer.pem")
    last = serial_of(bundle.texts)
    if MANIFEST in bundle.texts and last is None and serial is None:
        misuse("the manifest that is here says no serial", help="say which one comes next: --serial N")
    wanted = serial if serial is not None else (last or 0) + 1
    if wanted <= (last or 0):
        misuse(f"the serial {wanted} does not grow: the last one was {last}", help=f"--serial {(last or 0) + 1}, or leave it out")
    try:
        files = signed(bundle.texts, private, serial=wanted, created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    except ValueError as error:
        misuse(str(error))
    for name, text in files.items():
        _write(folder / name, text)
    said = {"folder": str(folder), "digest": bundle.digest, "serial": wanted, "kid": key_id(private.public_key())}
    if as_json:
        print_json(dict(said))
    else:
        out = console()
        out.print(printable(f"signed {bundle.digest}"))
        out.print(printable(f"serial {wanted}, key {said['kid']}, {len(bundle.texts.keys() - files.keys())} files"))


def _write(path: Path, text: str) -> None:
    """Whole or not at all; a name with two dots is none of a bundle's, should a gateway read the folder now."""
    aside = path.with_name(f"..{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8", newline="\n")
        aside.replace(path)
    except OSError as error:
        misuse(f"{printable(str(path))} cannot be written: {error.strerror}")
    finally:
        aside.unlink(missing_ok=True)
