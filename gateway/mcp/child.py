"""One child process that speaks MCP over its standard streams: bounded lines, ids of our own, and an end that always comes.

It is started without a shell, in a process group of its own, with an environment that holds nothing it was not given.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.mcp.errors import METHOD_NOT_FOUND
from gateway.mcp.methods import CANCELLED, PING
from gateway.mcp.strict import UnreadableError, dumps, loads_answer
from gateway.model import UpstreamError

log = logging.getLogger("gateway.mcp")

STOP_SECONDS = 2.0
_LAST_WORDS_SECONDS = 0.2
_INHERITED = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER")
_NOTICES = 256
_UNREAD_BYTES = 8 * 1024 * 1024
_ERROR_BYTES = 16 * 1024
_ERROR_LINE = 500


class _Pending:
    """A request that waits for its answer, and what was said on the way."""

    __slots__ = ("answer", "notices", "rpc_id", "token", "wake")

    def __init__(self, rpc_id: Any, token: Any) -> None:
        self.rpc_id = rpc_id
        self.token = token
        self.notices: deque[dict[str, Any]] = deque(maxlen=_NOTICES)
        self.answer: dict[str, Any] | None = None
        self.wake = asyncio.Event()


class Child:
    """A running server process, shared by the requests of one session alone."""

    def __init__(self, process: asyncio.subprocess.Process, silence: float, program: str = "") -> None:
        self._process = process
        self._program = program
        self._silence = silence
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._errors = b""
        self._tasks = (asyncio.create_task(self._read()), asyncio.create_task(self._drain()))
        self._stopping: asyncio.Task[None] | None = None
        self.last_used = asyncio.get_running_loop().time()

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: Mapping[str, str], folder: Path | None, *, silence: float, line_bytes: int
    ) -> Child:
        """Start the server; `UpstreamError("connect")` where that cannot be.

        silence     longest time in seconds without a word while a request waits.
        line_bytes  longest message that is read.
        """
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**inherited, **environment},
                cwd=folder,
                limit=line_bytes,
                start_new_session=True,
            )
        except OSError as error:
            raise UpstreamError("connect", type(error).__name__) from None
        return cls(process, silence, Path(command[0]).name)

    @property
    def alive(self) -> bool:
        """Whether requests can still be sent."""
        return self._stopping is None and self._process.returncode is None

    @property
    def busy(self) -> bool:
        """Whether a request waits for its answer."""
        return bool(self._pending)

    @property
    def pid(self) -> int:
        """Of the process, which leads its group."""
        return self._process.pid

    def last_words(self) -> str:
        """The end of what it wrote to standard error, for an operator."""
        return self._errors.decode("utf-8", "replace")

    async def request(self, message: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Send one request; its notifications as they come, then its answer, all with the ids of `message`.

        Leaving early tells the server that the request is cancelled.
        """
        number = next(self._numbers)
        params = message["params"]
        meta = dict(params.get("_meta", {}))
        pending = self._pending[number] = _Pending(message["id"], meta.get("progressToken"))
        if pending.token is not None:
            meta["progressToken"] = number
        try:
            self._write({**message, "id": number, "params": {**params, "_meta": meta}})
            while True:
                await self._woken(pending)
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

    def notify(self, message: dict[str, Any]) -> None:
        """Send one notification; a cancellation finds its request by the caller's id, or is dropped."""
        if message["method"] != CANCELLED:
            self._write(message)
            return
        wanted = message["params"].get("requestId")
        for number, pending in self._pending.items():
            if pending.rpc_id == wanted and pending.rpc_id.__class__ is wanted.__class__:
                self._write({**message, "params": {**message["params"], "requestId": number}})

    def stop(self) -> asyncio.Task[None]:
        """Begin to end it, once: close its input, then ask its group, then make it; the task ends when it is gone."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        return self._stopping

    async def _woken(self, pending: _Pending) -> None:
        try:
            async with asyncio.timeout(self._silence):
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
        if stdin is None or not self.alive or stdin.is_closing():
            raise UpstreamError("closed", "the server ended")
        if stdin.transport.get_write_buffer_size() > _UNREAD_BYTES:
            self.stop()
            raise UpstreamError("timeout", "the server does not read")
        stdin.write(dumps(message) + b"\n")  # JSON as it is written holds no line break

    async def _read(self) -> None:
        stdout = self._process.stdout
        if stdout is None:
            return
        try:
            while line := await stdout.readline():
                self._take(line)
        except (ValueError, UpstreamError):  # a line beyond its bound, or a server that does not read
            pass
        finally:
            for pending in self._pending.values():
                pending.wake.set()
            if self._stopping is None:  # nobody told it to end
                asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, self._report)
            self.stop()

    def _report(self) -> None:
        """What an operator needs to know: how it ended, and the last line that it said.  More of it may be nobody's business."""
        last = self.last_words().strip().rpartition("\n")[2][:_ERROR_LINE]
        log.warning("the server %s ended by itself (exit code %s): %s", self._program, self._process.returncode, last)

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
        number = message.get("id")
        pending = self._pending.get(number) if isinstance(number, int) and not isinstance(number, bool) else None
        if pending is not None:
            pending.answer = {**message, "id": pending.rpc_id}
            pending.wake.set()

    def _answer(self, message: dict[str, Any]) -> None:
        """A question of the server's: it is told that nobody has offered to answer."""
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        if message["method"] == PING:
            answer["result"] = {}
        else:
            answer["error"] = {"code": METHOD_NOT_FOUND, "message": "Method not found"}
        self._write(answer)

    def _notice(self, message: dict[str, Any]) -> None:
        params = message.get("params")
        token = params.get("progressToken") if isinstance(params, dict) else None
        pending = self._pending.get(token) if isinstance(token, int) and not isinstance(token, bool) else None
        if pending is not None and pending.token is not None and isinstance(params, dict):
            pending.notices.append({**message, "params": {**params, "progressToken": pending.token}})
            pending.wake.set()

    async def _drain(self) -> None:
        """Read standard error, or the server would block; keep its last lines."""
        stderr = self._process.stderr
        if stderr is None:
            return
        while chunk := await stderr.read(4096):
            self._errors = (self._errors + chunk)[-_ERROR_BYTES:]

    async def _stop(self) -> None:
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        for last in (None, signal.SIGTERM, signal.SIGKILL):
            if last is not None:
                self._signal(last)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
                    break
        self._signal(signal.SIGKILL)  # what it started and left behind
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.wait(self._tasks, timeout=STOP_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
