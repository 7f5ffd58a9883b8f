"""`bailiwick policy verify`: whether a trusted key signed exactly the files of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import console, misuse, print_json, printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_MAX_KEY = 64 * 1024


def register(group: typer.Typer) -> None:
    """Add the verb."""
    group.command("verify")(verify)


def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The bundle.")],
    trust: Annotated[
        list[Path], typer.Option("--trust", metavar="FILE", help="A public key that may sign, in PEM; several are given singly.")
    ],
    *,
    least_serial: Annotated[
        int, typer.Option("--least-serial", metavar="N", min=0, help="An older serial is a finding: the newest you have seen.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Check a bundle's signature, file by file.  Exits with 1 where anything was changed, added, left out, or is not signed.

    [bold]Example[/bold]   bailiwick policy verify policies --trust policy-signer.pub.pem
    """
    from gateway.bundles import bundle_problems  # noqa: PLC0415  the command line pays for what it uses
    from policies.bundle import BundleError, digest_of  # noqa: PLC0415
    from policies.finding import Report  # noqa: PLC0415
    from policies.manifest import serial_of  # noqa: PLC0415
    from policies.manifest import verify as verified  # noqa: PLC0415
    from policies.reading import read_folder  # noqa: PLC0415

    keys = [_key(file) for file in trust]
    if not folder.is_dir():
        misuse(f"there is no folder {printable(str(folder))}", help="name the folder that holds model.conf")
    report = Report()
    texts = read_folder(folder, report)
    found = [*(report.error().findings if report else ()), *verified(texts, keys, least_serial)]
    if as_json:
        problems = [problem.to_dict() for problem in bundle_problems(BundleError(found), folder)]
        print_json({"ok": not found, "digest": digest_of(texts), "serial": serial_of(texts), "problems": problems})
    else:
        out = console()
        for problem in bundle_problems(BundleError(found), folder):
            out.print(printable(problem.render()))
        plural = "" if len(found) == 1 else "s"
        out.print(f"{len(found)} problem{plural}" if found else f"signed: {digest_of(texts)}, serial {serial_of(texts)}")
    raise typer.Exit(1 if found else 0)


def _key(file: Path) -> Ed25519PublicKey:
    from policies.manifest import KeyFileError, public_key  # noqa: PLC0415

    try:
        with file.open("rb") as opened:
            return public_key(opened.read(_MAX_KEY))
    except OSError as error:
        misuse(f"{printable(str(file))} cannot be read: {error.strerror}", help="openssl pkey -in KEY -pubout -out KEY.pub.pem")
    except KeyFileError as error:
        misuse(f"{printable(str(file))}: {error}", help="openssl pkey -in KEY -pubout -out KEY.pub.pem")
