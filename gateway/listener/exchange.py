"""One request and its answer, as ASGI sees them: `receive` and `send`, and the task in which the application runs.

Nothing is made before it is needed: no event where the body is here, no write where the next message completes it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, Final, Protocol

from gateway.listener.answer import AnswerHead, FaultyAnswerError, answer_head, refusal
from gateway.listener.head import Head

Message = MutableMapping[str, Any]
Application = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Any]

log = logging.getLogger("gateway.listener")

HIGH_WATER: Final = 64 * 1024
WHOLE: Final = "bailiwick.whole"
"""Among the extensions of a scope: the body came with the head, and is here as `body`; the first `receive` has all of it, too."""
_COMING: Final[Mapping[str, object]] = MappingProxyType({})
_SCOPE: Final[dict[str, Any]] = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "",
    "scheme": "http",
    "path": "",
    "raw_path": b"",
    "query_string": b"",
    "root_path": "",
    "headers": (),
    "client": None,
    "server": None,
    "extensions": _COMING,
}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_FAILED: Final = refusal(500, "the gateway failed; its log says how")
_FAILED_HEAD: Final = _FAILED[: _FAILED.index(b"\r\n\r\n") + 4]
_OVER: Final = "http.disconnect"


class Winding(Protocol):
    """What has a word in whether a connection goes on."""

    @property
    def winding_down(self) -> bool:
        """Whether all of them are about to end."""


class Line(Protocol):
    """What an exchange needs of its connection."""

    transport: asyncio.Transport
    gate: asyncio.Event | None
    client: tuple[str, int] | None
    server: tuple[str, int] | None

    @property
    def house(self) -> Winding:
        """Its listener."""

    def taken(self) -> None:
        """The application took what there was of the body."""

    def finished(self, exchange: Exchange, *, keep: bool) -> None:
        """The answer is whole; the connection goes on or ends."""

    def broken(self, exchange: Exchange) -> None:
        """The answer was cut short."""

    def ended(self, exchange: Exchange) -> None:
        """The application returned."""


class Exchange:
    """more      whether bytes of the body are still to come from the client.
    held      bytes of the body that the application has not taken yet.
    waiting   whether the application waits for bytes of the body.
    gone      whether there is nobody left to answer.
    """

    __slots__ = (
        "_answer", "_begun", "_expects", "_fresh", "_left", "_line", "_parts", "_signal",
        "_task", "complete", "gone", "head", "held", "more", "waiting",
    )  # fmt: skip

    def __init__(self, line: Line, head: Head) -> None:
        self.head = head
        self.more = True
        self.held = 0
        self.waiting = False
        self.gone = False
        self.complete = False
        self._line = line
        self._parts: list[bytes] = []
        self._fresh = False
        self._expects = head.expects
        self._answer: AnswerHead | None = None
        self._begun = False
        self._left = 0
        self._signal: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    # what the connection does

    def start(self, app: Application, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        """Run the application, in a context that nothing of an earlier request has touched."""
        self._task = asyncio.Task(self._run(app), loop=loop, context=context)

    def put(self, data: bytes, *, more: bool) -> None:
        """Bytes of the body, and whether more are to come."""
        if data:
            self._parts.append(data)
            self.held += len(data)
        self.more = more
        self._fresh = self._fresh or bool(data) or not more
        if self._fresh and self._signal is not None:
            self._signal.set()

    def vanish(self) -> None:
        """The client is gone, or has been answered by somebody else."""
        self.gone = True
        if self._signal is not None:
            self._signal.set()

    def cancel(self) -> None:
        """Time is up: the application is told to end."""
        if self._task is not None:
            self._task.cancel()

    @property
    def begun(self) -> bool:
        """Whether bytes of the answer are on their way."""
        return self._begun

    # what the application does

    async def receive(self) -> Message:
        """The body as far as it is here, waiting where nothing is; then `http.disconnect` once nothing is left to answer."""
        while not self.gone and not self.complete:
            if self._fresh:
                self._fresh = False
                body = b"".join(self._parts)
                if body:
                    self._parts = []
                    self.held = 0
                    if self.more:
                        self._line.taken()
                return {"type": "http.request", "body": body, "more_body": self.more}
            if self._expects:
                self._expects = False
                if self.more and not self._begun:
                    self._line.transport.write(_CONTINUE)
            if self._signal is None:
                self._signal = asyncio.Event()
            self._signal.clear()
            self.waiting = self.more
            try:
                await self._signal.wait()
            finally:
                self.waiting = False
        return {"type": _OVER}

    async def send(self, message: Message) -> None:
        """The answer's head, then its body.  A client that is gone is answered in vain; one that does not read is waited for."""
        line = self._line
        if line.gate is not None and not self.gone:
            await line.gate.wait()
        if self.gone:
            return
        kind = message["type"]
        answer = self._answer
        if answer is None:
            if kind != "http.response.start":
                raise _unexpected(kind)
            head = self.head
            keep = head.keep and not self.more and not line.house.winding_down
            answer = self._answer = answer_head(message["status"], message.get("headers", ()), head.method, head.version, keep)
            self._left = answer.length or 0
            if answer.length is None and not answer.bodiless:  # a stream: its reader learns at once that it has begun
                self._begun = True
                line.transport.write(answer.raw)
        elif kind != "http.response.body" or self.complete:
            raise _unexpected(kind)
        else:
            self._body(answer, message.get("body", b""), final=not message.get("more_body", False))

    def _body(self, answer: AnswerHead, body: bytes, *, final: bool) -> None:
        if answer.bodiless:
            body = b""
        elif answer.length is not None:
            self._left -= len(body)
            if self._left < 0 or (final and self._left):
                self._left = -1  # for good: a part of it was never sent
                if self._begun:
                    self._line.broken(self)
                msg = "the answer's body is not as long as its Content-Length"
                raise FaultyAnswerError(msg)
        elif answer.chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"0\r\n\r\n" if final else b"")
        transport = self._line.transport
        if self._begun:
            if body:
                transport.write(body)
        else:
            self._begun = True
            if len(body) <= HIGH_WATER:
                transport.write(answer.raw + body)
            else:
                transport.write(answer.raw)
                transport.write(body)
        if final:
            self.complete = True
            if self._signal is not None:
                self._signal.set()
            self._line.finished(self, keep=answer.keep)

    # how it ends

    async def _run(self, app: Application) -> None:
        try:
            await app(self._scope(), self.receive, self.send)
        except Exception:  # the boundary: an application that fails costs its own answer, never the listener
            log.exception("the application failed")
        finally:
            if not self.complete and not self.gone:
                self._abandon()
            self._line.ended(self)

    def _abandon(self) -> None:
        """The application is over and its answer is not whole: say so where that is still possible, else cut it."""
        if self._begun:
            self._line.broken(self)
            return
        self._begun = self.complete = True
        self._line.transport.write(_FAILED_HEAD if self.head.method == "HEAD" else _FAILED)
        self._line.finished(self, keep=False)

    def _scope(self) -> MutableMapping[str, Any]:
        head, line = self.head, self._line
        scope = _SCOPE.copy()
        scope["http_version"] = head.version
        scope["method"] = head.method
        scope["path"] = head.path
        scope["raw_path"] = head.raw_path
        scope["query_string"] = head.query
        scope["headers"] = head
        scope["client"] = line.client
        scope["server"] = line.server
        if not self.more:
            scope["extensions"] = {WHOLE: {"body": b"".join(self._parts)}}
        return scope


def _unexpected(kind: str) -> FaultyAnswerError:
    return FaultyAnswerError(f"{kind} is not what comes next")
