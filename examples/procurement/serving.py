"""How every part of this world is served: one ASGI app on one loopback socket, until SIGTERM or until its parent is gone."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading

import uvicorn
from starlette.types import ASGIApp


def listening_socket() -> socket.socket:
    """The socket that the command line names: `--port N` to bind here, or `--fd N`, bound by the parent and handed down."""
    parser = argparse.ArgumentParser()
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int, help="loopback port to listen on (0: any)")
    where.add_argument("--fd", type=int, help="a listening socket inherited from the parent process")
    chosen = parser.parse_args()
    if chosen.fd is None:
        return socket.create_server(("127.0.0.1", chosen.port))
    threading.Thread(target=_follow_parent, daemon=True).start()
    return socket.socket(fileno=chosen.fd)


def url_of(listening: socket.socket) -> str:
    """Base URL of a loopback socket, without a trailing slash."""
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def run(app: ASGIApp, listening: socket.socket) -> None:
    """Serve until SIGTERM; streams that are still open then have one second to end."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listening])


def _follow_parent() -> None:
    """The parent holds the other end of stdin: its end, however it came about, is ours too."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
