"""ASGI's lifespan: the application opens what it needs before the first request, and closes it after the last."""

from __future__ import annotations

import asyncio
import logging

from gateway.listener.exchange import Application, Message

log = logging.getLogger("gateway.listener")


class Lifespan:
    """`startup`, and once that has said yes, `shutdown`."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        self._heard: asyncio.Queue[str] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> bool:
        """Whether the application is ready; an error of its own is logged."""
        self._task = asyncio.create_task(self._run())
        return await self._ask("startup")

    async def shutdown(self) -> bool:
        """Whether the application closed in good order."""
        done = await self._ask("shutdown")
        if self._task is not None:
            await asyncio.wait({self._task})
        return done

    async def _run(self) -> None:
        await self._app({"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}, self._said.get, self._send)

    async def _send(self, message: Message) -> None:
        self._heard.put_nowait(message["type"])

    async def _ask(self, what: str) -> bool:
        if self._task is None:
            return False
        self._said.put_nowait({"type": f"lifespan.{what}"})
        answer = asyncio.create_task(self._heard.get())
        await asyncio.wait({self._task, answer}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result() == f"lifespan.{what}.complete"
        answer.cancel()
        if not self._task.cancelled() and (error := self._task.exception()) is not None:
            log.error("the application failed at %s", what, exc_info=error)
        return False
