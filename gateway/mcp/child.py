"""One program that speaks MCP over its standard streams: bounded lines, ids of our own, and an end that always comes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from gateway.mcp.errors import METHOD_NOT_FOUND
from gateway.mcp.methods import CANCELLED, PING, SUBSCRIPTION_KEY
from gateway.mcp.process import STOP_SECONDS, Started
from gateway.mcp.strict import UnreadableError, dumps, loads_answer
from gateway.model import UpstreamError

log = logging.getLogger("gateway.mcp")

_LAST_WORDS_SECONDS = 0.2
_PIECE = 1 << 16
_NOTICES = 256
_QUESTIONS = 64
_UNREAD_BYTES = 8 * 1024 * 1024
_ERROR_BYTES = 16 * 1024
_ERROR_LINE = 500
_ERROR_LINES, _ERROR_SECONDS = 20, 10.0


class Pending:
    """A request that waits for its answer, and what was said on the way."""

    __slots__ = ("answer", "notices", "rpc_id", "token", "wake", "whose")

    def __init__(self, rpc_id: Any, token: Any, whose: str) -> None:
        self.rpc_id = rpc_id
        self.token = token
        self.whose = whose
        self.notices: deque[dict[str, Any]] = deque(maxlen=_NOTICES)
        self.answer: dict[str, Any] | None = None
        self.wake = asyncio.Event()

    def say(self, message: dict[str, Any]) -> None:
        """One more for whoever waits; of very many the oldest goes."""
        self.notices.append(message)
        self.wake.set()


def _nobody() -> None:
    """Nobody wants to know."""


def _no_one(_: dict[str, Any]) -> bool:
    """Nobody takes it."""
    return False


class Child:
    """A running server.  Requests of several sessions, whose ids may be the same, do not meet in it.

    name        of the server, for the log.
    silence     longest time in seconds without a word while a request waits.
    line_bytes  longest message that is read.
    """

    def __init__(self, process: Started, name: str, *, silence: float, line_bytes: int) -> None:
        self._process = process
        self._name = name
        self._silence = silence
        self._line_bytes = line_bytes
        self._numbers = itertools.count(1)
        self._pending: dict[int, Pending] = {}
        self._errors = b""
        self._tasks = (asyncio.create_task(self._read()), asyncio.create_task(self._drain()))
        self._stopping: asyncio.Task[None] | None = None
        self.last_used = asyncio.get_running_loop().time()
        self._asked: set[tuple[type, str | int]] = set()  # ids of the server's questions that wait for an answer
        self.ended_by_itself: Callable[[], None] = _nobody
        self.stray: Callable[[dict[str, Any]], bool] = _no_one  # takes what belongs to no request: a notice, or a question

    @property
    def pid(self) -> int:
        """Of the process that was started for it: what it is and what it started lies beneath."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether requests can still be sent."""
        return self._stopping is None and not self._process.ended

    @property
    def busy(self) -> bool:
        """Whether a request waits for its answer."""
        return bool(self._pending)

    def last_words(self) -> str:
        """The end of what it wrote to standard error, for an operator."""
        return self._errors.decode("utf-8", "replace")

    async def request(
        self, message: dict[str, Any], *, whose: str = "", patience: float | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Send one request; its notifications as they come, then its answer, all with the ids of `message`.

        `whose` session it is of; `patience`: seconds that it may be silent, where that is not the child's.
        Leaving early tells the server that the request is cancelled.
        """
        number = next(self._numbers)
        params = message["params"]
        meta = dict(params.get("_meta", {}))
        pending = self._pending[number] = Pending(message["id"], meta.get("progressToken"), whose)
        if pending.token is not None:
            meta["progressToken"] = number
        try:
            self._write({**message, "id": number, "params": {**params, "_meta": meta}})
            while True:
                await self._woken(pending, self._silence if patience is None else patience)
                while pending.notices:
                    yield pending.notices.popleft()
                if pending.answer is not None:
                    yield pending.answer
                    return
        finally:
            del self._pending[number]
            self.last_used = asyncio.get_running_loop().time()
            if pending.answer is None and self.alive:
                self._tell_cancelled(number)

    def notify(self, message: dict[str, Any], *, whose: str = "") -> None:
        """Send one notification; a cancellation finds its request by the caller's id, among its session's, or is dropped."""
        if message["method"] != CANCELLED:
            self._write(message)
            return
        wanted = message["params"].get("requestId")
        for number, pending in self._pending.items():
            if pending.whose == whose and pending.rpc_id == wanted and pending.rpc_id.__class__ is wanted.__class__:
                self._write({**message, "params": {**message["params"], "requestId": number}})

    def answer(self, message: dict[str, Any]) -> None:
        """The answer to a question of the server's; one that it did not ask, or that was answered, goes no further."""
        rpc_id = message["id"]
        if (type(rpc_id), rpc_id) in self._asked:
            self._asked.remove((type(rpc_id), rpc_id))
            self._write(message)

    def waiting(self, whose: str | None = None) -> list[Pending]:
        """Requests that wait, of this session or of all, the newest last."""
        return [pending for pending in self._pending.values() if whose is None or pending.whose == whose]

    def stop(self) -> asyncio.Task[None]:
        """Begin to end it, once; the task ends when it is gone."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        return self._stopping

    async def _woken(self, pending: Pending, patience: float) -> None:
        try:
            async with asyncio.timeout(None if patience == math.inf else patience):
                await pending.wake.wait()
        except TimeoutError:
            raise UpstreamError("timeout", "the server is silent") from None
        pending.wake.clear()
        if pending.answer is None and not pending.notices:
            raise UpstreamError("closed", "the server ended")

    def _tell_cancelled(self, number: int) -> None:
        with contextlib.suppress(UpstreamError):
            self._write({"jsonrpc": "2.0", "method": CANCELLED, "params": {"requestId": number, "reason": "cancelled"}})

    def _write(self, message: dict[str, Any]) -> None:
        stdin = self._process.stdin
        if not self.alive or stdin.is_closing():
            raise UpstreamError("closed", "the server ended")
        if stdin.transport.get_write_buffer_size() > _UNREAD_BYTES:
            self.stop()
            raise UpstreamError("timeout", "the server does not read")
        stdin.write(dumps(message) + b"\n")  # JSON as it is written holds no line break

    async def _read(self) -> None:
        try:
            async for line in _lines(self._process.stdout, self._line_bytes):
                self._take(line)
        except (ValueError, UpstreamError, ConnectionError):  # a line beyond its bound, or a server that does not read
            pass
        finally:
            for pending in self._pending.values():
                pending.wake.set()
            if self._stopping is None:  # nobody told it to end
                asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, self._report)
                self.ended_by_itself()
            self.stop()

    def _report(self) -> None:
        """What an operator needs to know: how it ended, and the last line that it said."""
        last = self.last_words().strip().rpartition("\n")[2]
        log.warning("the server %s ended by itself (%s): %s", self._name, self._process.ended, _shown(last))

    def _take(self, line: bytes) -> None:
        """One line; what is no message (servers print to standard output by mistake) is none."""
        try:
            message = loads_answer(line)
        except UnreadableError:
            return
        if not isinstance(message, dict):
            return
        if "method" in message:
            if "id" in message:
                self._answer(message)
            else:
                self._notice(message)
            return
        pending = self._waiting(message.get("id"))
        if pending is not None:
            pending.answer = {**message, "id": pending.rpc_id}
            pending.wake.set()

    def _answer(self, message: dict[str, Any]) -> None:
        """A question of the server's, for whoever offered to answer; where nobody did it is told so."""
        rpc_id = message["id"]
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": rpc_id}
        if message["method"] == PING:
            answer["result"] = {}
        elif self._is_new(rpc_id) and self.stray(message):
            self._asked.add((type(rpc_id), rpc_id))
            return
        else:
            answer["error"] = {"code": METHOD_NOT_FOUND, "message": "Method not found"}
        self._write(answer)

    def _is_new(self, rpc_id: object) -> bool:
        named = isinstance(rpc_id, str | int) and not isinstance(rpc_id, bool)
        return named and len(self._asked) < _QUESTIONS and (type(rpc_id), rpc_id) not in self._asked

    def _notice(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if not isinstance(params, dict):
            return
        pending = self._waiting(params.get("progressToken"))
        if pending is not None and pending.token is not None:
            pending.say({**message, "params": {**params, "progressToken": pending.token}})
            return
        meta = params.get("_meta")
        number = meta.get(SUBSCRIPTION_KEY) if isinstance(meta, dict) else None
        pending = self._waiting(number)
        if pending is not None and isinstance(meta, dict):
            pending.say({**message, "params": {**params, "_meta": {**meta, SUBSCRIPTION_KEY: pending.rpc_id}}})
        elif number is None and "progressToken" not in params:
            self.stray(message)

    def _waiting(self, number: object) -> Pending | None:
        """The request with this number of ours; servers give back what they were given, so that another type is no number."""
        return self._pending.get(number) if isinstance(number, int) and not isinstance(number, bool) else None

    async def _drain(self) -> None:
        """Read standard error, or the server would block; keep its last lines, and log no more than so many in a while."""
        clock, until, logged, held_back, rest = asyncio.get_running_loop().time, 0.0, 0, 0, b""
        async for piece in self._process.stderr:
            self._errors = (self._errors + piece)[-_ERROR_BYTES:]
            *lines, rest = (rest + piece).split(b"\n")
            rest = rest[-_ERROR_BYTES:]
            for line in lines:
                if clock() >= until:
                    if held_back:
                        log.info("%s: %d more lines", self._name, held_back)
                    until, logged, held_back = clock() + _ERROR_SECONDS, 0, 0
                if logged < _ERROR_LINES:
                    log.info("%s: %s", self._name, _shown(line.decode("utf-8", "replace")))
                    logged += 1
                else:
                    held_back += 1

    async def _stop(self) -> None:
        await self._process.end()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
        with contextlib.suppress(TimeoutError):  # what nobody read keeps its pipe open
            async with asyncio.timeout(STOP_SECONDS):
                while await self._process.stdout.read(_PIECE):
                    pass


async def _lines(stream: asyncio.StreamReader, most: int) -> AsyncIterator[bytes]:
    """Lines, the last one also without its end; ValueError for one beyond `most` bytes, before it is whole."""
    held: list[bytes] = []
    size = 0
    while piece := await stream.read(_PIECE):
        *whole, rest = piece.split(b"\n")
        for line in whole:
            if size + len(line) > most:
                raise ValueError("a line is too long")
            yield b"".join((*held, line)) if held else line
            held, size = [], 0
        if rest:
            held.append(rest)
            size += len(rest)
            if size > most:
                raise ValueError("a line is too long")
    if held:
        yield b"".join(held)


def _shown(text: str) -> str:
    """Untrusted text in one line of a log, where it can do nothing."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[:_ERROR_LINE].rstrip())
