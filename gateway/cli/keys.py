"""`bailiwick keys`: by which keys the gateway signs its own tokens, and how another one takes over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import console, misuse, print_json, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.identity.keyring import Entry, KeyFolder
    from gateway.settings import Settings

Config = Annotated[Path, typer.Option("--config", help="The settings.")]
Now = Annotated[bool, typer.Option("--now", help="Sign with it at once, where the old key may be in other hands.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
_BY_REFERENCE = (
    "1. make a key: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out new-key.pem; "
    "2. name it under delegation.former_keys on every replica and restart them: it is published; "
    "3. ten minutes later let `key` and `former_keys` change places, and restart; "
    "4. six minutes later remove the old one from former_keys"
)
_BREAKS = (
    "at once: an upstream that still keeps the old key set (it may for 5 minutes) refuses transaction tokens until it fetches it "
    "again. The gateway's own tokens, old and new, go on. The old key counts for six minutes more; to end it now: "
    "bailiwick keys retire {}"
)


def register(app: typer.Typer) -> None:
    """Add the group of verbs."""
    group = typer.Typer(
        name="keys",
        help="The keys by which the gateway signs delegation and transaction tokens.\n\n"
        "[bold]Example[/bold]   bailiwick keys rotate --config bailiwick.yaml",
        no_args_is_help=True,
    )
    group.command("list")(list_keys)
    group.command("rotate")(rotate)
    group.command("add")(add)
    group.command("retire")(retire)
    app.add_typer(group)


def list_keys(config: Config = Path("bailiwick.yaml"), as_json: Json = False) -> None:
    """Which key signs, which waits, and which still counts.

    [bold]Example[/bold]   bailiwick keys list --config bailiwick.yaml
    """
    settings = _settings(config)
    rows = _configured(settings) if settings.delegation.key is not None else _on_disk(_folder(settings), _now())
    if as_json:
        print_json({"keys": list(rows)})
        return
    out = console()
    for row in rows:
        out.print(printable(f"{row['kid']}  {row['state']:<9} {_times(row)}".rstrip()))


def rotate(
    config: Config = Path("bailiwick.yaml"),
    *,
    overlap: Annotated[
        int, typer.Option("--overlap", metavar="SECONDS", min=1, max=86_400, help="From publishing to signing.")
    ] = 600,
    now: Now = False,
    as_json: Json = False,
) -> None:
    """Make a new key.  It is published at once and signs after the overlap; the old one counts until its last token has ended.

    A running gateway notices within seconds.

    [bold]Example[/bold]   bailiwick keys rotate --config bailiwick.yaml
    """
    _followed(_settings(config), overlap, None, now=now, as_json=as_json)


def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A P-256 key, PKCS#8 in PEM, which nobody else may read.")],
    config: Config = Path("bailiwick.yaml"),
    *,
    overlap: Annotated[
        int, typer.Option("--overlap", metavar="SECONDS", min=1, max=86_400, help="From publishing to signing.")
    ] = 600,
    now: Now = False,
    as_json: Json = False,
) -> None:
    """Rotate to a key that was made elsewhere, as by your security team.  The file is copied, never changed.

    [bold]Example[/bold]   bailiwick keys add new-key.pem --config bailiwick.yaml
    """
    _followed(_settings(config), overlap, file, now=now, as_json=as_json)


def retire(
    kid: Annotated[str, typer.Argument(metavar="KID", help="As `bailiwick keys list` shows it.")],
    config: Config = Path("bailiwick.yaml"),
    as_json: Json = False,
) -> None:
    """Trust a key no longer, from now on: every token that it signed is refused.  A key that waits is dropped.

    [bold]Example[/bold]   bailiwick keys retire 1CH6… --config bailiwick.yaml
    """
    settings = _settings(config)
    folder = _folder(settings)
    folder.retire(kid, _now())
    if as_json:
        print_json({"retired": kid})
    else:
        console().print(printable(f"retired {kid}: a running gateway refuses what it signed within seconds"))


def _followed(settings: Settings, overlap: int, file: Path | None, *, now: bool, as_json: bool) -> None:
    from gateway.identity.keyfiles import read_signing_key  # noqa: PLC0415  the command line pays for what it uses
    from gateway.identity.keyring import signing  # noqa: PLC0415

    folder = _folder(settings)
    at = _now()
    before = signing(folder.opened(at), at)
    made = folder.rotate(at, 0 if now else overlap, None if file is None else read_signing_key(file))
    if as_json:
        print_json({"kid": made.kid, "activates": made.activates, "before": None if before is None else before.kid})
        return
    out = console()
    out.print(printable(f"made {made.kid}" if file is None else f"added {made.kid}"))
    if now:
        out.print(printable(f"it signs {_BREAKS.format('' if before is None else before.kid)}".rstrip()))
    else:
        out.print(printable(f"published now, signs from {_clock(made.activates)} ({overlap} s)"))


def _settings(config: Path) -> Settings:
    import os  # noqa: PLC0415  see above

    from gateway.configuration import load  # noqa: PLC0415

    return load(config, os.environ)


def _folder(settings: Settings) -> KeyFolder:
    """The ring on disk; misuse where the keys are named in the settings."""
    from gateway.identity.keyring import KeyFolder  # noqa: PLC0415  see above

    if settings.delegation.key is not None:
        misuse("the settings name the key (delegation.key), so it is changed there", help=_BY_REFERENCE)
    return KeyFolder(settings.data)


def _on_disk(folder: KeyFolder, now: int) -> list[dict[str, object]]:
    from gateway.identity.keyring import signing  # noqa: PLC0415  see above

    if folder.mark() is None:
        misuse("there are no keys yet", help="the gateway makes one when it starts; so does `bailiwick keys rotate`")
    index = folder.read()
    current = signing(index, now)
    return [_row(entry, current, folder, now) for entry in index]


def _row(entry: Entry, current: Entry | None, folder: KeyFolder, now: int) -> dict[str, object]:
    if entry is current:
        state = "signs" if folder.holds(entry.kid) else "missing"
    elif entry.activates > now:
        state = "waits"
    else:
        state = "counts" if entry.counts(now) else "ended"
    return {
        "kid": entry.kid,
        "state": state,
        "created": entry.created,
        "activates": entry.activates,
        "retires": entry.retires,
        "private": folder.holds(entry.kid),
    }


def _configured(settings: Settings) -> list[dict[str, object]]:
    import os  # noqa: PLC0415  see above

    from gateway.identity.keyfiles import delegation_key, former_key  # noqa: PLC0415
    from gateway.identity.keys import es256_jwk  # noqa: PLC0415

    chosen = settings.delegation
    current = es256_jwk(delegation_key(settings.data, chosen.key, os.environ).public_key())["kid"]
    former = [es256_jwk(former_key(secret, os.environ))["kid"] for secret in chosen.former_keys]
    rows: list[dict[str, object]] = [{"kid": current, "state": "signs"}]
    return rows + [{"kid": kid, "state": "counts"} for kid in former]


def _times(row: Mapping[str, object]) -> str:
    said = []
    if row["state"] == "waits":
        said.append(f"signs from {_clock(row['activates'])}")
    elif "activates" in row:
        said.append(f"signed from {_clock(row['activates'])}" if row["state"] != "signs" else f"since {_clock(row['activates'])}")
    if row.get("retires") is not None:
        said.append(f"counts until {_clock(row['retires'])}")
    return ", ".join(said)


def _clock(seconds: object) -> str:
    from datetime import UTC, datetime  # noqa: PLC0415  see above

    return datetime.fromtimestamp(int(str(seconds)), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _now() -> int:
    import time  # noqa: PLC0415  see above

    return int(time.time())
