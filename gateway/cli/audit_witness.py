"""`bailiwick audit witness`: a small witness, to run where the log's operator has no hands."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import console, misuse, printable

if TYPE_CHECKING:
    from audit.checkpoint import Vkey

KEY_FILE = "witness-key.pem"
SEEN_FILE = "seen.json"


def witness(
    log: Annotated[list[str], typer.Option("--log", help="A log to witness, ORIGIN=VERIFIER KEY; may be repeated.")],
    listen: Annotated[str, typer.Option("--listen", help="HOST:PORT")] = "127.0.0.1:8081",
    name: Annotated[
        str, typer.Option("--name", help="The witness's name: a schema-less URL of yours.")
    ] = "bailiwick.invalid/witness",
    data: Annotated[Path, typer.Option("--data", help="Folder of its key and its memory.")] = Path("witness"),
    new: Annotated[bool, typer.Option("--new", help="Make key and memory; refused where there is a memory.")] = False,
) -> None:
    """Cosign the checkpoints of logs as long as each continues the one before (c2sp.org/tlog-witness).

    It serves until it is told to end.  Run it on another machine, under somebody else's account than the log's.

    [bold]Example[/bold]   bailiwick audit witness --new --name w.example/1 --log 'example.org/log=example.org/log+1a2b3c4d+AT…'
    """
    import time  # noqa: PLC0415  the command line pays for what it uses

    from audit.witness import Witness  # noqa: PLC0415
    from audit.witness_file import WitnessFile  # noqa: PLC0415
    from gateway import logs  # noqa: PLC0415
    from gateway.identity.keyfiles import create, generated_ed25519, ledger_key  # noqa: PLC0415
    from gateway.listener.listener import DeafError, run  # noqa: PLC0415
    from gateway.settings import Secret  # noqa: PLC0415
    from gateway.witness_door import WitnessDoor  # noqa: PLC0415

    host, port = _address(listen)
    known = _logs(log)
    handler = logs.handler(sys.stderr, as_json=False)
    logger = logging.getLogger("gateway")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    if new:
        _folder(data)
    try:
        if new:
            create(data / KEY_FILE, generated_ed25519())
        memory = WitnessFile.open(data / SEEN_FILE, new=new)
    except FileNotFoundError:
        misuse(
            f"{data} has no memory of a witness", help="--new makes one, once: a witness without its memory forgets what it saw"
        )
    except FileExistsError:
        misuse(f"{data} has the memory of a witness already", help="leave out --new")
    except BlockingIOError:
        misuse(f"another witness runs on {data}")
    except (OSError, ValueError) as error:
        misuse(f"the witness's memory cannot be used: {error}")
    try:
        made = Witness(name, ledger_key(data, Secret(file=data / KEY_FILE)), known, memory, lambda: int(time.time()))
        console().print(printable(f"witness {made.vkey}"), soft_wrap=True)
        sys.stdout.flush()
        started = run(WitnessDoor(made, known), host, port)
    except ValueError as error:
        misuse(f"{error}")
    except DeafError as error:
        misuse(f"cannot listen on {listen}: {error}")
    finally:
        memory.close()
    if not started:
        raise typer.Exit(1)


def _folder(place: Path) -> None:
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        misuse(f"--data {place}: {error.strerror}")


def _address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        misuse(f"--listen {listen}: not HOST:PORT")
    return host.strip("[]"), int(port)


def _logs(given: Sequence[str]) -> dict[str, Vkey]:
    from audit.checkpoint import CheckpointError, Vkey  # noqa: PLC0415

    found = {}
    for each in given:
        origin, _, key = each.partition("=")
        try:
            vkey = Vkey.parse(key)
        except CheckpointError as error:
            misuse(f"--log {each}: {error}", help="ORIGIN=KEY, the key as the log's gateway says it at its start")
        if vkey.name != origin or origin in found:
            misuse(f"--log {each}: the key is of {vkey.name}, or the log is named twice")
        found[origin] = vkey
    return found
