"""The listener: sockets, the bound on connections, one timer for all of them, and an end in good order."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import resource
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from gateway.listener.connection import Connection, Patience
from gateway.listener.exchange import Application, Exchange
from gateway.listener.lifespan import Lifespan

log = logging.getLogger("gateway.listener")

MOST_CONNECTIONS: Final = 8192
LARGEST_BODY: Final = 256 * 1024 * 1024
_OTHER_FILES = 256  # what the gateway itself needs of the files that a process may open
_LAST_WORDS_SECONDS = 5.0


class DeafError(OSError):
    """The address cannot be listened on."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """most: connections at once.  largest: bytes of one body, whatever the application says.  grace: seconds to end in."""

    patience: Patience = field(default_factory=Patience)
    most: int = MOST_CONNECTIONS
    largest: int = LARGEST_BODY
    grace: float = 15.0
    backlog: int = 2048


class Listener:
    """Serves one application on one address: `open`, then `close`."""

    def __init__(self, app: Application, bounds: Bounds | None = None) -> None:
        bounds = bounds or Bounds()
        self.app = app
        self.patience = bounds.patience
        self.largest = bounds.largest
        self.loop = asyncio.get_running_loop()
        self.context = contextvars.copy_context()
        self.now = self.loop.time()
        self.winding_down = False
        self.connections: dict[Connection, None] = {}
        self.running: set[Exchange] = set()
        self._bounds = bounds
        self._most = min(bounds.most, max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES, 1))
        self._server: asyncio.Server | None = None
        self._quiet = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        patience = self.patience
        shortest = min(patience.head, patience.idle, patience.body, patience.unread, patience.linger)
        self._look_seconds = min(1.0, shortest / 4)

    async def open(self, host: str = "", port: int = 0, *, sock: socket.socket | None = None) -> tuple[str, int]:
        """Listen, on `sock` where it is given; says where.  `DeafError` where that cannot be."""
        try:
            if sock is not None:
                self._server = await self.loop.create_server(self._connection, sock=sock, backlog=self._bounds.backlog)
            else:
                self._server = await self.loop.create_server(
                    self._connection, host, port, backlog=self._bounds.backlog, reuse_address=True
                )
        except OSError as error:
            raise DeafError(*error.args) from None
        self._timer = self.loop.call_later(self._look_seconds, self._look)
        name = self._server.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def close(self, hurry: asyncio.Event | None = None) -> None:
        """Take nothing new, finish what was asked within the time of grace (or until `hurry`), then cut what is left."""
        self.winding_down = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.wind_down()
        self.left()
        waits = {asyncio.create_task(self._quiet.wait())}
        if hurry is not None:
            waits.add(asyncio.create_task(hurry.wait()))
        await asyncio.wait(waits, timeout=self._bounds.grace, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self.running:
            log.error("%d calls did not end in time and are cut", len(self.running))
            for exchange in self.running:
                exchange.cancel()
            await self._end_of(lambda: not self.running)
        for connection in list(self.connections):
            connection.give_up()
        await self._end_of(lambda: not self.connections)
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None:
            await self._server.wait_closed()

    def admit(self, connection: Connection) -> bool:
        """Room for one more: of too many, the oldest that is between two requests goes; where none is, the new one does."""
        if self.winding_down:
            return False
        if len(self.connections) >= self._most:
            idle = next((each for each in self.connections if each.idle), None)
            if idle is None:
                return False
            del self.connections[idle]
            idle.give_up()
        self.connections[connection] = None
        return True

    def left(self) -> None:
        """A connection or an exchange is over; the last one ends the waiting."""
        if self.winding_down and not self.connections and not self.running:
            self._quiet.set()

    def _connection(self) -> Connection:
        return Connection(self)

    async def _end_of(self, over: Callable[[], bool]) -> None:
        """What was told to end has a moment for its last words."""
        until = self.loop.time() + _LAST_WORDS_SECONDS
        while not over() and self.loop.time() < until:  # noqa: ASYNC110  an end that is due; an event for it would cost each call
            await asyncio.sleep(0.01)

    def _look(self) -> None:
        """The one timer: time passes, and whoever takes too long is noticed."""
        now = self.now = self.loop.time()
        for connection in list(self.connections):
            connection.look(now)
        self._timer = self.loop.call_later(self._look_seconds, self._look)


async def _serve(listener_of: Callable[[], Listener], host: str, port: int, told: _Told, settled: Callable[[], None]) -> bool:
    loop = asyncio.get_running_loop()
    for number in told.kinds:
        loop.add_signal_handler(number, told.tell, number)
    listener = listener_of()
    lifespan = Lifespan(listener.app)
    try:
        if not await lifespan.startup():
            return False
        try:
            address = await listener.open(host, port)
        except DeafError as error:
            log.error("%s", error)
            await lifespan.shutdown()
            raise
        settled()
        log.info("Bailiwick running on http://%s:%d (Press CTRL+C to quit)", _bracketed(host or address[0]), address[1])
        await told.once.wait()
        log.info("shutting down")
        await listener.close(told.twice)
        await lifespan.shutdown()
    finally:
        for number in told.kinds:
            loop.remove_signal_handler(number)
    return True


class _Told:
    """The signals that say to end: the first in good order, the second at once."""

    kinds = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.once = asyncio.Event()
        self.twice = asyncio.Event()
        self.numbers: list[signal.Signals] = []

    def tell(self, number: signal.Signals) -> None:
        (self.twice if self.once.is_set() else self.once).set()
        self.numbers.append(number)


def run(
    app: Application, host: str, port: int, *, bounds: Bounds | None = None, settled: Callable[[], None] = lambda: None
) -> bool:
    """Serve until a signal says to end; False where the application does not start.  `settled` is called once it has."""
    told = _Told()
    try:
        import uvloop  # noqa: PLC0415  it does not exist everywhere
    except ImportError:  # pragma: no cover
        factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        done = runner.run(_serve(lambda: Listener(app, bounds), host, port, told, settled))
    for number in reversed(told.numbers):
        signal.raise_signal(number)  # whoever sent it sees that it was heeded
    return done


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
