"""`bailiwick serve`: the gateway, until it is told to end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import uvicorn

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
    from gateway.problem import ProblemError  # noqa: PLC0415

    _log(as_json=log_json or as_json)
    settings = load(config, os.environ)
    app = App(settings, os.environ)

    server = _server(app, settings)
    try:
        server.run()
    except SystemExit:  # uvicorn's own way out where it cannot start, with codes of its own; why that is, is ours to tell
        app.raise_failure()
        raise ProblemError(_deaf(settings.server.host, settings.server.port)) from None
    app.raise_failure()
    if not server.started:
        sys.exit(1)


def _server(app: App, settings: Settings) -> uvicorn.Server:
    """uvicorn, with what it leaves to others: what the collector need not look at, and what SIGHUP means."""
    import asyncio  # noqa: PLC0415  the command line pays for what it uses
    import gc  # noqa: PLC0415
    import os  # noqa: PLC0415
    import signal  # noqa: PLC0415

    import uvicorn  # noqa: PLC0415

    terminal = os.isatty(0)

    class Server(uvicorn.Server):
        async def main_loop(self) -> None:
            """What start-up made stays until the end: the collector need not walk through ten thousand rules again and again."""
            gc.collect()
            gc.freeze()
            gc.set_threshold(10_000, 20, 50)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._news)
            await super().main_loop()

        def _news(self) -> None:
            """SIGHUP: read policy again; the end, where it means that the terminal is gone."""
            if terminal and not os.isatty(0):
                self.should_exit = True
            else:
                app.reload_policy()

    return Server(
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
