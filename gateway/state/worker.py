"""Blocking database work, off the event loop: few threads, a bounded queue, one transaction a piece of work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from gateway.model import Refused
from gateway.reasons import Code

MAX_WAITING = 1024
T = TypeVar("T")


class Worker:
    """Runs functions of a connection, each in a transaction of its own."""

    def __init__(self, engine: Engine, threads: int, most: int = MAX_WAITING) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="state")
        self._most = most
        self._waiting = 0
        self._closed = False

    async def run(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, once its transaction is committed.

        Refused(OVERLOADED) when too much work waits, INTERNAL_ERROR when the database fails; a `Refused` of the work itself
        rolls its transaction back.  A caller that is cancelled does not stop work that has begun.
        """
        if self._closed:
            raise Refused(Code.INTERNAL_ERROR, "the state store is closed")
        if self._waiting >= self._most:
            raise Refused(Code.OVERLOADED, "too much work waits for the state store")
        self._waiting += 1
        loop = asyncio.get_running_loop()
        future = self._threads.submit(self._transact, work)
        future.add_done_callback(lambda done: self._finished(loop, done))
        try:
            return await asyncio.wrap_future(future, loop=loop)
        except SQLAlchemyError as error:  # its text could show values of a row
            raise Refused(Code.INTERNAL_ERROR, f"the state store failed: {type(error).__name__}") from None

    async def begun(self, work: Callable[[Connection], T]) -> tuple[T, asyncio.Future[None]]:
        """What `work` returns, and what is done once its transaction is committed: its commit may be waited for beside others'.

        Raises as `run`; a commit that fails shows in the second.
        """
        loop = asyncio.get_running_loop()
        told: asyncio.Future[T] = loop.create_future()

        def telling(connection: Connection) -> None:
            result = work(connection)
            loop.call_soon_threadsafe(lambda: None if told.done() else told.set_result(result))

        done = asyncio.ensure_future(self.run(telling))
        done.add_done_callback(lambda future: future.cancelled() or future.exception())  # whoever waits hears of it
        await asyncio.wait([told, done], return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]  # futures of two kinds
        if not told.done():
            await done
        return await told, done

    async def scrub(self, tables: Sequence[str]) -> None:
        """Have the database let go of the bytes of rows that were deleted from these tables: it keeps them for a while otherwise.

        `Refused(INTERNAL_ERROR)` where it cannot.
        """
        try:
            done = await asyncio.wrap_future(self._threads.submit(self._scrub, tables))
        except SQLAlchemyError as error:
            raise Refused(Code.INTERNAL_ERROR, f"the state store failed: {type(error).__name__}") from None
        if not done:
            raise Refused(Code.INTERNAL_ERROR, "somebody reads the state store: deleted rows are still in its write-ahead log")

    async def close(self) -> None:
        """Finish what waits, then let go of the database.  A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        self._engine.dispose()

    def _transact(self, work: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            return work(connection)

    def _scrub(self, tables: Sequence[str]) -> bool:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            raw = cast("Any", connection.connection.driver_connection)  # no transaction is begun around it
            if connection.dialect.name == "sqlite":
                return not raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            raw.execute("SET statement_timeout = 0")
            for table in tables:
                raw.execute(f"VACUUM (FULL) {table}")
            raw.execute("RESET statement_timeout")
            return True

    def _finished(self, loop: asyncio.AbstractEventLoop, _done: Future[T]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        self._waiting -= 1
