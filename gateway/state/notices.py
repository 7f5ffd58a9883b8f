"""One replica says that something may have changed, the others look at once: LISTEN and NOTIFY of the PostgreSQL that they share.

A notice carries nothing that is believed: whoever hears it reads for itself.  Without it, or while the database is away, whoever
polls finds the same a little later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger("gateway.state")

_CONNECT_SECONDS: Final = 5
_RETRY_SECONDS: Final = (0.2, 1.0, 5.0)


class Notices:
    """Hears and says on one channel, over connections of its own.

    `heard` is called on the event loop, once for each notice of another, and whenever listening begins (again).
    """

    def __init__(self, url: str, channel: str, me: str, heard: Callable[[], None]) -> None:
        """`url` as SQLAlchemy has it; `me` tells one's own notices apart.  Nothing is opened before `start`."""
        self._conninfo = "postgresql://" + url.partition("://")[2]
        self._channel = channel
        self._me = me
        self._heard = heard
        self._tasks: set[asyncio.Task[None]] = set()
        self.listening = asyncio.Event()

    @staticmethod
    def possible(url: str) -> bool:
        """Whether this state store can carry notices."""
        return url.startswith("postgresql+psycopg://")

    def start(self) -> None:
        """Begin to listen."""
        self._begin(self._listen())

    def say(self, _digest: str = "") -> None:
        """Tell the others; soon, and only if the database is there."""
        self._begin(self._tell())

    async def aclose(self) -> None:
        """End it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self) -> None:
        import psycopg  # noqa: PLC0415  an optional extra: only replicas that share PostgreSQL need it
        from psycopg import sql  # noqa: PLC0415  as above

        failures = 0
        while True:
            try:
                async with await self._connect() as connection:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
                    failures = 0
                    self.listening.set()
                    self._heard()  # what was said while nobody listened
                    async for notice in connection.notifies():
                        if notice.payload != self._me:
                            self._heard()
            except (psycopg.Error, OSError) as error:  # its text may name the server, never a password
                if not failures:
                    log.warning("%s: notices are not heard (%s); the poll goes on", self._channel, type(error).__name__)
            self.listening.clear()
            await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
            failures += 1

    async def _tell(self) -> None:
        import psycopg  # noqa: PLC0415  as above

        try:
            async with await self._connect() as connection:
                await connection.execute("SELECT pg_notify(%s, %s)", (self._channel, self._me))
        except (psycopg.Error, OSError) as error:
            log.warning("%s: other replicas are not told (%s); their poll finds it", self._channel, type(error).__name__)

    async def _connect(self) -> psycopg.AsyncConnection[tuple[object, ...]]:
        import psycopg  # noqa: PLC0415  as above

        return await psycopg.AsyncConnection.connect(
            self._conninfo,
            autocommit=True,
            connect_timeout=_CONNECT_SECONDS,
            keepalives_idle=30,
            application_name=self._channel.replace("_", " "),
        )
