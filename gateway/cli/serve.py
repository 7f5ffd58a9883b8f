"""`bailiwick serve`: the gateway, until it is told to end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.app import App
    from gateway.problem import Problem
    from gateway.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("serve")(serve)


def serve(
    config: Annotated[Path, typer.Option("--config", help="The settings.")] = Path("bailiwick.yaml"),
    log_json: Annotated[bool, typer.Option("--log-json", help="Log one JSON object a line.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Problems as JSON on stdout; implies --log-json.")] = False,
) -> None:
    """Run the gateway.  Settings and policies are checked first; a mistake ends it before it listens.

    [bold]Example[/bold]   bailiwick serve --config bailiwick.yaml
    """
    import os  # noqa: PLC0415  the command line pays for what it uses
    import sys  # noqa: PLC0415

    from gateway.app import App  # noqa: PLC0415
    from gateway.configuration import load  # noqa: PLC0415
    from gateway.settings_changes import tell  # noqa: PLC0415

    _log(as_json=log_json or as_json)
    settings, place = load(config, os.environ), config.absolute()
    app = App(settings, os.environ)

    def settle() -> None:
        _settle(app, lambda: tell(place, os.environ, settings))

    started = (_lean if settings.server.http == "lean" else _uvicorn)(app, settings, settle)
    app.raise_failure()
    if not started:
        sys.exit(1)


def _lean(app: App, settings: Settings, settle: Callable[[], None]) -> bool:
    """Our own listener; whether the application started."""
    from gateway.listener.listener import DeafError, run  # noqa: PLC0415  the command line pays for what it uses
    from gateway.problem import ProblemError  # noqa: PLC0415

    server = settings.server
    try:
        return run(app, server.host, server.port, settled=settle)
    except DeafError:
        raise ProblemError(_deaf(server.host, server.port)) from None


def _uvicorn(app: App, settings: Settings, settle: Callable[[], None]) -> bool:
    """The same on uvicorn."""
    import uvicorn  # noqa: PLC0415  the command line pays for what it uses

    from gateway.problem import ProblemError  # noqa: PLC0415

    class Server(uvicorn.Server):
        async def main_loop(self) -> None:
            settle()
            await super().main_loop()

    server = Server(
        uvicorn.Config(
            app,
            host=settings.server.host,
            port=settings.server.port,
            http="httptools",
            lifespan="on",
            log_config=None,
            access_log=False,  # the ledger is the record of calls; a second one would hold what the first may not
            proxy_headers=False,  # who calls is never read from what a proxy claims
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=15,
            backlog=2048,
        )
    )
    try:
        server.run()
    except SystemExit:  # uvicorn's own way out where it cannot start, with codes of its own; why that is, is ours to tell
        app.raise_failure()
        raise ProblemError(_deaf(settings.server.host, settings.server.port)) from None
    return server.started


def _settle(app: App, tell: Callable[[], None]) -> None:
    """What start-up made stays until the end: the collector need not walk through ten thousand rules again and again.

    From here on SIGHUP means to read policy again, and to `tell` of settings that wait for a restart; or the end, where it means
    that the terminal is gone.
    """
    import asyncio  # noqa: PLC0415  the command line pays for what it uses
    import gc  # noqa: PLC0415
    import os  # noqa: PLC0415
    import signal  # noqa: PLC0415
    import sys  # noqa: PLC0415

    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    sys.set_asyncgen_hooks(firstiter=None)  # whoever iterates closes: the loop need not keep a list of every call's generators
    terminal, loop = os.isatty(0), asyncio.get_running_loop()

    def news() -> None:
        if terminal and not os.isatty(0):
            signal.raise_signal(signal.SIGTERM)
        else:
            app.reload_policy()
            loop.run_in_executor(None, tell)

    loop.add_signal_handler(signal.SIGHUP, news)


def _log(*, as_json: bool) -> None:
    import logging  # noqa: PLC0415  the command line pays for what it uses
    import sys  # noqa: PLC0415

    from gateway import logs  # noqa: PLC0415

    handler = logs.handler(sys.stderr, as_json=as_json)
    for name in ("gateway", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


def _deaf(host: str, port: int) -> Problem:
    from gateway.problem import Problem  # noqa: PLC0415

    text = f"the gateway cannot listen on {host}:{port}"
    return Problem("cannot-listen", text, "server", "the log says why; another program may have the port: choose another `port`")
