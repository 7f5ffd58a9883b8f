"""`bailiwick sandbox runner`: runs code for a gateway elsewhere.  It reads no settings and no key of the gateway's."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import console, misuse, printable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sandbox.runner import Runner
    from sandbox.serving import Admit, Open, OwnKernel

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


def runner(  # noqa: PLR0917  the command line
    listen: Annotated[str, typer.Option("--listen", help="unix:/path, or tls:host:port.")],
    allow_uid: Annotated[
        list[int] | None, typer.Option("--allow-uid", help="unix: the gateway's user id; this process's own without it.")
    ] = None,
    allow_name: Annotated[
        list[str] | None, typer.Option("--allow-name", help="tls: a DNS name or URI that the gateway's certificate says.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option("--certificate", help="tls: the runner's own, PEM.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="tls: its key, PEM.")] = None,
    authority: Annotated[Path | None, typer.Option("--authority", help="tls: who signed the gateway's, PEM.")] = None,
    backend: Annotated[str | None, typer.Option("--backend", help="bwrap or landlock; without it, the first that works.")] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=64, help="Runs at once.")] = 4,
    warm: Annotated[int, typer.Option("--warm", min=0, max=16, help="Cages that wait for the next run.")] = 2,
    packages: Annotated[Path | None, typer.Option("--packages", help="Where sets of packages were built.")] = None,
    own_kernel: Annotated[
        bool, typer.Option("--own-kernel", help="This container has a kernel of its own (gVisor); found out as well.")
    ] = False,
) -> None:
    """Run code for a gateway elsewhere, until told to end.  Ends with 1 where nothing can be run.

    [bold]Example[/bold]   bailiwick sandbox runner --listen unix:/run/bailiwick/runner.sock --allow-uid 10001
    """
    if SERVICE_ACCOUNT.exists():
        misuse("this container holds a Kubernetes token", help="set automountServiceAccountToken: false: code runs here")
    open_, admit = _door(listen, allow_uid, allow_name, (certificate, key, authority))
    kernel = _kernel() if own_kernel else None
    choosing = _chosen(backend, concurrency, warm, packages)
    raise typer.Exit(asyncio.run(_serve(open_, admit, kernel, choosing, listen)))


def _door(
    listen: str, uids: list[int] | None, names: list[str] | None, files: tuple[Path | None, Path | None, Path | None]
) -> tuple[Open, Admit]:
    from sandbox.serving import by_name, by_uid, on_tls, on_unix, server_tls  # noqa: PLC0415

    scheme, _, rest = listen.partition(":")
    if scheme == "unix" and rest.startswith("/"):
        if names or any(files):
            misuse("a unix socket has no certificates", help="say by --allow-uid who may use it")
        allowed = frozenset(uids or [os.geteuid()])
        return on_unix(Path(rest), allowed), by_uid(allowed)
    host, _, port = rest.rpartition(":")
    if scheme != "tls" or not host or not port.isdecimal() or int(port) > 65535:
        misuse("--listen is unix:/path or tls:host:port")
    if uids or not names or not all(files):
        misuse("a port needs --certificate, --key, --authority and at least one --allow-name, and no --allow-uid")
    cert, key, authority = (file or Path() for file in files)
    try:
        context = server_tls(cert, key, authority)
    except OSError as error:  # ssl.SSLError is one
        missing = next((str(file) for file in (cert, key, authority) if not os.access(file, os.R_OK)), "")
        misuse(f"{missing} cannot be read" if missing else f"{cert}, {key} and {authority} cannot be used: {error}")
    return on_tls(host.strip("[]"), int(port), context), by_name(frozenset(names))


def _kernel() -> OwnKernel:
    from sandbox.ownkernel import evidence  # noqa: PLC0415
    from sandbox.serving import OwnKernel  # noqa: PLC0415

    found = evidence()
    if not found:
        misuse("this is no kernel of its own: gVisor does not answer", help="run the container with runtimeClassName: gvisor")
    return OwnKernel(found)


async def _serve(open_: Open, admit: Admit, kernel: OwnKernel | None, choosing: Awaitable[Runner], listen: str) -> int:
    """Until SIGTERM or SIGINT.  One line on stderr says what is proven; nothing else is written, of code not a word."""
    import signal  # noqa: PLC0415

    from sandbox.serving import Serving  # noqa: PLC0415

    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    chosen = await choosing
    serving = Serving(chosen, admit, kernel)
    try:
        report = await serving.report()
        if report.problem:
            console(stderr=True).print(printable(f"nothing can be run here: {report.problem}"), style="bold red")
            return 1
        server = await open_(serving)
        proven = ", ".join(f"{name} {strength.word}" for name, strength in report.guarantees.items() if strength)
        console(stderr=True).print(printable(f"{report.backend} serves: {proven}"), soft_wrap=True)
        await ended.wait()
        server.close()
    except OSError as error:
        console(stderr=True).print(printable(f"cannot listen on {listen}: {error.strerror or error}"), style="bold red")
        return 1
    finally:
        await serving.aclose()
    return 0


async def _chosen(backend: str | None, concurrency: int, warm: int, packages: Path | None) -> Runner:
    """The backend that was asked for, or the first that works here, else the last one, which says what is missing."""
    from sandbox.bwrap import BwrapRunner  # noqa: PLC0415
    from sandbox.landlock import LandlockRunner  # noqa: PLC0415

    known = {"bwrap": BwrapRunner, "landlock": LandlockRunner}
    if backend is not None and backend not in known:
        misuse(f"there is no backend '{backend}'", help=f"there are: {', '.join(known)}")
    made: list[Runner] = []
    for name, make in known.items():
        if backend in (None, name):
            made.append(make(concurrency=concurrency, warm=warm, packages=packages))
            if not (await made[-1].probe()).problem:
                break
    for other in made[:-1]:
        await other.aclose()
    return made[-1]
