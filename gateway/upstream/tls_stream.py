"""Bytes to a place that the settings name, over TLS, in a session of their own that is ended in order.

A protocol above that acknowledges nothing is acknowledged so: the other side answers our end of the session with its own, which
it can only after it has read everything before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Final

_CONNECT_SECONDS: Final = 10.0
_SECONDS: Final = 30.0
_END_SECONDS: Final = 10.0


class StreamError(Exception):
    """It cannot be connected, or broke: what was written may not have arrived."""


class TlsPlace:
    """Where to, and how it proves itself.

    lenient  a connection that is closed without TLS's own end counts as read to the end: it may not have been.
    """

    def __init__(self, host: str, port: int, context: ssl.SSLContext, *, lenient: bool = False) -> None:
        self._host, self._port = host, port
        self._context = context
        self._lenient = lenient

    async def deliver(self, data: bytes) -> None:
        """The other side has read all of it on return; `StreamError`."""
        try:
            await asyncio.to_thread(self._deliver, data)
        except OSError as error:  # ssl's are, and timeouts
            raise StreamError(f"{self._host}:{self._port}: {type(error).__name__}: {error}") from error

    def _deliver(self, data: bytes) -> None:
        plain = socket.create_connection((self._host, self._port), _CONNECT_SECONDS)
        with plain, self._context.wrap_socket(plain, server_hostname=self._host) as stream:
            stream.settimeout(_SECONDS)
            stream.sendall(data)
            stream.settimeout(_END_SECONDS)
            loosely = (ssl.SSLEOFError, ssl.SSLZeroReturnError) if self._lenient else ()
            with contextlib.suppress(*loosely):
                _end(stream)


def _end(stream: ssl.SSLSocket) -> None:
    try:
        stream.unwrap()
    except ssl.SSLError as error:
        if error.reason != "APPLICATION_DATA_AFTER_CLOSE_NOTIFY":  # it says something, as a greeting: nobody asked
            raise
    except OSError as error:
        if not error.errno:  # how some versions say the same
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "closed without an end of the session") from error
        raise
